"""One plane of an arriving image: predicted, written, judged and measured, in this process."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import torch

from emcfsys_engine.errors import EmcfError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.learn.faults import free_cached_memory, is_out_of_memory, refuse_lost_gpu
from emcfsys_engine.learn.inference.image import ImageJobs, ImageWork, Order
from emcfsys_engine.learn.inference.outputs import Companions, VectorOutputs
from emcfsys_engine.learn.inference.pipeline import Arrived, Computed, Failure, run_pipeline
from emcfsys_engine.learn.inference.pipes import PlaneMade
from emcfsys_engine.learn.inference.predictor import Predictor
from emcfsys_engine.learn.watch.measurements import area_of, line_expected, measured, of_classes
from emcfsys_engine.learn.watch.numbers import (
    grey_values,
    numbers_expected,
    numbers_of,
    numbers_of_objects,
    unlike_training,
)
from emcfsys_engine.model_card import ModelCard
from emcfsys_engine.project import Project
from emcfsys_engine.verdicts import needs_objects

# What one odd file can cause; anything else is our mistake and ends the watch.
CAUGHT = (EmcfError, OSError, MemoryError, RuntimeError)


@dataclass(frozen=True, kw_only=True)
class Plane:
    """One plane of a file on its way; without an order there is nothing to compute."""

    path: str  # of the file, below the watched folder
    order: Order | None = None
    error: Exception | None = None


P = TypeVar("P", bound=Plane)


class Computes(Protocol):
    """What predicts planes: this process, or several others."""

    card: ModelCard
    device: torch.device

    def open(self, book: OutputBook) -> None:
        """Write into an output folder from now on; it may be another one than before."""
        ...

    def run(self, planes: Iterator[P]) -> Iterator[tuple[P, PlaneMade | Failure[P] | None]]:
        """Yield planes with what was made of them, in order; None: nothing was to be made.

        Raises: EndAskedFor; GpuLostError, RunFailedError when nothing more can be computed.
        """
        ...

    def files(self, ref: ImageRef, mask_file: Path) -> list[Path]:
        """Return everything that is written for an image."""
        ...

    def end(self) -> None:
        """Let go of what it holds."""
        ...


class Here:
    """Predicts planes in this process; they are read ahead, and masks written behind."""

    def __init__(
        self,
        project: Project,
        model: Path,
        gpus: int | None,
        asked: Callable[[], str | None],
        tell: Callable[[str], None],
    ) -> None:
        settings = project.inference
        self._project, self._asked, self._tell = project, asked, tell
        self._predictor = Predictor(
            model,
            gpus=gpus,
            overlap=settings.overlap,
            tta=settings.tta,
            tile_px=settings.tile_px,
            batch=settings.batch,
        )
        self.card, self.device = self._predictor.card, self._predictor.device
        self._given_up: dict[str, Exception] = {}
        self._counts_objects = needs_objects(project.limits, project.classes)

    def open(self, book: OutputBook) -> None:
        """Write into an output folder from now on."""
        settings = self._project.hotfolder
        self._jobs = ImageJobs(
            self._predictor,
            book,
            companions=companions_of(self._project),
            vectors=("labelme",) if settings.labelme else (),
            settings=self._project.inference,
            asked=self._asked,
            keeps_masks=settings.measure or self._counts_objects,
            tell=self._tell,
        )

    def files(self, ref: ImageRef, mask_file: Path) -> list[Path]:
        """Return everything that is written for an image."""
        return self._jobs.files(ref, mask_file)

    def run(self, planes: Iterator[P]) -> Iterator[tuple[P, PlaneMade | Failure[P] | None]]:
        """Yield planes with what was made of them; of a file that fails no more are computed."""
        self._given_up.clear()
        stages = (self._read, self._compute, self._write)
        try:
            for plane, result in run_pipeline(planes, *stages, CAUGHT, ahead=self._jobs.ahead):
                if isinstance(result, Failure):
                    self._recover(result.error)
                yield plane, result
        finally:
            self._jobs.close_all()

    def end(self) -> None:
        """Let go of what it holds: nothing that is not the process's own."""

    def _recover(self, error: Exception) -> None:
        refuse_lost_gpu(error)
        if is_out_of_memory(error):
            free_cached_memory()
            self._predictor.shrink()

    def _read(self, plane: Plane) -> ImageWork | None:
        fault = plane.error or self._given_up.get(plane.path)
        if fault is not None:
            raise fault
        if plane.order is None:
            return None
        try:
            return self._jobs.read(plane.order)
        except Exception as error:
            self._given_up[plane.path] = error
            raise

    def _compute(self, arrived: Arrived[P, ImageWork | None]) -> Computed[P, ImageWork | None]:
        for plane, made in self._jobs.compute_all(arrived, CAUGHT):
            if isinstance(made, Failure):
                self._given_up[plane.path] = made.error
            yield plane, made

    def _write(self, plane: Plane, work: ImageWork | None) -> PlaneMade | None:
        if work is None:
            return None
        try:
            mask = self._jobs.write(work)
            return self._made(plane, work, mask)
        except Exception as error:
            self._given_up[plane.path] = error
            raise
        finally:
            self._jobs.close(work)

    def _made(self, plane: Plane, work: ImageWork, mask: Path) -> PlaneMade:
        tally, image, measures = work.tally, work.image, self._project.hotfolder.measure
        numbers = numbers_of(image.pixel_nm, tally.confidence, tally.shares)
        grey = grey_values(image) if measures or self._project.limits else None
        numbers |= numbers_expected(tally.expected)
        if grey is not None:
            numbers |= grey.named()
        unlike = unlike_training(image, tally.confidence, self.card, grey)
        line: dict[str, str | int] = {}
        if measures or self._counts_objects:
            area_nm2 = area_of(image.pixel_nm)
            bar = image.survey.info_bar_rows
            classes = of_classes(
                work.whole_mask, area_nm2, self.card, work.numbers, info_bar_rows=bar
            )
            numbers |= numbers_of_objects(classes)
            if measures:
                name, number = plane.path, work.order.ref.plane
                line = measured(
                    name if number is None else f"{name}#{number}",
                    image.pixel_nm,
                    image.size,
                    bar,
                    tally.confidence,
                    unlike,
                    classes,
                ) | {name: f"{value:.6g}" for name, value in (grey.named() if grey else {}).items()}
                line |= line_expected(tally.expected, self.card)
        return PlaneMade(
            mask=str(mask),
            shares=tally.shares,
            confidence=tally.confidence,
            started=work.started,
            unlike=unlike,
            line=line,
            numbers=numbers,
            expected=tally.expected,
        )


def companions_of(project: Project) -> Companions:
    """Return what a hot folder writes beside each mask."""
    return Companions(overlay=project.hotfolder.overlay)


def vectors_of(project: Project, book: OutputBook, card: ModelCard) -> VectorOutputs:
    """Return the outlines that a hot folder writes beside each mask."""
    return VectorOutputs(book.out, ("labelme",) if project.hotfolder.labelme else (), card, book)
