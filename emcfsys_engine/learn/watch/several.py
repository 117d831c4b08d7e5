"""A hot folder's images, predicted by several processes: one a GPU, or on a server of many cores.

The watch alone names masks and writes the ledger: it hands planes out, and takes in what was made.
`python -m emcfsys_engine.learn.watch.several RUN_FOLDER MODEL DIGEST`: one of the others, and what
tells the model that all of them have from another under its name.
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import torch

from emcfsys_engine.errors import InputError, OutputError, RunFailedError
from emcfsys_engine.files import exit_with
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.learn.device import choose_device, choose_threads
from emcfsys_engine.learn.inference.ensemble import load_members
from emcfsys_engine.learn.inference.image import Order
from emcfsys_engine.learn.inference.outputs import VectorOutputs
from emcfsys_engine.learn.inference.pipeline import Failure
from emcfsys_engine.learn.inference.pipes import ImageBecame, Outcome, PlaneFailed, PlaneMade, Todo
from emcfsys_engine.learn.inference.several import (
    Crew,
    HandedOut,
    as_one_of_several,
    environments_for,
    refuse_other_models,
)
from emcfsys_engine.learn.watch.planes import Computes, Here, P, Plane, companions_of, vectors_of
from emcfsys_engine.project import Project
from emcfsys_engine.project_tables import Compute
from emcfsys_engine.run.events import ImageFailed, WarningGiven
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.models_used import SameModels, digest_of_card
from emcfsys_engine.run.records import RunRecord, WatchRequest

_TOGETHER = 256  # planes that are handed out before the next ones are looked for


def num_processes(compute: Compute, environment: Mapping[str, str] = os.environ) -> int:
    """Return how many processes a project's hot folder computes in: one a GPU that it was given."""
    number = compute.gpus or (compute.processes if compute.gpus == 0 else 1)
    given = environment.get("CUDA_VISIBLE_DEVICES")
    return min(number, len(given.split(","))) if compute.gpus and given else number


class ByCrew:
    """Predicts planes in several processes, which all have one model."""

    def __init__(
        self,
        run: Run,
        project: Project,
        model: Path,
        asked: Callable[[], str | None],
        tell: Callable[[str], None],
    ) -> None:
        # A damaged one is refused here, and ends no process.
        _, (self.card,) = load_members([model])
        self.device = choose_device(project.compute.gpus)
        self._project, self._asked = project, asked
        self._begin = partial(
            Crew,
            run,
            environments_for(num_processes(project.compute)),
            SameModels(files=(model,), digests=(digest_of_card(self.card),)),
            lambda event: tell(event.message) if isinstance(event, WarningGiven) else None,
            asked,
            __spec__.name,
            [str(model)],
        )
        self._crew: Crew | None = None

    def open(self, book: OutputBook) -> None:
        """Write into an output folder from now on: processes that knew another begin anew."""
        self.end()
        self._vectors: VectorOutputs = vectors_of(self._project, book, self.card)
        self._crew = self._begin()

    def files(self, ref: ImageRef, mask_file: Path) -> list[Path]:
        """Return everything that is written for an image."""
        beside = companions_of(self._project).files(mask_file, self.card)
        return beside + self._vectors.files(ref, mask_file)

    def run(self, planes: Iterator[P]) -> Iterator[tuple[P, PlaneMade | Failure[P] | None]]:
        """Yield planes with what was made of them, in order.

        Raises: RunFailedError when all processes have died.
        """
        while some := list(islice(planes, _TOGETHER)):
            yield from self._made(some)

    def _made(self, planes: Sequence[P]) -> Iterator[tuple[P, PlaneMade | Failure[P] | None]]:
        assert self._crew is not None  # it was opened
        orders = [plane.order for plane in planes]
        todo = [
            Todo(
                number=number,
                image=str(order.ref.path),
                plane=order.ref.plane,
                mask=str(order.mask_file),
                path=planes[place].path,
                content=order.content,
            )
            for number, (place, order) in enumerate(
                (place, order) for place, order in enumerate(orders) if order is not None
            )
        ]
        outcomes = self._crew.become(todo)
        for plane in planes:
            if plane.order is None:
                yield plane, None if plane.error is None else Failure(plane, plane.error)
                continue
            found = next(outcomes, None)
            if found is None:
                return  # its end was asked for
            yield plane, _result(plane, found[1])

    def end(self) -> None:
        """End the processes."""
        if self._crew is not None:
            self._crew.end()
            self._crew = None


def _result(plane: P, outcome: Outcome | None) -> PlaneMade | Failure[P]:
    match outcome:
        case PlaneMade():
            return outcome
        case PlaneFailed(errno=int(number)):
            error = OutputError(outcome.where, outcome.what, outcome.remedy, errno=number)
            return Failure(plane, error)
        case PlaneFailed() | ImageFailed():
            return Failure(plane, RunFailedError(outcome.reason))
        case _:
            raise AssertionError(f"no outcome of a plane: {outcome}")


def main(arguments: Sequence[str]) -> int:
    """Predict what the watch hands out, until it has no more or is gone."""
    folder, file, *digests = arguments
    model = SameModels(files=(Path(file),), digests=tuple(digests))
    return as_one_of_several(partial(_serve, model), folder)


def _serve(
    model: SameModels, record: RunRecord, images: HandedOut, asked: Callable[[], str | None]
) -> None:
    project, request = record.project, record.request
    if not isinstance(request, WatchRequest) or project is None:
        raise InputError(record.id, "is no watch", "Watch anew")
    compute = project.compute
    torch.set_num_threads(choose_threads(compute.threads, num_processes(compute)))
    gpus = None if compute.gpus is None else min(1, compute.gpus)
    here: Computes = Here(project, model.files[0], gpus, asked, images.say)
    refuse_other_models(model)  # looked at after it was read
    here.open(OutputBook(Path(request.output)))
    while not images.is_over:
        planes = (_Given(path=one.path, order=_order(one), number=one.number) for one in images)
        for plane, result in here.run(planes):
            images.line.send(ImageBecame(number=plane.number, event=_outcome(result)))


@dataclass(frozen=True, kw_only=True)
class _Given(Plane):
    """One plane that was handed out."""

    number: int


def _order(todo: Todo) -> Order:
    return Order(ref=todo.ref, mask_file=Path(todo.mask), content=todo.content)


def _outcome(result: PlaneMade | Failure[_Given] | None) -> Outcome | None:
    if not isinstance(result, Failure):
        return result
    error = result.error
    reason = str(error) or type(error).__name__
    if isinstance(error, OutputError):
        return PlaneFailed(
            reason=reason,
            where=str(error.where),
            what=error.what,
            remedy=error.remedy,
            errno=error.errno,
        )
    return PlaneFailed(reason=reason)


if __name__ == "__main__":
    exit_with(main, sys.argv[1:])
