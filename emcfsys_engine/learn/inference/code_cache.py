"""Where torch keeps the code that it compiles: in the user's own folder, for it is run from there.

torch's own choice is a folder in /tmp with a name that anybody on the machine can take first.
"""

import contextlib
import os

from emcfsys_engine.settings import cache_home

_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def keep_compiled_code_private() -> None:
    """Choose the folder of compiled code, unless the user did; before torch is imported.

    Where it cannot be made, torch's choice stays.
    """
    if _VARIABLE in os.environ:
        return
    folder = cache_home() / "compiled"
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.environ[_VARIABLE] = str(folder)
