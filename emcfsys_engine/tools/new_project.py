"""Make a project.toml from a folder of images: find labels beside them, propose classes."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emcfsys_engine.annotations.files import read_annotations
from emcfsys_engine.errors import EmcfError, InputError, ProjectError
from emcfsys_engine.files import write_whole
from emcfsys_engine.images.reader import find_images, read_micrograph

_IMAGE_FOLDERS = ("images", "image", "imgs", "raw", "micrographs")
_MASK_FOLDERS = ("masks", "mask", "labels", "label", "seg", "segmentations", "gt")
_ANNOTATION_FOLDERS = ("annotations", "annotation", "labelme", "json", "coco")
_LOOK_AT = 200  # label files that are read to find the classes


@dataclass(frozen=True, kw_only=True)
class NewProject:
    """A project.toml that was made, and what was decided on the way."""

    file: Path
    notes: tuple[str, ...]


def make_project(folder: Path, name: str | None = None) -> NewProject:
    """Write a commented project.toml into a folder of images.

    Raises: InputError without images; ProjectError if there is a project.toml already.
    """
    if not folder.is_dir():
        raise InputError(folder, "is no folder", "Name the folder that holds your images")
    file = folder / "project.toml"
    if file.exists():
        raise ProjectError(file, "", "is there already", "Edit it, or remove it first")
    folder = folder.absolute()
    images = _first(folder, _IMAGE_FOLDERS) or "."
    found = [ref for ref in find_images(images, folder) if not _is_label_place(folder, ref.path)]
    if not found:
        raise InputError(folder, "holds no micrographs", "Copy images into it, or name another")
    kind, place = _labels(folder, images)
    classes, notes = _classes(folder, kind, place)
    notes = [f"{len(found)} images in {images}", *notes]
    text = _toml(name or folder.name, images, kind, place, classes)
    write_whole(file, text.encode())
    return NewProject(file=file, notes=tuple(notes))


def _first(folder: Path, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if (folder / name).is_dir()), None)


def _is_label_place(folder: Path, path: Path) -> bool:
    first = path.relative_to(folder).parts[0]
    return first in (*_MASK_FOLDERS, *_ANNOTATION_FOLDERS, "runs", "predictions", "incoming")


def _labels(folder: Path, images: str) -> tuple[str, str]:
    """Return ("masks" or "annotations", place); annotations beside the images if nothing else."""
    if place := _first(folder, _MASK_FOLDERS):
        holds_json = any((folder / place).rglob("*.json"))
        return ("annotations" if holds_json else "masks"), place
    if place := _first(folder, _ANNOTATION_FOLDERS):
        return "annotations", place
    if any((folder / images).rglob("*.json")):
        return "annotations", images
    return "annotations", "annotations"


def _classes(folder: Path, kind: str, place: str) -> tuple[dict[str, int], list[str]]:
    if kind == "masks":
        return _classes_of_masks(folder, place)
    (folder / place).mkdir(exist_ok=True)
    labels: set[str] = set()
    files = sorted((folder / place).rglob("*"))[: _LOOK_AT * 4]
    for path in files[:_LOOK_AT]:
        if not path.is_file():
            continue
        try:
            labels |= {shape.label for one in read_annotations(path) for shape in one.shapes}
        except EmcfError:
            continue  # `check` names what is wrong with it
    if not labels:
        note = f"no labels yet: put Labelme files into {place}/ and mend [classes]"
        return {"background": 0, "object": 1}, [note]
    background = [name for name in labels if name.lower() in ("background", "bg", "_background_")]
    names = [*(background or ["background"]), *sorted(labels - set(background))]
    return {name: value for value, name in enumerate(names)}, [f"classes: {', '.join(names)}"]


def _classes_of_masks(folder: Path, place: str) -> tuple[dict[str, int], list[str]]:
    values: set[int] = set()
    for ref in find_images(place, folder)[:_LOOK_AT]:
        try:
            values |= {int(value) for value in np.unique(read_micrograph(ref).pixels)}
        except EmcfError:
            continue  # `check` names what is wrong with it
    values.discard(255)
    if not values <= set(range(255)) or len(values) < 2:
        return {"background": 0, "object": 1}, ["masks hold 0 and 255: two classes"]
    names = {value: "background" if value == 0 else f"class_{value}" for value in sorted(values)}
    note = f"mask values {', '.join(map(str, sorted(values)))}: give the classes their names"
    return {name: value for value, name in names.items()}, [note]


def _toml(name: str, images: str, kind: str, place: str, classes: dict[str, int]) -> str:
    lines = "\n".join(f"{_key(label)} = {value}" for label, value in classes.items())
    return f"""\
# Train with:  emcfsys-engine train project.toml
# Check with:  emcfsys-engine check project.toml

[project]
name = {json.dumps(name)}
# pixel_nm = 12.5        # only if the files do not say

[classes]                # name = value in a mask; 255 is unlabelled
{lines}

[[data]]
images = {json.dumps(images)}
{kind} = {json.dumps(place)}
split  = "auto"          # train | val | test | auto

[training]
preset = "standard"      # quick | standard | best
# minutes = 10           # or steps = 2000

[hotfolder]
watch  = "incoming"
output = "predictions"
"""


def _key(label: str) -> str:
    return (
        label
        if label.replace("_", "").replace("-", "").isalnum() and label.isascii()
        else (json.dumps(label))
    )
