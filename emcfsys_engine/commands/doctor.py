"""What this machine is able to do, as lines with a remedy each; torch's part is learn.hardware."""

import os
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Literal

import psutil

from emcfsys_engine.errors import Diagnosis
from emcfsys_engine.files import file_system_of, is_network


def examine(project: str | None = None) -> list[Diagnosis]:
    """Look at Python, memory, processor, disks, state folder and terminal."""
    lines = [_python(), _package(), _memory(), _processor()]
    state = Path(os.environ.get("EMCFSYS_HOME") or Path.home())
    places = {"home": state, "project": Path(project) if project else Path.cwd()}
    for name, place in places.items():
        lines += [_disk(name, place), _file_system(name, place)]
    lines += [_shared_memory(), _terminal()]
    return lines


def _python() -> Diagnosis:
    version = sys.version.split()[0]
    return Diagnosis(what="Python", state="ok", found=f"{version} at {sys.executable}")


def _package() -> Diagnosis:
    try:
        found = metadata.version("emcfsys-tui")
    except metadata.PackageNotFoundError:
        remedy = "pip install . in the project's checkout"
        return Diagnosis(what="emcfsys-tui", state="warn", found="not installed", remedy=remedy)
    return Diagnosis(what="emcfsys-tui", state="ok", found=found)


def _memory() -> Diagnosis:
    memory = psutil.virtual_memory()
    text = f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free"
    if memory.available < 2 * 2**30:
        remedy = "End other programs, or train with a smaller batch"
        return Diagnosis(what="memory", state="warn", found=text, remedy=remedy)
    return Diagnosis(what="memory", state="ok", found=text)


def _processor() -> Diagnosis:
    cores = len(os.sched_getaffinity(0))
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    fast = [name for name in ("amx_bf16", "avx512_bf16") if name in flags]
    found = f"{cores} cores, bf16 by {', '.join(fast)}" if fast else f"{cores} cores, no fast bf16"
    return Diagnosis(what="processor", state="ok", found=found)


def _disk(name: str, place: Path) -> Diagnosis:
    free = shutil.disk_usage(_existing(place)).free / 2**30
    text = f"{free:.1f} GiB free at {place}"
    if free < 1:
        return Diagnosis(what=f"{name} disk", state="fail", found=text, remedy="Free some space")
    state: Literal["ok", "warn"] = "warn" if free < 10 else "ok"
    remedy = "Free some space soon" if state == "warn" else ""
    return Diagnosis(what=f"{name} disk", state=state, found=text, remedy=remedy)


def _file_system(name: str, place: Path) -> Diagnosis:
    kind = file_system_of(place)
    if is_network(kind) and name == "home":
        remedy = "Set EMCFSYS_HOME to a folder on a local disk: the queue is safer and faster there"
        return Diagnosis(what=f"{name} file system", state="warn", found=kind, remedy=remedy)
    if is_network(kind):
        remedy = "The hot folder polls here, as no events cross a network"
        return Diagnosis(what=f"{name} file system", state="warn", found=kind, remedy=remedy)
    if not os.access(_existing(place), os.W_OK):
        remedy = "Ask its owner for write permission"
        return Diagnosis(
            what=f"{name} file system", state="fail", found="not writable", remedy=remedy
        )
    return Diagnosis(what=f"{name} file system", state="ok", found=kind)


def _shared_memory() -> Diagnosis:
    place = Path("/dev/shm")
    if not place.exists():
        return Diagnosis(what="shared memory", state="ok", found="none needed")
    free = shutil.disk_usage(place).free / 2**30
    return Diagnosis(what="shared memory", state="ok", found=f"{free:.1f} GiB free")


def _terminal() -> Diagnosis:
    term = os.environ.get("TERM", "")
    colours = {"truecolor": "16 million", "24bit": "16 million"}.get(
        os.environ.get("COLORTERM", ""), "256" if "256" in term else "16"
    )
    if not sys.stdout.isatty():
        return Diagnosis(what="terminal", state="ok", found="none: commands print plain text")
    if term in ("", "dumb"):
        remedy = "Set TERM=xterm-256color for the interface"
        return Diagnosis(
            what="terminal", state="warn", found=f"TERM={term or 'unset'}", remedy=remedy
        )
    size = shutil.get_terminal_size()
    text = f"{term}, {colours} colours, {size.columns}×{size.lines}"
    if size.columns < 60 or size.lines < 16:
        return Diagnosis(
            what="terminal", state="warn", found=text, remedy="Make it 80×24 or larger"
        )
    return Diagnosis(what="terminal", state="ok", found=text)


def _existing(place: Path) -> Path:
    place = place.absolute()
    while not place.exists():
        place = place.parent
    return place
