"""Wakes the scan: file-system events where they exist, else only the clock."""

import logging
import os
import queue
from pathlib import Path

from watchdog.events import (
    FileClosedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from emcfsys_engine.files import file_system_of, is_network

_MOST_HINTS = 10_000  # more than that at a time: a whole scan is cheaper
logging.getLogger("watchdog").setLevel(logging.ERROR)


def choose_backend(root: Path, wanted: str) -> tuple[str, str]:
    """Return "events" or "polling", and the reason."""
    kind = file_system_of(root)
    if wanted != "auto":
        return wanted, f"hotfolder.backend, on {kind}"
    if is_network(kind):
        return "polling", f"no events cross {kind}"
    return "events", f"inotify on {kind}"


class Waker:
    """Hints of what changed below a folder; losing some does no harm, as scans find the rest."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._hints: queue.Queue[tuple[str, bool]] = queue.Queue(_MOST_HINTS)
        self._observer: BaseObserver | None = None
        self._identity: tuple[int, int] | None = None
        self.fault = ""  # why there are no events

    def ensure_watching(self) -> bool:
        """Start watching, or start anew when the folder was replaced; tell whether that works."""
        try:
            status = self._root.stat()
        except OSError:
            self.close()
            return False
        identity = (status.st_dev, status.st_ino)
        if self._observer is not None and identity == self._identity:
            return True
        self.close()
        observer: BaseObserver | None = None
        try:
            observer = Observer()  # it may take an inotify instance already
            observer.schedule(_Handler(self._root, self._hints), str(self._root), recursive=True)
            observer.start()
        except OSError as error:  # no inotify instance is left, or the folder vanished meanwhile
            self.fault = f"no events: {error.strerror or error}"
            if observer is not None:
                _end(observer)
            return False
        self.fault = ""
        self._observer, self._identity = observer, identity
        return True

    def wait(self, seconds: float) -> list[tuple[str, bool]]:
        """Return hints as (path below the root, closed); wait for the first at most so long."""
        hints: list[tuple[str, bool]] = []
        try:
            hints.append(self._hints.get(timeout=max(0.0, seconds)))
            while len(hints) < _MOST_HINTS:
                hints.append(self._hints.get_nowait())
        except queue.Empty:
            pass
        return hints

    def close(self) -> None:
        """Stop watching."""
        if self._observer is not None:
            _end(self._observer)
        self._observer = None


def _end(observer: BaseObserver) -> None:
    if observer.is_alive():
        observer.stop()
        observer.join(5)


class _Handler(FileSystemEventHandler):
    """Puts paths into a queue; a full queue drops them, and the next scan finds the files."""

    def __init__(self, root: Path, hints: "queue.Queue[tuple[str, bool]]") -> None:
        self._root = os.fsencode(root)
        self._hints = hints

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.is_directory or event.event_type not in ("created", "modified", "closed", "moved"):
            return
        is_move = isinstance(event, FileMovedEvent)
        path = os.fsencode(event.dest_path if is_move else event.src_path)
        if not path.startswith(self._root + b"/"):
            return
        closed = is_move or isinstance(event, FileClosedEvent)
        below = os.fsdecode(path[len(self._root) + 1 :])
        # A rename from outside gives "created" and no "closed": the structure decides there.
        if not self._hints.full():
            self._hints.put_nowait((below, closed or event.event_type == "created"))
