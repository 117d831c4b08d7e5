"""Compare a model file with masks of images it has not seen."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import torch

from emcfsys_engine.dataset.samples import list_samples
from emcfsys_engine.errors import DataFaults, InputError, printable
from emcfsys_engine.learn.inference.predictor import Predictor, check_members
from emcfsys_engine.learn.inference.tiles import Tiles
from emcfsys_engine.learn.training.dataset import Dataset
from emcfsys_engine.learn.training.metrics import BOUNDARY_TOLERANCE_PX, Scores
from emcfsys_engine.learn.training.validation import validate
from emcfsys_engine.project import Naming, Project, Source


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """How well a model does on labelled images."""

    model: str
    images: int
    scores: Scores
    per_source: dict[str, Scores]


def evaluate_project(
    model: Path,
    project: Project,
    split: str,
    *,
    tta: bool,
    overlap: float,
    also: Sequence[Path] = (),
    boundary_px: float = BOUNDARY_TOLERANCE_PX,
) -> Evaluation:
    """Compare the model with one split of a project ("all" for everything labelled).

    `also` names more model files: an ensemble.
    Units: `boundary_px` is how far a predicted boundary may lie from the true one.
    Raises: InputError if the project's classes are not the model's, or the split is empty.
    """
    predictor = Predictor.of((model, *also), tta=tta, overlap=overlap)
    card = predictor.card
    if project.class_names != card.classes or project.class_values != card.class_values:
        what = f"its classes are {_named(project)}, the model's {', '.join(card.classes)}"
        raise InputError(project.file, what, "Evaluate with a project of the same classes")
    found = list_samples(project, for_training=False)
    samples = [
        sample
        for sample in found.samples
        if sample.label is not None and split in ("all", sample.split)
    ]
    if not samples:
        raise InputError(project.file, f"has no labelled images in split {split!r}", "Use --split")
    if project.project.pixel_nm is None and card.pixel_nm is not None:
        naming = msgspec.structs.replace(project.project, pixel_nm=card.pixel_nm)
        project = msgspec.structs.replace(project, project=naming)
    dataset = Dataset(samples, project, predictor.normaliser)
    dataset.check()
    with torch.inference_mode():
        result = validate(
            predictor.forward,
            dataset,
            None,
            device=predictor.device,
            tiles=Tiles(px=predictor.tile_px, batch=predictor.batch),
            overlap=overlap,
            tta=tta,
            merged=predictor.merged,
            boundary_px=boundary_px,
        )
    return Evaluation(
        model=str(model), images=len(samples), scores=result.scores, per_source=result.per_source
    )


def evaluate_folders(
    model: Path,
    images: str,
    masks: str,
    *,
    tta: bool,
    overlap: float,
    also: Sequence[Path] = (),
    boundary_px: float = BOUNDARY_TOLERANCE_PX,
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
            data=(source,),
        )
        try:
            return evaluate_project(
                model,
                project,
                "test",
                tta=tta,
                overlap=overlap,
                also=also,
                boundary_px=boundary_px,
            )
        except (DataFaults, InputError) as error:
            faults = faults or error
    assert faults is not None
    raise faults


def table_of(found: Evaluation) -> str:
    """Return the numbers as a table for people."""
    width = max(5, *(len(printable(name)) for name in found.scores.iou))
    lines = [f"{'class':<{width}}   IoU    F1     precision  recall  boundary F1"]
    scores = found.scores
    for name in scores.iou:
        of_class = (scores.iou, scores.f1, scores.precision, scores.recall, scores.boundary_f1)
        cells = [numbers.get(name) for numbers in of_class]
        iou, f1, precision, recall, edge = ("–" if n is None else f"{n:.4f}" for n in cells)
        lines.append(
            f"{printable(name):<{width}}   {iou:<6} {f1:<6} {precision:<9}  {recall:<6}  {edge}"
        )
    mean = "–" if scores.mean_iou is None else f"{scores.mean_iou:.4f}"
    fore = "–" if scores.mean_foreground_iou is None else f"{scores.mean_foreground_iou:.4f}"
    lines.append(f"mean IoU {mean}, foreground {fore}, pixel accuracy {scores.accuracy:.4f}")
    if len(found.per_source) > 1:
        for name, one in found.per_source.items():
            value = "–" if one.mean_iou is None else f"{one.mean_iou:.4f}"
            lines.append(f"  {printable(name)}: mean IoU {value}")
    lines.append(f"{found.images} images, {scores.pixels} labelled pixels")
    return "\n".join(lines)


def _named(project: Project) -> str:
    return ", ".join(project.class_names)
