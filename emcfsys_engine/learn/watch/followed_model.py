"""The model that a hot folder predicts with, and the better ones that it goes on with."""

import time
from collections.abc import Callable
from pathlib import Path

from emcfsys_engine.errors import EmcfError
from emcfsys_engine.hotfolder.status import best_model
from emcfsys_engine.learn.run_context import RunContext
from emcfsys_engine.learn.watch.planes import Computes, Here
from emcfsys_engine.learn.watch.several import ByCrew, num_processes
from emcfsys_engine.project import Project
from emcfsys_engine.run.events import WarningGiven

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
