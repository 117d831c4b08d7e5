"""What a watch does between images: follow a better model, tell of groups, heed late side-cars."""

import math
import os
import time
from collections.abc import Callable
from pathlib import Path

from emcfsys_engine.errors import EmcfError
from emcfsys_engine.hotfolder.groups import Group
from emcfsys_engine.hotfolder.ledger import Ledger
from emcfsys_engine.hotfolder.scan import Scanner
from emcfsys_engine.hotfolder.status import best_model
from emcfsys_engine.images.outages import is_of_disk
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.reader import probe
from emcfsys_engine.images.side_cars import pictures_of
from emcfsys_engine.learn.run_context import RunContext
from emcfsys_engine.learn.watch.planes import Computes, Here
from emcfsys_engine.learn.watch.several import ByCrew, num_processes
from emcfsys_engine.project import Project
from emcfsys_engine.run.events import GroupJudged, WarningGiven
from emcfsys_engine.text import few, how_many
from emcfsys_engine.user_commands import Hook

_FOLLOW_EVERY_S = 15.0


class FollowedModel:
    """A model file, in use; where the project says so, newer best models are looked for."""

    def __init__(self, file: Path, worker: RunContext, project: Project) -> None:
        """Raises: ModelFileError, InputError."""
        self._worker, self._project = worker, project
        self.file = file
        self._version = _version_of(file)
        self._refused: tuple[Path, object] | None = None  # and said so, once
        self._looked_at = time.monotonic()
        self.by = self._load(file)

    def cannot_tell(self) -> str:
        """Return why a limit on what the model expects means REVIEW; empty: it does not."""
        wants = any(name.endswith("expected_iou") for name in self._project.limits)
        why = self.by.card.cannot_tell if wants else ""
        if not why:
            return ""
        what = f"{self.file.name} cannot tell how good its masks are"
        return f"{what}, so that limits on expected_iou mean REVIEW: {why}"

    def is_renewed(self) -> bool:
        """Take a newer best model, if there is one; `by` computes with it then."""
        now = time.monotonic()
        if not self._project.hotfolder.follow or now - self._looked_at < _FOLLOW_EVERY_S:
            return False
        self._looked_at = now
        try:
            file = best_model(self._project)
        except OSError:
            return False  # the project's disk is away: it goes on with the model it has
        if file is None:
            return False
        found = file, _version_of(file)
        if found in ((self.file, self._version), self._refused):
            return False
        try:
            by = self._load(file)
        except EmcfError as error:
            self._refused = found
            self._tell(f"The newer model cannot be used: {error}")
            return False
        self.file, self._version = found
        self.by.end()
        self.by = by
        return True

    def _load(self, file: Path) -> Computes:
        asked: Callable[[], str | None] = self._worker.stop_request
        if num_processes(self._project.compute) > 1:
            return ByCrew(self._worker.run, self._project, file, asked, self._tell)
        return Here(self._project, file, self._project.compute.gpus, asked, self._tell)

    def _tell(self, words: str) -> None:
        self._worker.emit_when_possible(WarningGiven(message=words))


def _version_of(file: Path) -> tuple[int, int] | None:
    """Return what changes when a training publishes a better model under the same name."""
    try:
        state = file.stat()
    except OSError:
        return None
    return state.st_ino, state.st_mtime_ns


class GroupNews:
    """Judges groups now and then, and tells each first verdict and each other one once."""

    def __init__(
        self, ledger: Ledger, hook: Hook, worker: RunContext, tell_once: Callable[[str], None]
    ) -> None:
        self._ledger, self._hook, self._worker = ledger, hook, worker
        self._tell_once = tell_once
        self.told_at = 0.0  # of time.monotonic()

    def tell(self, project: Project, book: OutputBook) -> None:
        """Write the files of groups that changed, and tell of verdicts that did.

        Raises: OSError where the disk itself is full or gone.
        """
        self.told_at = time.monotonic()
        try:
            for group in self._ledger.tell_groups(project, book):
                self._tell_one(group)
        except OSError as error:
            if is_of_disk(error):
                raise
            self._tell_once(f"The files of groups cannot be written: {error}")

    def close(self, *, all_of_them: bool) -> None:
        """Wait for the commands that run, or for all that wait as well."""
        self._hook.close(all_of_them=all_of_them)

    def _tell_one(self, group: Group) -> None:
        self._worker.emit_when_possible(
            GroupJudged(
                group=group.name,
                verdict=group.state,
                before=group.announced or "",
                reasons=group.reasons,
                images=int(group.numbers.get("images", 0)),
            )
        )
        self._hook.run(group)
        self._ledger.announced(group)


# Text files with an image's scale that come after it: its mask and numbers are made anew.
#
# Their order is no contract: Hitachi's microscopes write the picture first. What was predicted
# before has no pixel size, or an older one.

_WRITTEN_S = 30.0  # a text file that has not changed for so long is not looked at again
_SAME = 1e-5  # of two pixel sizes that were written as numbers


class LateSideCars:
    """Finds images whose pixel size is another one than that they were predicted with."""

    def __init__(
        self, root: Path, ledger: Ledger, scanner: Scanner, tell: Callable[[str], None]
    ) -> None:
        self._root, self._ledger, self._scanner, self._tell = root, ledger, scanner, tell
        self._young: dict[str, tuple[tuple[int, int], float]] = {}  # stamp, and when it was met
        self._old: set[str] = set()

    def forget(self, patience_s: float) -> set[str]:
        """Let images of another scale get their masks anew, by the next scan; return them.

        What a person said of an image stays, and so does its mask: that is told.
        """
        until = time.monotonic() + patience_s
        new = self._scanner.side_cars - self._old - self._young.keys()
        found: list[str] = []
        for side_car in (*new, *self._young):
            if time.monotonic() > until:
                break
            if self._is_news(side_car):
                found += filter(self._is_rescaled, pictures_of(side_car))
        if not found:
            return set()
        images = how_many(len(found), "image")
        self._tell(f"{images} got another pixel size since, made anew: {few(found, 3)}")
        return self._scanner.forget_masks(found)

    def _is_news(self, side_car: str) -> bool:
        """Tell whether a text file is new or was written to."""
        now = time.monotonic()
        try:
            status = os.stat(self._root / side_car)
        except OSError:
            return False  # the next scan meets it again
        stamp = status.st_size, status.st_mtime_ns
        before, since = self._young.get(side_car, (None, now))
        if before != stamp:
            self._young[side_car] = stamp, now
            return True
        if now - since > _WRITTEN_S:
            del self._young[side_car]
            self._old.add(side_car)
        return False

    def _is_rescaled(self, image: str) -> bool:
        entry = self._scanner.known.get(image)
        if entry is None or entry.state != "done":
            return False
        try:
            size = probe(self._root / image).pixel_nm
        except (EmcfError, OSError):
            return False
        judged = self._ledger.judged([image])
        if size is None or not judged:
            return False
        side_nm = math.sqrt(math.prod(size))
        sides = [numbers.get("pixel_nm", 0.0) for numbers in judged[0].numbers.values()]
        if all(math.isclose(one, side_nm, rel_tol=_SAME) for one in sides):
            return False
        if judged[0].word:
            what = f"its pixel size is {side_nm:.6g} nm by now, and it was predicted with another"
            self._tell(f"{image}: {what}: kept, since a person spoke of it")
            return False
        return True
