"""Images of a [[data]] table without labels: what is said of them, and what would pair."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from emcfsys_engine.annotations.layouts import best_layout
from emcfsys_engine.errors import AnnotationError, InputError, ProjectError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.project import Project

_AGREE = "Names must agree: images/a.tif goes with a.png, a_mask.png or a.json"
_DRAW = "Draw some there; a training with training.follow = true waits for them"


def name_unlabelled(
    project: Project,
    index: int,
    images: Sequence[ImageRef],
    labels: Mapping[ImageRef, object],
    has_files: bool,
    faults: list[InputError],
    notes: list[str],
) -> None:
    """Name the images of a [[data]] table that have no labels.

    `has_files`: whether there are labels where they are looked for, be they of another image.
    """
    source = project.data[index]
    missing = [image for image in images if image not in labels]
    where = source.masks or source.annotations
    if not missing:
        return
    is_none = len(missing) == len(images) and not source.teaches_unlabelled
    skips = source.skips_unlabelled or project.training.follow
    if is_none and (skips or len(images) > 1):
        what = f"none of its {len(images)} images has labels in {where!r}"
        nothing = "" if project.training.follow else _DRAW
        remedy = what_pairs(project.folder, _AGREE if has_files else nothing)
        if not remedy:
            notes.append(f"data.{index}: {what} yet: a training that follows waits for them")
            return
        faults.append(ProjectError(project.file, f"data.{index}", what, remedy))
        return
    if skips:
        teach = ": they teach without" if source.teaches_unlabelled else ""
        notes.append(f"data.{index}: {len(missing)} of {len(images)} images have no labels{teach}")
        return
    for image in missing:
        remedy = 'Add its labels, or say unlabelled = "skip" in this [[data]] table'
        faults.append(AnnotationError(str(image), f"has no labels in {where!r}", remedy))


def what_pairs(folder: Path, other: str = _AGREE) -> str:
    """Return what to write so that images and labels pair, when something in the folder does.

    `other`: what is said where nothing does.
    """
    layout = best_layout(folder)
    if layout is None or not layout.num_pairs:
        return other
    counts = f"{layout.num_pairs} of {layout.num_images} images"
    lines = f'images = "{layout.images}" and {layout.kind} = "{layout.labels}"'
    return f"These would pair {counts}: {lines}"
