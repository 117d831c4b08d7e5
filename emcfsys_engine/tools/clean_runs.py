"""Space taken back from ended runs: only what can be made again, and only when it is asked for."""

import fcntl
import math
import os
import re
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

import msgspec

from emcfsys_engine.errors import InputError, RunFolderError, printable
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.output_names import stem_of
from emcfsys_engine.images.own_files import lies_in
from emcfsys_engine.images.own_outputs import opened_book
from emcfsys_engine.run.events import ImageDone
from emcfsys_engine.run.folder import Run, State, is_run, list_runs
from emcfsys_engine.run.records import (
    ConvertRequest,
    MeasureRequest,
    PredictRequest,
    WatchRequest,
    is_of,
)
from emcfsys_engine.settings import nearest
from emcfsys_engine.text import how_many, size
from emcfsys_engine.tools.run_contents import PREVIEW, TEMPORARY, is_checkpoint

What = Literal["checkpoints", "previews", "temporary", "companions"]
EVERY: tuple[What, ...] = get_args(What)
DEFAULT: tuple[What, ...] = ("checkpoints", "previews", "temporary")

_DAY_S = 86_400.0
_COMPANION = re.compile(r"\.(?:overlay|uncertainty|prob-[^/]+)\.png$")
_LEFT_ALONE: dict[State, str] = {
    "running": "it is running",
    "new": "it has not started yet",
    "interrupted": "it can be resumed from its checkpoint",
    "lost": "it can be resumed from its checkpoint",
}


class CleanItem(msgspec.Struct, frozen=True, kw_only=True):
    """What one run would give back, or gave."""

    run: str
    state: State
    what: What
    files: tuple[str, ...]
    num_bytes: int


class LeftAlone(msgspec.Struct, frozen=True, kw_only=True):
    """A run or file that is not touched, and why."""

    name: str
    why: str


class Cleaning(msgspec.Struct, frozen=True, kw_only=True):
    """What a cleaning would remove, or removed."""

    removed: bool  # False: only looked
    items: tuple[CleanItem, ...]
    left: tuple[LeftAlone, ...]
    failed: tuple[LeftAlone, ...] = ()

    @property
    def num_bytes(self) -> int:
        """How much space it is about."""
        return sum(item.num_bytes for item in self.items)

    @property
    def text(self) -> str:
        """A line for each run and kind, and the sum."""
        lines = [
            f"{item.run:<12} {item.state:<11} {item.what:<12} "
            f"{how_many(len(item.files), 'file'):>13} {size(item.num_bytes):>9}"
            for item in self.items
        ]
        lines += [f"{one.name:<12} left alone: {one.why}" for one in self.left]
        lines += [f"{one.name}: could not be removed: {one.why}" for one in self.failed]
        total = size(self.num_bytes)
        if not self.items:
            lines.append("nothing to remove")
        elif self.removed:
            lines.append(f"removed {total}")
        else:
            lines.append(f"would remove {total}; nothing was touched. Give --yes to remove it")
        return "\n".join(printable(line) for line in lines)


def clean_runs(
    place: Path,
    *,
    what: Sequence[What] = DEFAULT,
    older_than_days: float | None = None,
    keep: int = 0,
    remove: bool = False,
    why_needed: Callable[[Run, Sequence[Path]], str] = lambda run, files: "",
) -> Cleaning:
    """Find, and with `remove` delete, what ended runs can do without.

    checkpoints: what a run would be resumed or extended from; previews: pictures of validations;
    temporary: what a killed worker left half-written; companions: overlays, probabilities and
    uncertainties beside masks. Models, masks, run.json, plan.json, events and logs are never
    touched, nor is any run that lives, waits, or can be resumed. A run must be older than the days
    given and not be among the `keep` newest.
    `why_needed`: says who needs a run, or one of its checkpoints, meanwhile; empty: nobody.
    Raises: InputError where there are no runs, or the days are no number.
    """
    if older_than_days is not None and not math.isfinite(older_than_days):
        raise InputError("--older-than", f"{older_than_days} is no number of days", "Use 30")
    runs = runs_in(place)
    newest = {run.folder for run in sorted(runs, key=_ended)[max(0, len(runs) - keep) :]}
    items: list[CleanItem] = []
    left: list[LeftAlone] = []
    failed: list[LeftAlone] = []
    for run in runs:
        why = _why_left(run, run.folder in newest, keep, older_than_days)
        why = why or why_needed(run, _checkpoints(run) if "checkpoints" in what else ())
        if why:
            left.append(LeftAlone(name=run.id, why=why))
            continue
        with _held(run) as is_ours:
            if not is_ours:
                left.append(LeftAlone(name=run.id, why=_LEFT_ALONE["running"]))
                continue
            for kind in dict.fromkeys(what):
                item = _item(run, kind, _remover(run, kind) if remove else _sized, failed)
                if item is not None:
                    items.append(item)
            if remove and "previews" in what:
                _drop_empty(run.previews_folder)
    return Cleaning(removed=remove, items=tuple(items), left=tuple(left), failed=tuple(failed))


def runs_in(place: Path) -> list[Run]:
    """Return the runs of a project, of a folder of predictions, or the one run of a run's folder.

    Raises: RunFolderError where there are none.
    """
    folder = place.parent if place.is_file() else place
    if is_run(folder):
        return [Run(folder)]
    found = list_runs(folder) + _below(folder / ".emcfsys")
    found = found or _below(folder)
    if not found:
        remedy = "Name a project, a folder of predictions, or a run's folder"
        raise RunFolderError(place, "holds no runs", remedy)
    return found


def parse_what(text: str) -> tuple[What, ...]:
    """Return the kinds of a list such as "checkpoints,previews".

    Raises: InputError for an unknown one, naming the nearest.
    """
    chosen: list[What] = []
    for word in (part.strip() for part in text.split(",")):
        if word not in EVERY:
            raise InputError("--what", f"{word!r} is unknown", nearest(word, EVERY))
        chosen.append(word)
    return tuple(chosen)


def _below(folder: Path) -> list[Run]:
    try:
        names = sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [Run(folder / name) for name in names if is_run(folder / name)]


def _why_left(run: Run, is_newest: bool, keep: int, older_than_days: float | None) -> str | None:
    try:
        record = run.record()
    except RunFolderError as fault:
        return fault.what
    home = run.folder.parent.parent
    if record.project and (home / "project.toml").is_file() and not is_of(record, home):
        return f"it is of the project {record.project.folder}"
    state = run.state()
    if state in _LEFT_ALONE:
        return _LEFT_ALONE[state]
    if is_newest:
        return f"it is one of the {keep} newest" if keep > 1 else "it is the newest"
    age_days = (time.time() - _ended(run)) / _DAY_S
    if older_than_days is not None and age_days < older_than_days:
        return f"it ended {age_days:.1f} days ago"
    return None


def _ended(run: Run) -> float:
    """Return when the run ended, as its own files say: a copy of a folder is not younger.

    Units:  seconds since 1970; 0 for a run whose record cannot be read.
    """
    try:
        created = run.record().created
    except RunFolderError:
        return 0.0
    exited = run.exit_record()
    if exited is not None and exited.ended:
        return max(created, exited.ended)
    try:
        return max(created, run.events_file.stat().st_mtime)
    except FileNotFoundError:
        return created


@contextmanager
def _held(run: Run) -> Generator[bool]:
    """Hold the run's lock, so that nobody resumes from a checkpoint that is being removed."""
    try:
        descriptor = os.open(run.lock_file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield True
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            is_ours = True
        except BlockingIOError:
            is_ours = False
        yield is_ours
    finally:
        os.close(descriptor)


def _item(
    run: Run, kind: What, act: Callable[[Path], int], failed: list[LeftAlone]
) -> CleanItem | None:
    files: list[str] = []
    total = 0
    for file in _FILES[kind](run):
        try:
            total += act(file)
            files.append(str(file))
        except FileNotFoundError:
            continue  # gone since we looked
        except OSError as error:
            failed.append(LeftAlone(name=str(file), why=error.strerror or str(error)))
    if not files:
        return None
    return CleanItem(run=run.id, state=run.state(), what=kind, files=tuple(files), num_bytes=total)


def _sized(file: Path) -> int:
    return file.lstat().st_size


def _remover(run: Run, kind: What) -> Callable[[Path], int]:
    """Return what removes a file and tells its size: what a person changed since stays."""
    book = _book_of(run) if kind == "companions" else None

    def removed(file: Path) -> int:
        size = file.lstat().st_size
        if book is None:
            file.unlink()
        elif not book.remove(file):
            raise FileNotFoundError(file)
        return size

    return removed


def _checkpoints(run: Run) -> list[Path]:
    return [file for file in _plain(run.folder) if is_checkpoint(file.name)]


def _previews(run: Run) -> Iterable[Path]:
    found = () if run.previews_folder.is_symlink() else _plain(run.previews_folder)
    return [file for file in found if PREVIEW.fullmatch(file.name)]


def _temporary(run: Run) -> Iterable[Path]:
    return [file for file in _plain(run.folder) if TEMPORARY.fullmatch(file.name)]


def _companions(run: Run) -> Iterable[Path]:
    """Return what lies beside the masks of this run, and only where the mask itself is there.

    One that a person changed since it was written is theirs.
    """
    found: list[Path] = []
    masks = dict.fromkeys(Path(e.mask) for e in run.events() if isinstance(e, ImageDone))
    stems: dict[Path, set[str]] = {}
    for mask in masks:
        if mask.exists():
            stems.setdefault(mask.parent, set()).add(stem_of(mask))
    book = _book_of(run)
    for folder, own in stems.items():
        for file in _plain(folder):
            ending = _COMPANION.search(file.name)
            if ending and file.name[: ending.start()] in own and _is_ours(file, book):
                found.append(file)
    return found


def _book_of(run: Run) -> OutputBook | None:
    request = run.record().request
    if isinstance(request, PredictRequest | MeasureRequest | ConvertRequest):
        return opened_book(Path(request.out))
    return OutputBook(Path(request.output)) if isinstance(request, WatchRequest) else None


def _is_ours(file: Path, book: OutputBook | None) -> bool:
    """Tell whether a file is as this program wrote it: its digest says so, and never a name alone.

    A run's events may name files anywhere: only those in its own output folder are its.
    """
    return book is not None and lies_in(file.parent, book.out) and book.has(file)


def _plain(folder: Path) -> list[Path]:
    """Return the regular files of a folder; links are not followed and not touched."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [folder / name for name in sorted(names)]


def _drop_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        return  # absent, or something of somebody else's is in it


_FILES: Mapping[What, Callable[[Run], Iterable[Path]]] = {
    "checkpoints": _checkpoints,
    "previews": _previews,
    "temporary": _temporary,
    "companions": _companions,
}
