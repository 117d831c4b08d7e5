"""What a damaged file makes a library stumble over becomes one line."""

import struct
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from emcfsys_engine.errors import ImageError

# What numbers out of range do to a reader; an ImageError passes through untouched.
_STUMBLES = (
    OSError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError, EOFError,
    struct.error, RuntimeError,
)  # fmt: skip


@contextmanager
def fenced(path: Path) -> Generator[None]:
    """Turn whatever a reader stumbles over into an ImageError of one line."""
    try:
        yield
    except PermissionError:
        raise ImageError(path, "may not be read", f"Try: chmod +r {path.name}") from None
    except MemoryError:
        remedy = "Use a machine with more memory"
        raise ImageError(path, "does not fit into memory", remedy) from None
    except _STUMBLES as error:
        words = " ".join(f"{type(error).__name__} {error}".split())[:100]
        what = f"is truncated or damaged ({words})"
        raise ImageError(path, what, "Copy or export it again") from None
