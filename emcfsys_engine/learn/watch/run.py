"""A watch run: the model is loaded once, every image that arrives gets its mask, once."""

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from emcfsys_engine.errors import EmcfError, OutputError, RunFailedError, RunFolderError
from emcfsys_engine.files import is_full
from emcfsys_engine.hotfolder.journal import Act
from emcfsys_engine.hotfolder.ledger import Due, Ledger
from emcfsys_engine.hotfolder.notifier import Waker, choose_backend
from emcfsys_engine.hotfolder.places import refuse_places
from emcfsys_engine.hotfolder.recipe import recipe_to_follow
from emcfsys_engine.hotfolder.review import was_asked
from emcfsys_engine.hotfolder.scan import (
    MAX_ATTEMPTS,
    MAX_ATTEMPTS_ONCE,
    FoundFile,
    Scanner,
    rules_of,
    stamp_of,
)
from emcfsys_engine.images.outages import is_of_disk
from emcfsys_engine.images.own_files import digest_of, is_content
from emcfsys_engine.images.own_outputs import opened_book
from emcfsys_engine.learn.device import choose_threads, lost_gpu
from emcfsys_engine.learn.inference.expected import in_event
from emcfsys_engine.learn.run_context import RunContext, give_back_freed_memory
from emcfsys_engine.learn.watch.between_images import FollowedModel, GroupNews, LateSideCars
from emcfsys_engine.learn.watch.images import Handled, ImageStages, ImageToDo, sync
from emcfsys_engine.learn.watch.in_hand import InHand
from emcfsys_engine.learn.watch.measure_again import MeasuredAgain
from emcfsys_engine.learn.watch.measurements import Measurements
from emcfsys_engine.learn.watch.output_folder import OutputDisk, is_all_there, take_folder, why_of
from emcfsys_engine.learn.watch.several import num_processes
from emcfsys_engine.project import Project
from emcfsys_engine.run.events import (
    ImageDone,
    ImageFailed,
    RunStarted,
    WarningGiven,
    WatchState,
)
from emcfsys_engine.run.outcome import emit_ending
from emcfsys_engine.run.records import WatchRequest
from emcfsys_engine.settings import load_config
from emcfsys_engine.text import few, how_many
from emcfsys_engine.user_commands import Hook

_SCAN_EVERY_S = {"events": 5.0, "polling": 5.0}
_BATCH = 64  # files looked at together, for each process
_COMMIT_EVERY_S = 0.3  # a burst is noted in the ledger in groups: a sync costs milliseconds
_LONGEST_OFFLINE_S = 60.0
_IDLE_S = 5.0  # without a new image, before others may have the memory of the last
_BLOCKED_S = 2.0  # between looks at a disk that is full or gone
_CLOSER_S = 0.25  # of each turn without a new image, for known ones that may have been replaced
_PUT_OFF_S = 30.0  # before the next try where one image's place cannot be written


def execute(worker: RunContext) -> int:
    """Watch as run.json says, until somebody ends it; with `once`, until nothing is left."""
    request, project = worker.record.request, worker.record.project
    if not isinstance(request, WatchRequest) or project is None:
        raise RunFolderError(worker.run.record_file, "is no watch", "Watch anew")
    torch.set_num_threads(choose_threads(project.compute.threads))
    refuse_places(Path(request.watch), Path(request.output))
    ledger = take_folder(worker, request) if is_all_there(worker, request) else None
    if ledger is None:
        return emit_ending(worker.emit, worker.stop_request() or "stopped", done=0, failed=0)
    try:
        watch = _Watch(worker, request, project, ledger)
        return watch.go_on()
    finally:
        ledger.close()


@dataclass(kw_only=True)
class _Counts:
    done: int = 0
    failed: int = 0


class _Watch:
    """The loop: wait for hints, scan now and then, hand what is ready to the stages."""

    def __init__(
        self, worker: RunContext, request: WatchRequest, project: Project, ledger: Ledger
    ) -> None:
        self.worker = worker
        self.request = request
        self.project = project
        self.ledger = ledger
        self.root, self.output = Path(request.watch), Path(request.output)
        self.backend, self.why = choose_backend(self.root, project.hotfolder.backend)
        self.rules = rules_of(project, request, self.backend)
        self.scanner = Scanner(self.rules, ledger.entries())
        self.late = LateSideCars(self.root, ledger, self.scanner, self._tell_once)
        self.waker = Waker(self.root)
        self.counts = _Counts()
        self.in_hand = InHand(ledger.folder)
        self.model = FollowedModel(Path(request.model), worker, project)
        # Looked at after it was read: a training may have replaced its file just then.
        self.recipe = recipe_to_follow(request.recipe, project, Path(request.model))
        hooks = load_config().hooks
        self.hook = Hook(hooks.image_done, self.root, self.output)
        group_hook = Hook(hooks.group_judged, self.root, self.output)
        self.groups = GroupNews(ledger, group_hook, worker, self._tell_once)
        self.disk = OutputDisk(ledger, worker.run.folder.parent, worker.run.folder)
        self._open_outputs()
        self.blocked_until = 0.0  # by a disk that is full or gone
        self.is_blocked = self.is_judged = False  # judged: by the limits of today
        self.state = ""
        self.told_of: set[str] = set()  # images whose place cannot be written, kinds left out
        self.followed: dict[str, str] = {}  # corrected images -> the word they were measured by
        self.by_recipe: set[str] = set()  # images whose masks another recipe or scale made
        self._begin()

    def _open_outputs(self) -> None:
        self.book = opened_book(self.output)
        self.stages = ImageStages(self.project, self.model.by, self.root, self.book)
        self.stages.max_attempts = MAX_ATTEMPTS_ONCE if self.request.once else MAX_ATTEMPTS
        self.stages.know(self.scanner.known)
        has_versions = self.project.hotfolder.rewritten == "version"
        self.measurements = Measurements(self.output, self.scanner.known, keeps_older=has_versions)

    def _begin(self) -> None:
        self.worker.emit_when_possible(
            RunStarted(
                run=self.worker.run.id,
                does="watch",
                project=self.project.name,
                classes=self.project.class_names,
                device=self.model.by.device.type,
            )
        )
        gpus = self.project.compute.gpus
        if lost := lost_gpu(self.model.by.device, gpus, os.environ):
            self._warn(lost)
        of_files = self.ledger.told, *self.measurements.news(), self.in_hand.told
        for told in filter(None, (*of_files, self.model.cannot_tell())):
            self._warn(told)
        if due := self.ledger.due() if self.hook.is_wanted else []:
            images = how_many(len(due), "image")
            self._warn(f"{images} whose command was not run, or not to its end: it runs now")
        for one in due:
            self.hook.run(one)

    def _judge_anew(self) -> None:
        """Judge what is known by the limits of today, where they changed: nothing is predicted."""
        touched = self.ledger.follow(self.project, self.recipe)
        if touched.told:
            self._tell_once(touched.words)
        self.by_recipe = self.scanner.forget_masks(touched.predict)
        if self.by_recipe:
            self._scan()
        self._measured_again().run(self.root, touched.measure, self.worker)
        judged = self.ledger.judge_by(self.project.limits)
        self.is_judged = True
        if judged is not None and judged.number:
            self._tell_once(f"The limits changed: {judged.words}, by their numbers")

    def _measured_again(self) -> MeasuredAgain:
        by = self.model.by.card, self.project, self.book
        return MeasuredAgain(self.ledger, self.measurements, *by)

    def _follow_corrections(self) -> None:
        """Measure what people corrected; each word is followed once, or told why not."""
        every = self.ledger.corrected()
        if new := {path: word for path, word in every.items() if self.followed.get(path) != word}:
            self.followed |= new
            self._measured_again().follow(self.root, new, self.worker)

    def go_on(self) -> int:
        """Watch until asked to end; return the exit code."""
        offline_s = 1.0
        next_scan = 0.0
        busy_at: float | None = time.monotonic()  # None: its memory is given back
        ended_by_itself = False
        try:
            while (asked := self.worker.stop_request()) is None:
                if time.monotonic() >= next_scan:
                    self._scan()
                    is_off = self.scanner.offline
                    offline_s = min(_LONGEST_OFFLINE_S, 2 * offline_s) if is_off else 1.0
                    next_scan = time.monotonic() + (offline_s if is_off else self._interval_s())
                handled = self._handle_or_wait()
                if self.model.is_renewed():
                    self.stages.use(self.model.by)
                    renewed = f"now with {self.model.file}"
                    self.worker.emit_when_possible(WatchState(state=self.state, detail=renewed))
                if handled:
                    busy_at = time.monotonic()
                    continue
                if busy_at is not None and time.monotonic() - busy_at > _IDLE_S:
                    give_back_freed_memory()
                    busy_at = None
                if self._is_all_done():
                    ended_by_itself = True
                    break
                wait_s = min(next_scan - time.monotonic(), self.scanner.next_in_s(3600.0))
                for path, closed in self.waker.wait(min(1.0, max(0.005, wait_s))):
                    self.scanner.hint(path, closed=closed)
        finally:
            self.model.by.end()
            self.waker.close()
            self.hook.close(all_of_them=ended_by_itself)
            with contextlib.suppress(OSError, EmcfError):  # the next start does it
                self.ledger.has_run(self.hook.that_have_run())
                self.ledger.write_journal()
                if self.is_judged:
                    self.groups.tell(self.project, self.book)
            self.groups.close(all_of_them=ended_by_itself)
        return self._end(asked or "done")

    def _is_all_done(self) -> bool:
        """Tell whether a watch that is to end has nothing left that may become ready."""
        is_away = self.scanner.offline or self.is_blocked
        return self.request.once and not is_away and not self.scanner.is_settling()

    def _warn(self, what: str) -> None:
        self.worker.emit_when_possible(WarningGiven(message=what))

    def _end(self, reason: str) -> int:
        if self.request.once and (left := self.scanner.left()):
            files = how_many(len(left), "file still settles, or is", "files still settle, or are")
            self._warn(f"{files} too small to be an image: {few(left, 5)}")
        word, counts = "stopped" if reason == "stop" else reason, self.counts
        is_part = counts.failed or self.scanner.unseen
        code = emit_ending(self.worker.emit, word, done=counts.done, failed=counts.failed)
        return 1 if code == 0 and self.request.once and is_part else code

    def _interval_s(self) -> float:
        return self.scanner.interval_s(self.project.hotfolder.poll_s or _SCAN_EVERY_S[self.backend])

    def _scan(self) -> None:
        has_events = self.backend == "events" and self.waker.ensure_watching()
        self.scanner.scan()
        if kinds := ", ".join(sorted(self.scanner.left_out)):
            self._tell_once(f"{self.root}: kinds that are not read, left out: {kinds}")
        for place, why in sorted(self.scanner.unseen.items()):
            self._tell_once(f"{self.root / place}: cannot be looked into, and waits: {why}")
        state = "offline" if self.scanner.offline else "watching" if has_events else "polling"
        why = self.waker.fault if self.waker.fault and not has_events else self.why
        if state != self.state and not self.is_blocked:
            self.state = state
            if state == "polling":  # slower than events: say by how much
                latency = f"seen within {self._interval_s():g} s, taken when whole for"
                why = f"{why}: new files are {latency} {self.rules.settle_s:g} s"
            self.worker.emit_when_possible(WatchState(state=state, detail=f"{self.root} ({why})"))

    def _handle_or_wait(self) -> int:
        """Handle what is ready; while a disk is full or gone, leave all of it for later.

        Raises: RunFailedError for such a disk when nobody waits: `once`.
        """
        if time.monotonic() < self.blocked_until:
            return 0
        try:
            if self.is_blocked:
                self._come_back()
            self.disk.refuse()
            if was_asked(self.output):
                self.scanner.forget_failed()
                self._scan()
            if not self.is_judged:
                self._judge_anew()
            self._follow_corrections()
            handled = self._handle_ready()
            if not handled and (same := self.scanner.look_closer(_CLOSER_S, self._is_ended)):
                other = {o.path for o in same if not self.stages.are_masks_of(o.path, o.digest)}
                self.ledger.record([one for one in same if one.path not in other])
                if self.scanner.forget_masks(other):
                    self._scan()
            if not handled and (again := self.late.forget(_CLOSER_S)):
                self.by_recipe |= again
                self._scan()
            if not handled and time.monotonic() - self.groups.told_at > _IDLE_S:
                self.groups.tell(self.project, self.book)
            self.ledger.has_run(self.hook.that_have_run())
            self.ledger.write_journal()
            self.worker.emit_when_possible()
        except (OSError, OutputError) as error:
            if not is_of_disk(error):
                raise
            self._wait_for_disk(error)
            return 0
        return handled

    def _come_back(self) -> None:
        """See whether the disk is as it was; a ledger that was removed on it is written again.

        Raises: OSError while it is not.
        """
        if not self.ledger.is_in_place and self.disk.may_be_made_again():
            self.ledger.make_again(self.scanner.known, self.root)
            self.is_judged = False  # it may be yesterday's: by other limits, or without late words
            self.disk = OutputDisk(
                self.ledger, self.worker.run.folder.parent, self.worker.run.folder
            )
            if not self.book.file.exists():
                self.book.write_again()
            self._open_outputs()
        self.disk.refuse_unwritable()
        self.is_blocked = False
        self.state = ""  # the next scan says how it watches
        self._scan()

    def _wait_for_disk(self, error: OSError | OutputError) -> None:
        if self.request.once and (self.ledger.is_in_place or not self.disk.may_be_made_again()):
            raise RunFailedError(why_of(error, is_end=True))
        self.blocked_until = time.monotonic() + _BLOCKED_S
        state = "full" if is_full(error) else "waiting"
        if self.is_blocked and self.state == state:
            return
        self.is_blocked, self.state = True, state
        print(why_of(error), flush=True)
        self.worker.emit_when_possible(WatchState(state=state, detail=why_of(error)))

    def _handle_ready(self) -> int:
        ready = self.scanner.ready(_BATCH * num_processes(self.project.compute))
        with self.in_hand.some_of(ready) as some:
            self._handle(some)
        return len(ready)

    def _handle(self, ready: list[FoundFile]) -> None:
        decided = [self._decide(seen) for seen in ready]
        by_path = {seen.path: seen for seen in ready}
        tasks = [one for one in decided if isinstance(one, ImageToDo)]
        pending = [one for one in decided if isinstance(one, Handled)]
        committed_at = time.monotonic()
        for one in self.stages.handle(tasks, lambda: not self._is_ended()):
            if one.waits_for is not None:
                self._put_off(one.entry.path, one.waits_for)
                continue
            pending.append(one)
            if time.monotonic() - committed_at > _COMMIT_EVERY_S:
                self._commit([(by_path[each.entry.path], each) for each in pending])
                pending, committed_at = [], time.monotonic()
        self._commit([(by_path[each.entry.path], each) for each in pending])

    def _put_off(self, path: str, error: OutputError) -> None:
        """Leave an image for later, or all of them: only its place may be closed to us.

        Raises: the error, if it is the disk's.
        """
        try:
            self.disk.refuse_unwritable()
        except OSError:
            raise error from None
        if is_full(error):
            raise error
        self.counts.failed += self.request.once  # as its exit code says: the others come first
        self.scanner.put_off(path, None if self.request.once else _PUT_OFF_S)
        self._tell_once(f"{error} It is tried again later", path)

    def _tell_once(self, words: str, about: str = "") -> None:
        if (about or words) not in self.told_of:
            self.told_of.add(about or words)
            self._warn(words)

    def _is_ended(self) -> bool:
        return self.worker.stop_request() is not None

    def _decide(self, seen: FoundFile) -> ImageToDo | Handled | None:
        """Tell what a file needs: a mask, or only a note that it was touched; None at the end."""
        before = self.scanner.known.get(seen.path)
        attempts = before.attempts + 1 if before is not None and before.state == "trying" else 1
        if why := self.in_hand.blames(seen.path):
            return self.stages.unreadable(seen, self.stages.max_attempts, OSError(why))
        try:
            digest = digest_of(self.root / seen.path, seen.size, self._is_ended)
        except InterruptedError:
            return None
        except OSError as error:
            return self.stages.unreadable(seen, attempts, error)
        if why := self.stages.why_no_image(seen):
            return self.stages.own_output(seen, digest, why)
        version = before.version if before is not None else 1
        if before is not None and before.state in ("done", "skipped"):
            if is_content(before.digest, self.root / seen.path, digest):
                if before.state == "skipped" or self.stages.are_masks_of(seen.path, digest):
                    return self.stages.unchanged(seen, before, digest)
            elif self.project.hotfolder.rewritten == "skip":
                return self.stages.skipped(seen, before, digest)
            else:
                version += self.project.hotfolder.rewritten == "version"
        return ImageToDo(
            seen=seen,
            digest=digest,
            version=version,
            attempts=attempts,
            is_new=before is None or not before.mask,
            by_recipe=seen.path in self.by_recipe,
        )

    def _commit(self, results: list[tuple[FoundFile, Handled]]) -> None:
        """Masks first, on the disk; then measurements; then the ledger; then the events."""
        if not results:
            return
        sync([mask for _, one in results for mask in one.written])
        self.book.sync()
        kept = [(seen, one) for seen, one in results if not self._has_changed(seen, one)]
        lines = [line for _, one in kept for line in one.measured]
        self.measurements.append(lines)
        due = [self._due(one) for _, one in kept if one.tally is not None or one.adopted]
        try:
            self.ledger.record(
                [one.entry for _, one in kept],
                due if self.hook.is_wanted else (),
                [one.judged for _, one in kept if one.judged is not None],
                self._acts([one for _, one in kept]),
            )
        except (OSError, EmcfError):
            if lines:
                self.measurements.take_back()
            raise
        redone = [one for _, one in kept if one.placed and one.entry.path in self.scanner.known]
        retired = [words for one in redone if (words := self.stages.retire(one))]
        if redone and self.project.hotfolder.rewritten == "redo":
            self.measurements.keep_newest({one.entry.path: one.measured for one in redone})
        for _, one in kept:
            self.scanner.done(one.entry)
        for words in (*self.measurements.news(), *retired):
            self._warn(words)
        for seen, one in kept:
            self._tell(seen, one)
        for one in due:
            self.hook.run(one)
        if adopted := sum(one.adopted for _, one in kept):
            self._warn(f"{how_many(adopted, 'image')} had a mask already: it is kept as it is")

    def _acts(self, kept: list[Handled]) -> list[Act]:
        known, run = self.scanner.known, self.worker.run.id
        return [
            self.stages.act(one, known.get(one.entry.path), run, self.ledger.recipe)
            for one in kept
            if one.judged is not None or one.adopted
        ]

    def _due(self, one: Handled) -> Due:
        return Due(
            path=one.entry.path,
            mask=one.entry.mask,
            unlike=one.unlike,
            verdict=one.judged.state if one.judged else "",
            reasons=one.judged.reasons if one.judged else (),
        )

    def _has_changed(self, seen: FoundFile, one: Handled) -> bool:
        """A file that was written to while it was read is not done: it settles again."""
        if one.entry.state not in ("done", "trying"):
            return False
        try:
            status = os.stat(self.root / seen.path)
        except OSError:
            return False
        if changed := stamp_of(status) != seen.stamp:
            self.scanner.hint(seen.path, closed=False)
        return changed

    def _tell(self, seen: FoundFile, one: Handled) -> None:
        entry = one.entry
        if one.told:
            self._warn(one.told)
        if entry.state == "done" and one.tally is not None:
            self.counts.done += 1
            self.worker.emit_when_possible(
                ImageDone(
                    image=str(self.root / seen.path),
                    mask=str(one.mask),
                    seconds=one.seconds,
                    shares=one.tally.shares,
                    confidence=one.tally.confidence,
                    unlike=one.unlike,
                    model=entry.model,
                    lag_s=time.monotonic() - seen.since,
                    verdict=one.judged.state if one.judged else "",
                    verdict_reasons=one.judged.reasons if one.judged else (),
                    **in_event(one.tally.expected),
                )
            )
        elif entry.state in ("trying", "failed"):
            final = entry.state == "failed"
            self.counts.failed += final
            self.worker.emit_when_possible(
                ImageFailed(
                    image=str(self.root / seen.path),
                    reason=entry.reason,
                    attempt=entry.attempts,
                    final=final,
                )
            )
