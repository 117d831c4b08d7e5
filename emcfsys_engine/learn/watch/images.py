"""What becomes of one image of a hot folder: mask, companions, measurements, a judgement."""

import itertools
import math
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from emcfsys_engine.annotations.writer import LabelWriter
from emcfsys_engine.errors import EmcfError
from emcfsys_engine.files import DiskFullError, is_full
from emcfsys_engine.hotfolder.ledger import Entry
from emcfsys_engine.hotfolder.scan import MAX_ATTEMPTS, Seen
from emcfsys_engine.images.micrograph import ImageRef, Micrograph
from emcfsys_engine.images.normalise import to_grey
from emcfsys_engine.images.reader import probe, read_micrograph
from emcfsys_engine.learn.gpu_faults import (
    free_cached_memory,
    is_out_of_memory,
    refuse_lost_gpu,
)
from emcfsys_engine.learn.inference.outputs import write_outputs
from emcfsys_engine.learn.inference.pipeline import Failure, run_pipeline
from emcfsys_engine.learn.inference.predictor import Prediction, Predictor
from emcfsys_engine.learn.watch.measurements import Line, measured
from emcfsys_engine.model_card import ModelCard
from emcfsys_engine.project import Project

_UNLIKE_DEVIATIONS = 4.0
_UNLIKE_PIXEL_SIZE = 1.25
# What one odd file can cause; anything else is our mistake and ends the watch.
_CAUGHT = (EmcfError, OSError, MemoryError, RuntimeError)


@dataclass(frozen=True, kw_only=True)
class Handled:
    """What became of one file."""

    entry: Entry
    mask: Path | None = None
    written: tuple[Path, ...] = ()  # every mask: one a plane
    prediction: Prediction | None = None  # of the last plane
    measured: tuple[Line, ...] = ()  # one a plane, where the project asks for it
    seconds: float = 0.0
    unlike: str = ""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One file that needs a mask."""

    seen: Seen
    digest: str
    version: int  # of the mask: a rewritten file may keep its older masks
    attempts: int


@dataclass(frozen=True, kw_only=True)
class _Read:
    """A file that was read: one micrograph a plane."""

    started: float
    planes: tuple[int | None, ...]
    micrographs: list[Micrograph]
    images: list[np.ndarray]  # ready for the network


class Desk:
    """Handles one file after the other with one loaded model."""

    def __init__(self, project: Project, predictor: Predictor, root: Path, output: Path) -> None:
        self._project = project
        self._predictor = predictor
        self._root = root
        self._output = output
        self._stems: dict[str, str] = {}

    def use(self, predictor: Predictor) -> None:
        """Go on with another model."""
        self._predictor = predictor

    def handle(self, tasks: Sequence[Task], go_on: Callable[[], bool]) -> Iterator[Handled]:
        """Predict files and write their masks; a file's error is in its result, not raised.

        Files are read ahead and masks written behind, as `predict` does.
        Raises: DiskFullError when masks cannot be written, GpuLostError when this process can
        compute no more: neither is a file's fault.
        """
        wanted = itertools.takewhile(lambda _: go_on(), tasks)
        stages = (self._read, self._compute, self._write)
        for task, result in run_pipeline(wanted, *stages, _CAUGHT):
            if isinstance(result, Failure):
                if is_full(result.error):
                    raise DiskFullError(self._output)
                yield self._failure(task, result.error)
            else:
                yield result

    def _read(self, task: Task) -> _Read:
        started = time.monotonic()
        file = self._root / task.seen.path
        facts = probe(file)
        planes = [None] if facts.planes <= 1 else list(range(facts.planes))
        micrographs = [read_micrograph(ImageRef(path=file, plane=plane)) for plane in planes]
        prepare = self._predictor.prepare
        images = [prepare(one.pixels, one.info_bar_rows) for one in micrographs]
        return _Read(started=started, planes=tuple(planes), micrographs=micrographs, images=images)

    def _compute(self, task: Task, read: _Read) -> tuple[_Read, list[Prediction]]:
        predict = self._predictor.predict_prepared
        pairs = zip(read.images, read.micrographs, strict=True)
        return read, [predict(image, info_bar_rows=one.info_bar_rows) for image, one in pairs]

    def _write(self, task: Task, made: tuple[_Read, list[Prediction]]) -> Handled:
        read, predictions = made
        card = self._predictor.card
        masks: list[Path] = []
        lines: list[Line] = []
        unlike = ""
        for plane, micrograph, prediction in zip(
            read.planes, read.micrographs, predictions, strict=True
        ):
            masks.append(self._mask_of(task.seen.path, plane, task.version))
            self._write_mask(masks[-1], micrograph, prediction, self._root / task.seen.path)
            unlike = unlike or unlike_training(micrograph, prediction, card)
            if self._project.hotfolder.measure:
                image = task.seen.path if plane is None else f"{task.seen.path}#{plane}"
                lines.append(measured(image, micrograph, prediction, card, unlike))
        below = str(masks[-1].relative_to(self._output))
        return Handled(
            entry=self._entry(task, "done", mask=below),
            mask=masks[-1],
            written=tuple(masks),
            measured=tuple(lines),
            prediction=predictions[-1],
            seconds=time.monotonic() - read.started,
            unlike=unlike,
        )

    def _failure(self, task: Task, error: Exception) -> Handled:
        refuse_lost_gpu(error)
        if is_out_of_memory(error):
            free_cached_memory()
            self._predictor.shrink()
        state = "failed" if task.attempts >= MAX_ATTEMPTS else "trying"
        reason = str(error) or type(error).__name__
        return Handled(entry=self._entry(task, state, reason=reason))

    def unchanged(self, seen: Seen, before: Entry) -> Handled:
        """A file that was only touched: note its new time."""
        entry = msgspec.structs.replace(before, size=seen.size, mtime_ns=seen.mtime_ns)
        return Handled(entry=entry)

    def skipped(self, seen: Seen, before: Entry, digest: str) -> Handled:
        """A rewritten file that the project wants left alone."""
        entry = msgspec.structs.replace(
            before, size=seen.size, mtime_ns=seen.mtime_ns, digest=digest, state="skipped"
        )
        return Handled(entry=entry)

    def unreadable(self, seen: Seen, attempts: int, error: OSError) -> Handled:
        """A file that cannot even be opened."""
        return self._failure(Task(seen=seen, digest="", version=1, attempts=attempts), error)

    def _write_mask(
        self, mask: Path, micrograph: Micrograph, prediction: Prediction, image: Path
    ) -> None:
        settings, card = self._project.hotfolder, self._predictor.card
        if settings.labelme:
            classes = dict(zip(card.classes, card.class_values, strict=True))
            LabelWriter(
                out=mask.parent, to="labelme", classes=classes, background=card.class_values[0]
            ).write(mask.stem, prediction.mask, image=image, plane=None)
        write_outputs(mask, micrograph, prediction.mask, card, overlay=settings.overlay)

    def _mask_of(self, path: str, plane: int | None, version: int) -> Path:
        """Return the mask's name; the first file of a stem has it, a second adds its suffix."""
        place = Path(path)
        key = str(place.with_suffix(""))
        owner = self._stems.setdefault(key, path)
        stem = place.stem if owner == path else place.name
        stem += "" if plane is None else f".{plane:04d}"
        stem += "" if version == 1 else f".v{version}"
        return self._output / place.parent / f"{stem}.png"

    def know(self, entries: dict[str, Entry]) -> None:
        """Remember which file owns which mask from earlier starts."""
        for path, entry in entries.items():
            if entry.mask and Path(entry.mask).name.startswith(f"{Path(path).stem}."):
                owns = not Path(entry.mask).name.startswith(f"{Path(path).name}.")
                if owns:
                    self._stems.setdefault(str(Path(path).with_suffix("")), path)

    def _entry(
        self,
        task: Task,
        state: Literal["done", "trying", "failed"],
        *,
        mask: str = "",
        reason: str = "",
    ) -> Entry:
        card = self._predictor.card
        return Entry(
            path=task.seen.path,
            size=task.seen.size,
            mtime_ns=task.seen.mtime_ns,
            digest=task.digest,
            state=state,
            mask=mask,
            version=task.version,
            attempts=task.attempts,
            reason=reason,
            model=f"{card.run} step {card.step}".strip(),
        )


def sync(files: Collection[Path]) -> None:
    """Wait until files and their names are on the disk."""
    for place in (*files, *{file.parent for file in files}):
        descriptor = os.open(place, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def unlike_training(micrograph: Micrograph, prediction: Prediction, card: ModelCard) -> str:
    """Tell why an image is unlike those the model was trained on; empty: it is not.

    Grey values are compared by 4 deviations of the training images and half their contrast, so
    that a handful of very equal training images does not flag everything.
    """
    known = card.statistics
    if known is None:
        return ""
    found: list[str] = []
    if card.pixel_nm and micrograph.pixel_nm:
        own = math.sqrt(math.prod(micrograph.pixel_nm))
        ratio = max(own / card.pixel_nm, card.pixel_nm / own)
        if ratio > _UNLIKE_PIXEL_SIZE:
            found.append(f"pixel size {own:.4g} nm, trained at {card.pixel_nm:.4g} nm")
    grey = to_grey(micrograph.pixels)
    specimen = grey[: grey.shape[0] - micrograph.info_bar_rows].astype(np.float32)
    mean, contrast = float(np.nanmean(specimen)), float(np.nanstd(specimen))
    limit = _UNLIKE_DEVIATIONS * known.mean_deviation + 0.5 * known.contrast
    if abs(mean - known.mean) > limit:
        found.append(f"mean {mean:.4g}, training {known.mean:.4g} ± {known.mean_deviation:.2g}")
    limit = _UNLIKE_DEVIATIONS * known.contrast_deviation + 0.5 * known.contrast
    if abs(contrast - known.contrast) > limit:
        found.append(f"contrast {contrast:.4g}, training {known.contrast:.4g}")
    if known.confidence is not None:
        spread = max(_UNLIKE_DEVIATIONS * (known.confidence_deviation or 0.0), 0.1)
        if prediction.confidence < known.confidence - spread:
            found.append(
                f"confidence {prediction.confidence:.2f}, validation {known.confidence:.2f}"
            )
    return "; ".join(found)
