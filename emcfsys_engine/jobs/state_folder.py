"""The state folder of a user on a host: the queue's, and what the interface remembers."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path

from emcfsys_engine.errors import QueueError
from emcfsys_engine.files import file_system_of, is_network
from emcfsys_engine.text import for_shell

_OURS = ("queue.sqlite", "daemon.", "wake")


def state_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return where the queue lives: $EMCFSYS_HOME, else one folder a host in the state home."""
    if home := environment.get("EMCFSYS_HOME"):
        return Path(home).expanduser().absolute()
    base = environment.get("XDG_STATE_HOME")
    state = Path(base) if base and Path(base).is_absolute() else Path.home() / ".local/state"
    return state / "emcfsys" / (socket.gethostname() or "localhost")


def other_queues(own: Path) -> list[Path]:
    """Return the queue files of this user's other hosts, where homes are shared by several.

    `own`: this host's; one that EMCFSYS_HOME names stands alone.
    """
    if os.environ.get("EMCFSYS_HOME"):
        return []
    every = own.parent.parent.glob(f"*/{own.name}")
    return sorted(file for file in every if file != own)


def prepare(folder: Path) -> Path:
    """Make the state folder, or check that only we may look into it; return it.

    Raises: QueueError if it cannot be made, is another user's, or holds other things openly.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.stat()
        if status.st_uid != os.geteuid():
            raise QueueError(folder, "belongs to another user", "Set EMCFSYS_HOME to your own")
        if status.st_mode & 0o077:
            _make_private(folder)
    except OSError as error:
        what = f"cannot hold the queue: {error.strerror}"
        raise QueueError(folder, what, "Set EMCFSYS_HOME to a folder of your own") from None
    return folder


def network_type(folder: Path) -> str:
    """Return the type of the network file system the folder is on; empty on a local one."""
    kind = file_system_of(folder)
    return kind if is_network(kind) else ""


def _make_private(folder: Path) -> None:
    if all(file.name.startswith(_OURS) for file in folder.iterdir()):
        folder.chmod(0o700)
        return
    remedy = f"Run chmod 700 {for_shell(folder)}, or set EMCFSYS_HOME to a folder of its own"
    raise QueueError(folder, "may be read by other users", remedy)
