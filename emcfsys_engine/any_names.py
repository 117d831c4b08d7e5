"""JSON for names of any bytes, and the one way to read back what we wrote.

What is no UTF-8 stands as lone surrogates, which msgspec refuses.
"""

import errno
import json
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from emcfsys_engine.files import read_own

# Not there, or not what we wrote: a link, a folder, a pipe, gigabytes.
_NO_FILE_OF_OURS = frozenset(
    (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.EPERM, errno.EFBIG)
)

_SMALL_BYTES = 1 << 12  # that are decoded line by line where one of them is damaged


def encode(value: Any, *, indent: int = 0, enc_hook: Callable[[Any], Any] | None = None) -> bytes:
    """Return a value as JSON; lone surrogates are escaped, and `decode` brings them back."""
    try:
        content = msgspec.json.encode(value, enc_hook=enc_hook)
    except UnicodeEncodeError:
        plain = msgspec.to_builtins(value, enc_hook=enc_hook)
        return json.dumps(plain, indent=indent or None).encode("ascii")
    return msgspec.json.format(content, indent=indent) if indent else content


def for_others(document: Any, *, indent: int | None = None) -> bytes:
    """Return JSON for other programs: in UTF-8, and escaped where that has no word for a name."""
    try:
        return json.dumps(document, indent=indent, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(document, indent=indent).encode("ascii")


def decode(content: bytes | str, kind: Any) -> Any:
    r"""Return what `encode` wrote: as msgspec does, names with \udcXX included.

    Raises: msgspec.MsgspecError, also for bytes that are no text or nested too deep.
    """
    if isinstance(content, str):
        content = content.encode("utf-8", "surrogateescape")
    try:
        return _decoder(kind).decode(content)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        if rb"\ud" not in content:
            raise msgspec.DecodeError(str(error)) from None
    try:
        return msgspec.convert(json.loads(content), kind)
    except (ValueError, RecursionError) as error:
        if isinstance(error, msgspec.MsgspecError):
            raise
        raise msgspec.DecodeError(str(error)) from None


def decode_lines(
    lines: bytes, kind: Any, damaged: Callable[[bytes], object] | None = None
) -> list[Any]:
    """Return what `encode` wrote, a line each; one that says something else goes to `damaged`."""
    with suppress(msgspec.MsgspecError, ValueError, RecursionError):
        return _decoder(kind).decode_lines(lines)
    middle = lines.find(b"\n", len(lines) // 2) + 1
    if len(lines) > _SMALL_BYTES and 0 < middle < len(lines):  # the rest of it is sound
        parts = (lines[:middle], lines[middle:])
        return [one for part in parts for one in decode_lines(part, kind, damaged)]
    found: list[Any] = []
    for line in lines.split(b"\n"):
        try:
            if line.strip():
                found.append(decode(line, kind))
        except msgspec.MsgspecError:
            if damaged is not None:
                damaged(line)
    return found


@lru_cache  # to make one of several structs takes eight times as long as a line of theirs
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def read(file: Path, kind: Any) -> Any:
    """Return what one of our own files says; None where there is none, or it is damaged.

    One bad byte is one bad file: whoever reads it goes on without it.
    Raises: OSError for a disk that does not answer: what cannot be read now is no reason to judge.
    """
    try:
        return decode(read_own(file)[0], kind)
    except msgspec.MsgspecError:
        return None
    except OSError as error:
        if error.errno in _NO_FILE_OF_OURS:
            return None
        raise
