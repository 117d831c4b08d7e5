"""The engine as the interface sees it: the runs of a project, followed; ended ones are remembered.

A run that ended is read once: its row is kept in the user's cache folder, by the sizes and times of
the files that it was told from, and told from them again as soon as one of these differs.
"""

import hashlib
import os
import time
from pathlib import Path
from typing import Any

import msgspec

from emcfsys_engine import any_names
from emcfsys_engine.errors import EmcfError
from emcfsys_engine.files import boot_id, write_whole
from emcfsys_engine.run.folder import Run, list_runs
from emcfsys_engine.settings import cache_home
from emcfsys_tui.engine.run_history import RunHistory
from emcfsys_tui.messages import RunsRead
from emcfsys_tui.view_models import RunDetail, RunRow

_FORMAT = 3  # 2: with the settings of each run; 3: only what is asked for is its score
_LONG_BYTES = 1 << 20
_BATCH_S = 0.2  # of reading, then what is known is told


class RunsReader:
    """Follows the runs of one project; called from one thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shown: frozenset[str] = frozenset()  # runs whose details are wanted
        self._histories: dict[str, RunHistory] = {}
        self._kept = KeptRows(folder)
        self._told: object = None

    def read(self) -> RunsRead | None:
        """Return the runs, newest first, with the details of those shown; None if unchanged.

        Reading stops after a moment: rows that are still to be read say so, and the next call goes
        on.
        """
        found = {run.id: run for run in list_runs(self.folder)}
        for gone in self._histories.keys() - found.keys():
            del self._histories[gone]
        shown, until = self.shown, time.monotonic() + _BATCH_S
        rows: list[RunRow] = []
        details: dict[str, RunDetail] = {}
        for name in sorted(found, key=lambda name: (name in shown, name), reverse=True):
            run = found[name]
            try:
                rows.append(self._row(run, is_shown=name in shown, until=until))
            except (EmcfError, OSError) as error:
                rows.append(
                    RunRow(id=name, folder=run.folder, does="", state="lost", reason=str(error))
                )
                continue
            if name in shown and name in self._histories:
                details[name] = self._histories[name].detail()
        rows.sort(key=lambda row: row.id, reverse=True)
        is_complete = all(row.state != "reading" for row in rows)
        if is_complete:
            self._kept.save()
        versions = [self._histories[row.id].version for row in rows if row.id in self._histories]
        is_gone = not (self.folder / "project.toml").is_file()
        states = [(row.id, row.state, row.reason, row.has_model) for row in rows]
        key = (shown, states, versions, is_gone)
        if key == self._told and is_complete:
            return None
        self._told = key
        return RunsRead(tuple(rows), details, is_complete=is_complete, is_gone=is_gone)

    def _row(self, run: Run, *, is_shown: bool, until: float) -> RunRow:
        """Return a run's row: from its files, or as it was kept while these are the same."""
        history = self._histories.get(run.id)
        if history is None and not is_shown:
            row = self._kept.get(run)
            if row is not None:
                return row
            is_first = self._told is None  # the list stands before long files are read
            if time.monotonic() > until or (is_first and _is_long(run)):
                return RunRow(id=run.id, folder=run.folder, does="", state="reading")
        if history is None:
            history = RunHistory(run)
            if is_shown or run.is_alive():
                self._histories[run.id] = history  # of the others the row is enough
        stamp = stamp_of(run)  # before it is read: what comes meanwhile is another stamp
        history.read_new()
        row = history.row()
        if row.state not in ("running", "new"):
            self._kept.put(row, stamp)
        return row


def _is_long(run: Run) -> bool:
    try:
        return run.events_file.stat().st_size > _LONG_BYTES
    except OSError:
        return False


def stamp_of(run: Run) -> str:
    """Return what differs as soon as anything that a run's row is told from differs."""
    parts = [boot_id()]
    for file in (run.events_file, run.record_file, run.exit_file, run.start_file, run.ask_file):
        try:
            found = os.stat(file)
            parts.append(f"{found.st_size}-{found.st_mtime_ns}")
        except OSError:
            parts.append("")
    return "|".join(parts)


class KeptRows:
    """Rows of ended runs, in the user's cache folder; without a file there are none."""

    def __init__(self, folder: Path) -> None:
        name = hashlib.blake2b(os.fsencode(folder.absolute()), digest_size=8).hexdigest()
        self._file = cache_home() / f"runs-{name}.json"
        self._rows = _load(self._file)  # by the run's name: stamp and row
        self._saved = dict(self._rows)

    def get(self, run: Run) -> RunRow | None:
        """Return a run's row as it was kept, if nothing of the run changed since."""
        kept = self._rows.get(run.id)
        if kept is None or kept[0] != stamp_of(run) or run.is_alive():
            return None
        raw = {**kept[1], "folder": str(run.folder), "has_model": run.best_model.exists()}
        try:
            return msgspec.convert(raw, RunRow, dec_hook=lambda kind, value: kind(value))
        except msgspec.ValidationError:
            return None  # of another version

    def put(self, row: RunRow, stamp: str) -> None:
        """Keep the row of a run that ended, as its files were at this stamp."""
        self._rows[row.id] = (stamp, msgspec.to_builtins(row, enc_hook=str))

    def save(self) -> None:
        """Write what is new; a folder that cannot be written is done without."""
        if self._rows == self._saved:
            return
        self._saved = dict(self._rows)
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._file, any_names.encode({"format": _FORMAT, "rows": self._rows}))
        except OSError:
            return


class _Kept(msgspec.Struct, frozen=True):
    format: int = 0
    rows: dict[str, tuple[str, dict[str, Any]]] = {}


def _load(file: Path) -> dict[str, tuple[str, dict[str, Any]]]:
    try:
        kept = any_names.read(file, _Kept)
    except OSError:
        return {}
    return dict(kept.rows) if kept is not None and kept.format == _FORMAT else {}
