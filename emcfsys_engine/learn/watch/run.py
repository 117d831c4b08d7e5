"""A watch run: the model is loaded once, every image that arrives gets its mask, once."""

import contextlib
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from emcfsys_engine.errors import EmcfError, RunFailedError, RunFolderError, WatchedError
from emcfsys_engine.files import is_full, refuse_full
from emcfsys_engine.hotfolder.ledger import Entry, Ledger, digest_of, was_asked
from emcfsys_engine.hotfolder.notifier import Waker, choose_backend
from emcfsys_engine.hotfolder.scan import Rules, Scanner, Seen
from emcfsys_engine.hotfolder.status import best_model
from emcfsys_engine.learn.device import choose_threads, lost_gpu
from emcfsys_engine.learn.inference.predictor import Predictor
from emcfsys_engine.learn.run_context import Worker, give_back_freed_memory, say_ending
from emcfsys_engine.learn.watch.images import Desk, Handled, Task, sync
from emcfsys_engine.learn.watch.measurements import Measurements
from emcfsys_engine.project import Project
from emcfsys_engine.run.events import ImageDone, ImageFailed, RunStarted, WarningGiven, WatchState
from emcfsys_engine.run.folder import Run, WatchRequest
from emcfsys_engine.settings import load_config
from emcfsys_engine.user_commands import Hook

_TURN_S = 0.5  # between looks at a folder that the other will leave


def take_folder(worker: Worker, request: WatchRequest) -> Ledger | None:
    """Take the output folder; None if we were asked to end before it was free.

    A watch that lasts waits for a `--once` that is at work there: it ends by itself, and a job of
    the daemon that was refused would not come back.
    Raises: WatchedError if another watch that lasts has it; InputError if it cannot be used.
    """
    told = False
    while worker.asked() is None:
        try:
            return Ledger(Path(request.output), owner=str(worker.run.folder))
        except WatchedError as error:
            if request.once or not _ends_by_itself(error.run):
                raise
            if not told:
                print(f"{error.where} {error.what}: waits for its end", flush=True)
                told = True
        time.sleep(_TURN_S)
    return None


def _ends_by_itself(other: str) -> bool:
    """Tell whether a watch's run folder is that of a `--once`."""
    try:
        request = Run(Path(other)).record().request
    except (EmcfError, OSError):
        return False
    return isinstance(request, WatchRequest) and request.once


_SETTLE_S = {"events": 2.0, "polling": 30.0}
_SCAN_EVERY_S = {"events": 5.0, "polling": 5.0}
_BATCH = 64  # files looked at together
_COMMIT_EVERY_S = 0.3  # a burst is noted in the ledger in groups: a sync costs milliseconds
_FOLLOW_EVERY_S = 15.0
_LONGEST_OFFLINE_S = 60.0
_IDLE_S = 5.0  # without a new image, before others may have the memory of the last
_FULL_DISK_S = 2.0  # between looks at a full disk


def execute(worker: Worker) -> int:
    """Watch as run.json says, until somebody ends it; with `once`, until nothing is left."""
    request, project = worker.record.request, worker.record.project
    if not isinstance(request, WatchRequest) or project is None:
        raise RunFolderError(worker.run.record_file, "is no watch", "Watch anew")
    torch.set_num_threads(choose_threads(project.compute.threads))
    ledger = take_folder(worker, request)
    if ledger is None:
        return say_ending(worker, worker.asked() or "stopped", done=0, failed=0)
    try:
        watch = _Watch(worker, request, project, ledger)
        return watch.go_on()
    finally:
        ledger.close()


@dataclass(kw_only=True)
class _Counts:
    done: int = 0
    failed: int = 0
    latest: dict[str, Entry] = field(default_factory=dict)


class _Watch:
    """The loop: wait for hints, scan now and then, hand what is ready to the desk."""

    def __init__(
        self, worker: Worker, request: WatchRequest, project: Project, ledger: Ledger
    ) -> None:
        self.worker = worker
        self.request = request
        self.project = project
        self.ledger = ledger
        self.root = Path(request.watch)
        self.backend, why = choose_backend(self.root, project.hotfolder.backend)
        self.rules = _rules(project, request, self.backend)
        self.scanner = Scanner(self.rules, ledger.entries())
        self.waker = Waker(self.root)
        self.counts = _Counts()
        self.model = Path(request.model)
        self.predictor = self._load(self.model)
        self.hook = Hook(load_config().hooks.image_done)
        self.desk = Desk(project, self.predictor, self.root, Path(request.output))
        self.desk.know(self.scanner.known)
        self.measurements = Measurements(Path(request.output), self.scanner.known)
        self.blocked_until = 0.0  # by a full disk
        self.looked_for_model = time.monotonic()
        self.state = ""
        worker.say(
            RunStarted(
                run=worker.run.id,
                does="watch",
                project=project.name,
                classes=project.class_names,
                device=self.predictor.device.type,
            )
        )
        if lost := lost_gpu(self.predictor.device, project.compute.gpus, os.environ):
            worker.say(WarningGiven(message=lost))
        self.why = f"{self.root} ({why})"

    def go_on(self) -> int:
        """Watch until asked to end; return the exit code."""
        offline_s = 1.0
        next_scan = 0.0
        busy_at: float | None = time.monotonic()  # None: its memory is given back
        try:
            while (asked := self.worker.asked()) is None:
                if time.monotonic() >= next_scan:
                    self._scan()
                    offline_s = min(_LONGEST_OFFLINE_S, 2 * offline_s) if self._is_off() else 1.0
                    wait_s = offline_s if self._is_off() else self._interval_s()
                    next_scan = time.monotonic() + wait_s
                handled = self._handle_or_wait()
                self._follow()
                if handled:
                    busy_at = time.monotonic()
                    continue
                if busy_at is not None and time.monotonic() - busy_at > _IDLE_S:
                    give_back_freed_memory()
                    busy_at = None
                if self.request.once and not self._is_off() and not self.scanner.is_settling():
                    return self._end("done")
                wait_s = min(next_scan - time.monotonic(), self.scanner.next_in_s(3600.0))
                for path, closed in self.waker.wait(min(1.0, max(0.005, wait_s))):
                    self.scanner.hint(path, closed=closed)
            return self._end(asked)
        finally:
            self.waker.close()
            self.hook.close()

    def _end(self, reason: str) -> int:
        code = say_ending(
            self.worker,
            "stopped" if reason == "stop" else reason,
            done=self.counts.done,
            failed=self.counts.failed,
        )
        return 1 if code == 0 and self.request.once and self.counts.failed else code

    def _is_off(self) -> bool:
        return self.scanner.offline

    def _interval_s(self) -> float:
        base_s = self.project.hotfolder.poll_s or _SCAN_EVERY_S[self.backend]
        return self.scanner.interval_s(base_s)

    def _scan(self) -> None:
        has_events = self.backend == "events" and self.waker.look_after()
        if was_asked(self.rules.output):
            self.scanner.forget_failed()
        self.scanner.scan()
        state = "offline" if self._is_off() else "watching" if has_events else "polling"
        if state != self.state and self.state != "full":
            self.state = state
            self.worker.say(WatchState(state=state, detail=self.why))

    def _handle_or_wait(self) -> int:
        """Handle what is ready; while a disk is full, leave all of it for later.

        Raises: RunFailedError for a full disk when nobody waits: `once`.
        """
        if time.monotonic() < self.blocked_until:
            return 0
        try:
            refuse_full((self.rules.output, self.worker.run.folder))
            handled = self._handle_ready()
            if self.state == "full":
                self.state = ""  # the next scan says how it watches
                self._scan()
        except OSError as error:
            if not is_full(error):
                raise
            self._wait_for_space(error)
            return 0
        return handled

    def _wait_for_space(self, error: OSError) -> None:
        if self.request.once:
            raise RunFailedError(str(error))
        self.blocked_until = time.monotonic() + _FULL_DISK_S
        if self.state == "full":
            return
        self.state = "full"
        print(error, flush=True)
        with contextlib.suppress(OSError):  # the events may lie on the same disk
            self.worker.say(WatchState(state="full", detail=str(error)))

    def _handle_ready(self) -> int:
        ready = self.scanner.ready(_BATCH)
        decided = [self._decide(seen) for seen in ready]
        by_path = {seen.path: seen for seen in ready}
        tasks = [one for one in decided if isinstance(one, Task)]
        pending = [one for one in decided if isinstance(one, Handled)]
        committed_at = time.monotonic()
        for one in self.desk.handle(tasks, lambda: self.worker.asked() is None):
            pending.append(one)
            if time.monotonic() - committed_at > _COMMIT_EVERY_S:
                self._commit([(by_path[each.entry.path], each) for each in pending])
                pending, committed_at = [], time.monotonic()
        self._commit([(by_path[each.entry.path], each) for each in pending])
        return len(ready)

    def _decide(self, seen: Seen) -> Task | Handled:
        """Tell what a file needs: a mask, or only a note that it was touched."""
        before = self.scanner.known.get(seen.path)
        attempts = before.attempts + 1 if before is not None and before.state == "trying" else 1
        try:
            digest = digest_of(self.root / seen.path, seen.size)
        except OSError as error:
            return self.desk.unreadable(seen, attempts, error)
        version = before.version if before is not None else 1
        if before is not None and before.state in ("done", "skipped"):
            if before.digest == digest:
                return self.desk.unchanged(seen, before)
            if self.project.hotfolder.rewritten == "skip":
                return self.desk.skipped(seen, before, digest)
            version += self.project.hotfolder.rewritten == "version"
        return Task(seen=seen, digest=digest, version=version, attempts=attempts)

    def _commit(self, results: list[tuple[Seen, Handled]]) -> None:
        """Masks first, on the disk; then measurements; then the ledger; then the events."""
        if not results:
            return
        sync([mask for _, one in results for mask in one.written])
        kept = [(seen, one) for seen, one in results if not self._has_changed(seen, one)]
        lines = [line for _, one in kept for line in one.measured]
        self.measurements.append(lines)
        try:
            self.ledger.record([one.entry for _, one in kept])
        except OSError:
            if lines:
                self.measurements.take_back()
            raise
        for _, one in kept:
            self.scanner.done(one.entry)
        for seen, one in kept:
            self._say(seen, one)

    def _has_changed(self, seen: Seen, one: Handled) -> bool:
        """A file that was written to while it was read is not done: it settles again."""
        if one.entry.state not in ("done", "trying"):
            return False
        try:
            status = os.stat(self.root / seen.path)
        except OSError:
            return False
        changed = (status.st_size, status.st_mtime_ns) != seen.stamp
        if changed:
            self.scanner.hint(seen.path, closed=False)
        return changed

    def _say(self, seen: Seen, one: Handled) -> None:
        entry = one.entry
        if entry.state == "done" and one.prediction is not None:
            self.counts.done += 1
            lag_s = time.monotonic() - seen.since
            self.worker.say(
                ImageDone(
                    image=str(self.root / seen.path),
                    mask=str(one.mask),
                    seconds=one.seconds,
                    shares=one.prediction.shares,
                    confidence=one.prediction.confidence,
                    unlike=one.unlike,
                    model=entry.model,
                    lag_s=lag_s,
                )
            )
            self.hook.run(image=self.root / seen.path, mask=one.mask, unlike=one.unlike)
        elif entry.state in ("trying", "failed"):
            final = entry.state == "failed"
            self.counts.failed += final
            self.worker.say(
                ImageFailed(
                    image=str(self.root / seen.path),
                    reason=entry.reason,
                    attempt=entry.attempts,
                    final=final,
                )
            )

    def _follow(self) -> None:
        """Go on with a newer best model of the project, if the project says so."""
        now = time.monotonic()
        if not self.project.hotfolder.follow or now - self.looked_for_model < _FOLLOW_EVERY_S:
            return
        self.looked_for_model = now
        file = best_model(self.project)
        if file is None or file == self.model:
            return
        try:
            self.predictor = self._load(file)
        except EmcfError as error:
            self.worker.say(WarningGiven(message=f"The newer model cannot be used: {error}"))
            return
        self.model = file
        self.desk.use(self.predictor)
        self.worker.say(WatchState(state=self.state, detail=f"now with {file}"))

    def _load(self, file: Path) -> Predictor:
        settings = self.project.inference
        return Predictor(
            file,
            gpus=self.project.compute.gpus,
            overlap=settings.overlap,
            tta=settings.tta,
            tile_px=settings.tile_px,
            batch=settings.batch,
        )


def _rules(project: Project, request: WatchRequest, backend: str) -> Rules:
    settings = project.hotfolder
    settle_s = settings.settle_s if settings.settle_s is not None else _SETTLE_S[backend]
    return Rules(
        root=Path(request.watch),
        output=Path(request.output),
        settle_s=settle_s,
        closed_settle_s=0.0 if backend == "events" else settle_s,
        min_bytes=settings.min_bytes,
        ignore=settings.ignore,
        newest_first=settings.order == "newest",
    )
