"""What the interface remembers between two starts: where the person was, and which runs are pinned.

Both are small files in the state folder, written whole. What is damaged in them is done without.
"""

from collections.abc import Collection
from pathlib import Path

import msgspec

from emcfsys_engine import any_names
from emcfsys_engine.errors import EmcfError
from emcfsys_engine.files import write_whole
from emcfsys_engine.jobs.state_folder import prepare, state_folder

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
        found: Memory | None = any_names.read(state_folder() / "interface.json", Memory)
    except OSError:
        found = None
    return found or Memory()


def remember(memory: Memory) -> None:
    """Keep this for the next start; a folder that cannot be written is done without."""
    try:
        file = prepare(state_folder()) / "interface.json"
        write_whole(file, msgspec.json.encode(memory))
    except (OSError, EmcfError):
        return


def with_recent(memory: Memory, folder: Path, tab: str) -> Memory:
    """Return the memory with this project as the newest."""
    others = [place for place in memory.recent if place != str(folder)]
    recent = (str(folder), *others)[:_NUM_RECENT]
    return msgspec.structs.replace(memory, recent=recent, place=str(folder), tab=tab)


_NUM_PINNED = 200  # projects whose pins are kept
_Pins = dict[str, tuple[str, ...]]  # project folder: its pinned runs


def pinned_runs(folder: Path) -> tuple[frozenset[str], str]:
    """Return the runs of a project that are pinned, and what is wrong with the file of pins."""
    file = state_folder() / "pins.json"
    try:
        pins: _Pins | None = any_names.read(file, _Pins)
        is_damaged = pins is None and file.exists()
    except OSError as error:
        return frozenset(), f"{file}: {error.strerror}: no run is pinned"
    fault = f"{file}: is damaged: no run is pinned; the next pin writes it anew"
    return frozenset((pins or {}).get(str(folder), ())), fault if is_damaged else ""


def pin_runs(folder: Path, runs: Collection[str]) -> None:
    """Keep which runs of a project are pinned, and what is kept of the other projects.

    Raises: EmcfError or OSError where the state folder cannot be written.
    """
    file = prepare(state_folder()) / "pins.json"
    pins: _Pins = any_names.read(file, _Pins) or {}
    pins.pop(str(folder), None)
    kept = dict(list(pins.items())[-_NUM_PINNED:])
    if runs:
        kept[str(folder)] = tuple(sorted(runs))
    write_whole(file, any_names.encode(kept))
