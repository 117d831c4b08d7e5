"""The state folder: where queue, daemon lock and daemon log live, private to one user and host."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path

from emcfsys_engine.errors import QueueError

_OURS = ("queue.sqlite", "daemon.", "wake")
_NETWORK = (
    "nfs",
    "cifs",
    "smb",
    "sshfs",
    "lustre",
    "gpfs",
    "beegfs",
    "9p",
    "afs",
    "ceph",
    "gluster",
)


def state_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return where the queue lives: $EMCFSYS_HOME, else one folder a host in the state home."""
    if home := environment.get("EMCFSYS_HOME"):
        return Path(home).expanduser().absolute()
    base = environment.get("XDG_STATE_HOME")
    state = Path(base) if base and Path(base).is_absolute() else Path.home() / ".local/state"
    return state / "emcfsys" / (socket.gethostname() or "localhost")


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
    try:
        lines = Path("/proc/self/mountinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return ""
    place = os.fspath(folder.resolve())
    best, found = -1, ""
    for line in lines:
        before, _, after = line.partition(" - ")
        mount = before.split()[4].replace("\\040", " ")
        inside = place == mount or place.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= best:  # a later mount hides an earlier one
            best, found = len(mount), after.split()[0]
    return found if any(name in found for name in _NETWORK) else ""


def _make_private(folder: Path) -> None:
    if all(file.name.startswith(_OURS) for file in folder.iterdir()):
        folder.chmod(0o700)
        return
    remedy = f"Run chmod 700 {folder}, or set EMCFSYS_HOME to a folder of its own"
    raise QueueError(folder, "may be read by other users", remedy)
