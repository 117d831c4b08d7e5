"""What the interface remembers between two starts: read before anything is drawn."""

import os
from pathlib import Path

import msgspec

from emcfsys_engine.errors import EmcfError
from emcfsys_engine.jobs.folder import prepare, state_folder

_NUM_RECENT = 20


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What the interface remembers between two starts."""

    recent: tuple[str, ...] = ()
    place: str = ""  # the project that was open last; empty: the list
    tab: str = "runs"
    theme: str = ""


def remembered() -> Memory:
    """Return what the last start left."""
    try:
        return msgspec.json.decode((state_folder() / "interface.json").read_bytes(), type=Memory)
    except (OSError, msgspec.MsgspecError):
        return Memory()


def remember(memory: Memory) -> None:
    """Keep this for the next start; a folder that cannot be written is done without."""
    try:
        file = prepare(state_folder()) / "interface.json"
        temporary = file.with_name(f".interface.{os.getpid()}.tmp")
        temporary.write_bytes(msgspec.json.encode(memory))
        temporary.replace(file)
    except (OSError, EmcfError):
        return


def with_recent(memory: Memory, folder: Path, tab: str) -> Memory:
    """Return the memory with this project as the newest."""
    others = [place for place in memory.recent if place != str(folder)]
    recent = (str(folder), *others)[:_NUM_RECENT]
    return msgspec.structs.replace(memory, recent=recent, place=str(folder), tab=tab)
