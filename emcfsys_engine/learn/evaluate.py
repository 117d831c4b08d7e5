"""Compare a model file with masks of images it has not seen."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from emcfsys_engine import promises
from emcfsys_engine.dataset.deals import few, full_name
from emcfsys_engine.dataset.samples import list_samples
from emcfsys_engine.dataset.splits import Sample
from emcfsys_engine.errors import DataFaults, InputError, printable
from emcfsys_engine.learn.evaluate_shares import Task, compared
from emcfsys_engine.learn.inference.ensemble import check_members
from emcfsys_engine.learn.training.metrics import BOUNDARY_TOLERANCE_PX, Scores
from emcfsys_engine.learn.training.plan import read_plan
from emcfsys_engine.model_card import ModelCard, read_card
from emcfsys_engine.project import Naming, Project, Source
from emcfsys_engine.project_tables import Parts
from emcfsys_engine.promises import ImageScore, Promise, promise_of
from emcfsys_engine.run.events import ObjectScores
from emcfsys_engine.run.folder import Run


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


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """What is known of the images of one model's training: name -> digest, or no digest."""

    train: dict[str, str]
    val: dict[str, str]

    def has_trained(self, name: str, digest: str, *, by_name: bool) -> bool:
        """Tell whether the model was trained on an image; its pixels say so under any name."""
        known = self.train.get(name) if by_name else None
        return known == "" or (bool(digest) and digest in self.train.values())


def evaluate_project(
    model: Path,
    project: Project,
    split: str,
    *,
    tta: bool,
    overlap: float,
    also: Sequence[Path] = (),
    boundary_px: float = BOUNDARY_TOLERANCE_PX,
    middle_lines: bool = False,
    as_dealt_now: bool = False,
    gpus: int | None = None,
    processes: int = 1,
) -> Evaluation:
    """Compare the model with one split of a project ("all" for everything labelled).

    The split is that of the model's own training, where that is known; `as_dealt_now`: the one
    that the project would deal today.
    `also` names more model files: an ensemble.
    `gpus`: one process each, fed from one list; with 0, so many `processes` on the processor.
    `middle_lines`: clDice of each class, too.
    Units: `boundary_px` is how far a predicted boundary may lie from the true one.
    Raises: InputError if the project's classes are not the model's, or the split is empty.
    """
    card = check_members((model, *also))
    project = msgspec.structs.replace(project, instances=_told_apart(project, card))
    _refuse_other_classes(project, card)
    found = list_samples(project, for_training=False)
    seen = [seen_by(file) for file in (model, *also)]
    labelled = [sample for sample in found.samples if sample.label is not None]
    own = None if as_dealt_now else _own_split(labelled, seen)
    dealt = labelled if own is None else own
    samples = [sample for sample in dealt if split in ("all", sample.split)]
    if not samples:
        raise InputError(project.file, f"has no labelled images in split {split!r}", "Use --split")
    if project.project.pixel_nm is None and card.pixel_nm is not None:
        naming = msgspec.structs.replace(project.project, pixel_nm=card.pixel_nm)
        project = msgspec.structs.replace(project, project=naming)
    task = Task(
        models=(model, *also),
        project=project,
        samples=tuple(samples),
        tta=tta,
        overlap=overlap,
        boundary_px=boundary_px,
        middle_lines=middle_lines,
        gpus=gpus,
        processes=processes,
        expected=None if own is None else {**seen[0].train, **seen[0].val},
    )
    result, prints, per_image = compared(task)
    if result is None:
        return evaluate_project(
            model,
            project,
            split,
            as_dealt_now=True,
            tta=tta,
            overlap=overlap,
            also=also,
            boundary_px=boundary_px,
            middle_lines=middle_lines,
            gpus=gpus,
            processes=processes,
        )
    return Evaluation(
        model=str(model),
        images=len(samples),
        scores=result.scores,
        per_source=result.per_source,
        objects=result.objects,
        per_image=per_image,
        promise=promise_of(per_image),
        split_of="project" if own is None else "model",
        trained_on=tuple(
            name
            for name, known in prints.items()
            if any(one.has_trained(name, known.image, by_name=own is not None) for one in seen)
        ),
    )


def _refuse_other_classes(project: Project, card: ModelCard) -> None:
    if project.class_names != card.classes or project.class_values != card.class_values:
        its = _named(project.class_names, project.class_values)
        what = f"its classes are {its}, the model's {_named(card.classes, card.class_values)}"
        raise InputError(project.file, what, "Evaluate with a project of the same classes")


def _told_apart(project: Project, card: ModelCard) -> dict[str, Parts]:
    """Return the classes whose objects are compared: those that the model tells apart."""
    return {name: project.instances.get(name, "joined") for name in card.instances}


def seen_by(file: Path) -> _Seen:
    """Return what a model was trained and validated on: of its file, or of the run beside it."""
    card = read_card(file)
    if card.trained_on:
        return _Seen(train=card.trained_on, val=card.validated_on)
    run = Run(file.parent)
    plan = read_plan(run) if run.plan_file.is_file() else None
    if plan is None or card.run != run.id:
        return _Seen(train={}, val={})
    return _Seen(train=dict.fromkeys(plan.train_images, ""), val=dict.fromkeys(plan.val_images, ""))


def _own_split(samples: Sequence[Sample], seen: Sequence[_Seen]) -> list[Sample] | None:
    """Return the samples in the parts they had in the models' training; None if that is unknown.

    Several models have one only where they were trained and validated on the same images. What
    they never saw is for testing.
    """
    first = seen[0]
    if any(
        (one.train.keys(), one.val.keys()) != (first.train.keys(), first.val.keys()) for one in seen
    ):
        return None
    result: list[Sample] = []
    for sample in samples:
        names = (sample.name, full_name(sample.source, sample.name, sample.image))
        if any(name in first.train for name in names):
            result.append(replace(sample, split="train"))
        elif any(name in first.val for name in names):
            result.append(replace(sample, split="val"))
        else:
            result.append(replace(sample, split="test"))
    return result if any(one.split != "test" for one in result) else None


def evaluate_folders(
    model: Path,
    images: str,
    masks: str,
    *,
    tta: bool,
    overlap: float,
    also: Sequence[Path] = (),
    boundary_px: float = BOUNDARY_TOLERANCE_PX,
    middle_lines: bool = False,
    gpus: int | None = None,
    processes: int = 1,
) -> Evaluation:
    """Compare the model with a folder of images and a folder of their masks or annotations."""
    card = check_members((model, *also))
    classes = dict(zip(card.classes, card.class_values, strict=True))
    here = Path.cwd() / "project.toml"
    place = str(Path(masks).absolute())
    faults: Exception | None = None
    # The folder's content decides: masks are pictures, annotations are not.
    for kind in ("masks", "annotations"):
        source = Source(
            images=str(Path(images).absolute()),
            masks=place if kind == "masks" else None,
            annotations=place if kind == "annotations" else None,
            split="test",
            unlabelled="skip",
        )
        project = Project(
            file_name=str(here),
            project=Naming(name="evaluation"),
            classes=classes,
            instances=dict.fromkeys(card.instances, "joined"),
            data=(source,),
        )
        try:
            return evaluate_project(
                model,
                project,
                "test",
                as_dealt_now=True,
                tta=tta,
                overlap=overlap,
                also=also,
                boundary_px=boundary_px,
                middle_lines=middle_lines,
                gpus=gpus,
                processes=processes,
            )
        except (DataFaults, InputError) as error:
            faults = faults or error
    assert faults is not None
    raise faults


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
    lines.append(f"mean IoU {mean}, foreground {fore}, pixel accuracy {scores.accuracy:.4f}")
    lines += _table_of_objects(found.objects)
    lines += promises.table_of(found.per_image, found.promise)
    if len(found.per_source) > 1:
        for name, one in found.per_source.items():
            lines.append(f"  {printable(name)}: mean IoU {_four(one.mean_iou)}")
    whose = ", as the model's training dealt them" if found.split_of == "model" else ""
    lines.append(f"{found.images} images{whose}, {scores.pixels} labelled pixels")
    if found.trained_on:
        number = f"{len(found.trained_on)} of these {found.images} images"
        lines.append(f"warning: the model was trained on {number}: {few(found.trained_on)}")
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


def _named(names: Sequence[str], values: Sequence[int]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in zip(names, values, strict=True))
