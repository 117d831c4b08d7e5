"""Compare a model file with masks of images it has not seen."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from emcfsys_engine import any_names, promises
from emcfsys_engine.errors import DataFaults, OutputError, printable
from emcfsys_engine.files import remedy_of
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.own_outputs import write_own
from emcfsys_engine.learn.evaluate_deal import (
    Images,
    LearnedImages,
    images_of_folders,
    images_of_project,
    seen_by,
)
from emcfsys_engine.learn.evaluate_images import (
    Comparer,
    EvaluationTask,
    ImageCompared,
    Measure,
    added,
    compared,
)
from emcfsys_engine.learn.training.metrics import BOUNDARY_TOLERANCE_PX, Scores
from emcfsys_engine.project import Project
from emcfsys_engine.promises import ImageScore, Promise, promise_of
from emcfsys_engine.run.events import ObjectScores
from emcfsys_engine.run.records import EVALUATION, EvaluateRequest
from emcfsys_engine.text import few, how_many

NUM_WORST = 4  # images that a page shows


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """How well a model does on labelled images."""

    model: str
    images: int
    scores: Scores
    per_source: dict[str, Scores]
    objects: dict[str, ObjectScores] = {}  # of classes whose objects are told apart
    per_image: tuple[ImageScore, ...] = ()  # its true IoU, and the one that was expected
    promise: Promise | None = None  # how well the two agree; None: the model cannot tell
    split_of: str = ""  # who dealt the images out: model | project
    trained_on: tuple[str, ...] = ()  # of these images, those that a model was trained on
    notes: tuple[str, ...] = ()  # how labels were read, what is not used, whose they are


def evaluate_project(
    model: Path,
    project: Project,
    split: str,
    *,
    also: Sequence[Path] = (),
    as_dealt_now: bool = False,
    **options: Any,
) -> Evaluation:
    """Compare the model with one split of a project ("all" for everything labelled).

    The split is that of the model's own training, where that is known; `as_dealt_now`: the one
    that the project would deal today.
    `also` names more model files: an ensemble. Options are those of `evaluate_images`.
    Raises: InputError if the project's classes are not the model's, or the split is empty.
    """
    models = (model, *also)
    images = images_of_project(models, project, split, as_dealt_now=as_dealt_now)
    return evaluate_images(models, images, **options)


def evaluate_folders(
    model: Path, images: str, masks: str, *, also: Sequence[Path] = (), **options: Any
) -> Evaluation:
    """Compare the model with a folder of images and a folder of their masks or annotations."""
    models = (model, *also)
    return evaluate_images(models, images_of_folders(models, images, masks), **options)


def evaluate_images(
    models: tuple[Path, ...],
    images: Images,
    *,
    tta: bool,
    overlap: float,
    boundary_px: float = BOUNDARY_TOLERANCE_PX,
    middle_lines: bool = False,
    gpus: int | None = None,
    processes: int = 1,
) -> Evaluation:
    """Compare models with the labels of images.

    `gpus`: one process each, fed from one list; with 0, so many `processes` on the processor.
    `middle_lines`: clDice of each class, too.
    Units: `boundary_px` is how far a predicted boundary may lie from the true one.
    """
    measure = Measure(
        models=models,
        project=images.project,
        tta=tta,
        overlap=overlap,
        boundary_px=boundary_px,
        middle_lines=middle_lines,
    )
    task = EvaluationTask(measure=measure, samples=images.samples, gpus=gpus, processes=processes)
    made = evaluation_of(models, images.project, compared(task), is_own_deal=images.is_own_deal)
    return msgspec.structs.replace(made, notes=(*images.notes, *made.notes))


def evaluation_of(
    models: Sequence[Path],
    project: Project,
    found: Mapping[int, ImageCompared],
    *,
    is_own_deal: bool,
) -> Evaluation:
    """Return what was found in all images, by their numbers, as one evaluation."""
    result = added(project, found)
    per_image = tuple(found[number].score for number in sorted(found))
    seen = [seen_by(file) for file in models]
    trained_on = tuple(
        name
        for number in sorted(found)
        if any(
            one.has_trained(
                name := found[number].score.image, found[number].digest, by_name=is_own_deal
            )
            for one in seen
        )
    )
    return Evaluation(
        model=str(models[0]),
        images=len(found),
        scores=result.scores,
        per_source=result.per_source,
        objects=result.objects,
        per_image=per_image,
        promise=promise_of(per_image),
        split_of="model" if is_own_deal else "project",
        trained_on=trained_on,
        notes=(*_of_several(models), *_called_alike(per_image, trained_on, seen)),
    )


def _of_several(models: Sequence[Path]) -> tuple[str, ...]:
    """Say whose scores they are where a fold, or --with, stands for several models."""
    if len(models) == 1:
        return ()
    names = few([str(Path(file.parent.name, file.name)) for file in models])
    return (f"these are scores of the mean of {len(models)} models: {names}",)


def _called_alike(
    scored: Sequence[ImageScore], trained_on: Sequence[str], seen: Sequence[LearnedImages]
) -> tuple[str, ...]:
    """Ask whose images are that a model was trained on by their names, but not by their pixels.

    A micrograph that was saved anew (16 bits, other contrast, cropped) is not known by its pixels.
    """
    known = frozenset(trained_on)
    others = [one.image for one in scored if one.image not in known]
    alike = [name for name in others if any(name in one.train for one in seen)]
    if not alike:
        return ()
    told = f"{how_many(len(alike), 'image')} of other pixels called like one that the model was"
    asked = "if the same micrographs were saved anew, it knows them, and the scores are too good"
    return (f"{told} trained on ({few(alike)}): {asked}",)


def images_asked_for(request: EvaluateRequest) -> Images:
    """Return the labelled images that a request names, and who dealt them out.

    Raises: DataFaults, InputError.
    """
    models = tuple(map(Path, request.models))
    if request.project is None:
        return images_of_folders(models, request.images, request.masks)
    return images_of_project(
        models, request.project, request.split, as_dealt_now=request.as_dealt_now
    )


def measure_of(request: EvaluateRequest, project: Project) -> Measure:
    """Return how a request's models are compared with labels."""
    return Measure(
        models=tuple(map(Path, request.models)),
        project=project,
        tta=request.tta,
        overlap=request.overlap,
        boundary_px=request.boundary_px,
        middle_lines=request.middle_lines,
    )


def worst_drawn(
    request: EvaluateRequest, scores: Sequence[ImageScore]
) -> list[tuple[ImageScore, bytes]]:
    """Predict the images with the lowest IoU once more; return each as PNG, see `Comparer.strip`.

    One that cannot be read any more is left out. Raises: DataFaults, InputError.
    """
    known = sorted((one for one in scores if one.iou is not None), key=lambda one: one.iou or 0.0)
    images = images_asked_for(request)
    samples = {sample.name: sample for sample in images.samples}
    gpus = None if request.gpus is None else min(1, request.gpus)
    comparer = Comparer(measure_of(request, images.project), gpus)
    drawn: list[tuple[ImageScore, bytes]] = []
    for one in known[:NUM_WORST]:
        with suppress(DataFaults, KeyError):
            drawn.append((one, comparer.strip(samples[one.image])))
    return drawn


def write_scores(made: Evaluation, out: Path) -> Path:
    """Write evaluation.json into a folder and return it: evaluation.v2.json beside a foreign one.

    Raises: OutputError.
    """
    wanted = out / EVALUATION
    try:
        out.mkdir(parents=True, exist_ok=True)
        return write_own(wanted, any_names.encode(made) + b"\n", OutputBook(out))
    except OSError as error:
        what = f"cannot be written: {error.strerror or error}"
        raise OutputError(wanted, what, remedy_of(error), errno=error.errno or 0) from None


def table_of(found: Evaluation) -> str:
    """Return the numbers as a table for people."""
    width = max(5, *(len(printable(name)) for name in found.scores.iou))
    scores = found.scores
    extra = "  clDice" if scores.cl_dice else ""
    lines = [f"{'class':<{width}}   IoU    F1     precision  recall  boundary F1{extra}"]
    for name in scores.iou:
        of_class = (scores.iou, scores.f1, scores.precision, scores.recall, scores.boundary_f1)
        cells = [numbers.get(name) for numbers in of_class]
        iou, f1, precision, recall, edge = map(_four, cells)
        lines.append(
            f"{printable(name):<{width}}   {iou:<6} {f1:<6} {precision:<9}  {recall:<6}  {edge}"
            + (f"       {_four(scores.cl_dice.get(name))}" if extra else "")
        )
    mean, fore = _four(scores.mean_iou), _four(scores.mean_foreground_iou)
    right = _four(scores.accuracy if scores.pixels else None)
    lines.append(f"mean IoU {mean}, foreground {fore}, pixel accuracy {right}")
    lines += _table_of_objects(found.objects)
    lines += promises.table_of(found.per_image, found.promise)
    if len(found.per_source) > 1:
        for name, one in found.per_source.items():
            lines.append(f"  {printable(name)}: mean IoU {_four(one.mean_iou)}")
    whose = ", as the model's training dealt them" if found.split_of == "model" else ""
    lines.append(
        f"{how_many(found.images, 'image')}{whose}, {how_many(scores.pixels, 'labelled pixel')}"
    )
    if found.trained_on:
        number = f"{len(found.trained_on)} of {how_many(found.images, 'image')}"
        lines.append(f"warning: the model was trained on {number}: {few(found.trained_on)}")
    lines += [f"note: {printable(note)}" for note in found.notes]
    return "\n".join(lines)


def _four(number: float | None) -> str:
    return "–" if number is None else f"{number:.4f}"


def _table_of_objects(objects: dict[str, ObjectScores]) -> list[str]:
    """Return a line for each class whose objects are told apart, and their head."""
    if not objects:
        return []
    width = max(7, *(len(printable(name)) for name in objects))
    head = "AP50   AP50:95  PQ     SQ     RQ     found/true  splits  merges  error of sizes"
    lines = [f"{'objects':<{width}}   {head}"]
    for name, one in objects.items():
        numbers = (one.ap50, one.ap50_95, one.pq, one.sq, one.rq, one.size_error)
        ap50, ap, pq, sq, rq, size = map(_four, numbers)
        counts = f"{one.num_found}/{one.num_true}"
        lines.append(
            f"{printable(name):<{width}}   {ap50:<6} {ap:<8} {pq:<6} {sq:<6} {rq:<6} {counts:<11} "
            f"{one.splits:<7} {one.merges:<7} {size} {one.size_unit}"
        )
    return lines
