"""An exception of ours becomes a report in a file, and one line on the restored terminal."""

import platform
import time
import traceback
from pathlib import Path

from emcfsys_engine import __version__
from emcfsys_engine.errors import EmcfError
from emcfsys_engine.jobs.folder import prepare, state_folder


def save_report(error: BaseException, where: str = "") -> Path | None:
    """Write what happened into the state folder; None where nothing can be written."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    text = "\n".join(
        [
            f"EMCFsys {__version__}, Python {platform.python_version()}, {platform.platform()}",
            f"{stamp} {where}".rstrip(),
            "",
            "".join(traceback.format_exception(error)),
        ]
    )
    try:
        file = prepare(state_folder()) / f"crash-{stamp}.txt"
        file.write_text(text, "utf-8")
    except (OSError, EmcfError):
        return None
    return file
