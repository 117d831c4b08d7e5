"""Make a project.toml from a folder of images: find labels beside them, propose classes."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from emcfsys_engine.annotations.files import find_annotations
from emcfsys_engine.annotations.layouts import (
    ANNOTATION_FOLDERS,
    IMAGE_FOLDERS,
    MASK_FOLDERS,
    Layout,
    best_layout,
    images_in,
)
from emcfsys_engine.annotations.pairing import is_label_name
from emcfsys_engine.dataset.samples import gather
from emcfsys_engine.errors import InputError, ProjectError
from emcfsys_engine.files import remedy_of
from emcfsys_engine.images.own_files import write_new
from emcfsys_engine.images.reader import find_images, left_out_words, probe
from emcfsys_engine.project import MAX_CLASS_VALUE, load_project
from emcfsys_engine.text import for_shell, how_many
from emcfsys_engine.tools.new_classes import (
    Proposal,
    from_class_folders,
    from_masks,
    from_shapes,
)

_LOOK_AT = 200  # masks that are read to find the classes
_OPENED = 1000  # images whose headers are read to find those that are damaged
_MOST_FAULTS = 3  # that are told when a project is made; check tells all


@dataclass(frozen=True, kw_only=True)
class NewProject:
    """A project.toml that was made, and what was decided on the way."""

    file: Path
    notes: tuple[str, ...]


class FoundClass(msgspec.Struct, frozen=True, kw_only=True):
    """A class that would be made, and where it was found."""

    name: str
    value: int
    shapes: int = 0  # of masks: 0
    images: int = 0


class Unreadable(msgspec.Struct, frozen=True, kw_only=True):
    """A file that cannot be used as it is."""

    file: str
    what: str
    remedy: str = ""


class FolderLook(msgspec.Struct, frozen=True, kw_only=True):
    """What a folder of images holds, before anything is written."""

    file: str  # the project.toml that would be made
    images: str
    num_images: int
    labels: str
    kind: str  # masks | annotations
    num_labelled: int
    classes: tuple[FoundClass, ...]
    alike: tuple[tuple[str, str], ...]  # pairs of labels that may be one class
    unreadable: tuple[Unreadable, ...]
    notes: tuple[str, ...]


def look_into(
    folder: Path, merge: Mapping[str, str] | None = None, classes: Sequence[str] = ()
) -> FolderLook:
    """Return what `make_project` would find and propose; nothing is written.

    `merge`: names of labels that mean the class of another name.
    `classes`: names for a folder without labels, first the one that nobody draws.
    Raises: InputError without images; ProjectError if there is a project.toml already.
    """
    folder, layout = _layout_of(folder)
    faults: list[InputError] = []
    images = images_in(folder, layout.images, layout.labels)
    for image in images[:_OPENED]:
        try:
            probe(image.path)
        except InputError as fault:
            faults.append(fault)
    proposal = _proposal(folder, layout, merge or {}, classes, faults)
    rest = len(images) - _OPENED
    notes = [f"of {how_many(rest, 'more image')} only the name was looked at"] if rest > 0 else []
    return FolderLook(
        file=str(folder / "project.toml"),
        images=layout.images,
        num_images=layout.num_images,
        labels=layout.labels,
        kind=layout.kind,
        num_labelled=layout.num_pairs,
        classes=tuple(
            FoundClass(name=name, value=value, shapes=held[0], images=held[1])
            for name, value in proposal.classes.items()
            for held in (proposal.held.get(name, (0, 0)),)
        ),
        alike=proposal.alike,
        unreadable=tuple(
            Unreadable(file=str(fault.where), what=fault.what, remedy=fault.remedy)
            for fault in faults
        ),
        notes=(*notes, *proposal.notes),
    )


def make_project(
    folder: Path,
    name: str | None = None,
    merge: Mapping[str, str] | None = None,
    classes: Sequence[str] = (),
) -> NewProject:
    """Write a commented project.toml into a folder of images.

    `merge`: names of labels that mean the class of another name.
    `classes`: names for a folder without labels, first the one that nobody draws.
    Raises: InputError without images; ProjectError if there is a project.toml already.
    """
    folder, layout = _layout_of(folder)
    file = folder / "project.toml"
    faults: list[InputError] = []
    proposal = _proposal(folder, layout, merge or {}, classes, faults)
    _write(file, _toml(name or folder.name, layout, proposal).encode("utf-8", "replace"))
    images = how_many(layout.num_images, "image")
    counts = f"{images} in {layout.images}, {_num_labelled(file)} with labels"
    where = f"{layout.kind} in {layout.labels}" if layout.num_pairs else "no labels found"
    left_out: list[Path] = []
    find_images(layout.images, folder, left_out)
    left = [f"{layout.images}: {left_out_words(left_out)}"] if left_out else []
    told = [str(fault) for fault in faults[:_MOST_FAULTS]]
    if len(faults) > len(told):
        told.append(
            f"and {len(faults) - len(told)} more: emcfsys-engine check {for_shell(file)} names all"
        )
    return NewProject(file=file, notes=(f"{counts} ({where})", *left, *proposal.notes, *told))


def _write(file: Path, content: bytes) -> None:
    try:
        write_new(file, content)
    except FileExistsError:
        raise _is_there(file) from None
    except OSError as error:
        what = f"cannot be written: {error.strerror}"
        raise InputError(file, what, remedy_of(error)) from None


def _is_there(file: Path) -> ProjectError:
    return ProjectError(file, "", "is there already", "Edit it, or remove it first")


def _num_labelled(file: Path) -> int:
    """Count as `check` does."""
    return len(gather(load_project(file), for_training=False).samples)


def _layout_of(folder: Path) -> tuple[Path, Layout]:
    if not folder.is_dir():
        raise InputError(folder, "is no folder", "Name the folder that holds your images")
    file = folder / "project.toml"
    if file.exists():
        raise _is_there(file)
    folder = folder.absolute()
    layout = best_layout(folder)
    if layout is None:
        raise InputError(folder, "holds no micrographs", "Copy images into it, or name another")
    return folder, layout if layout.num_pairs else _without_labels(folder, layout)


def _without_labels(folder: Path, layout: Layout) -> Layout:
    """Return where labels will be put: in the folder that is there for them, else by the images.

    Beside its image is where Labelme saves, and where it looks when it opens the image again.
    """
    named = {entry.name.lower(): entry.name for entry in folder.iterdir() if entry.is_dir()}
    images = next((named[one] for one in IMAGE_FOLDERS if one in named), layout.images)
    place = next((named[one] for one in ANNOTATION_FOLDERS if one in named), None)
    mask_place = next((named[one] for one in MASK_FOLDERS if one in named), None)
    count = len(images_in(folder, images, place or mask_place))
    if place is None and mask_place is not None:
        return Layout(images=images, kind="masks", labels=mask_place, num_images=count, num_pairs=0)
    place = place or images
    return Layout(images=images, kind="annotations", labels=place, num_images=count, num_pairs=0)


def _proposal(
    folder: Path,
    layout: Layout,
    merge: Mapping[str, str],
    classes: Sequence[str],
    faults: list[InputError],
) -> Proposal:
    found = _from_labels(folder, layout, merge, faults)
    if found is None:
        where = "beside the images" if layout.labels == layout.images else f"into {layout.labels}/"
        notes = (
            "no labels yet: name the classes first, as they will be called in Labelme",
            f"then train, draw, and save {where}: labels join the training as they come",
        )
        return Proposal(classes=_named(classes or ("background", "object")), notes=notes)
    if classes:
        what = f"the labels in {folder / layout.labels} tell the classes"
        raise InputError("--classes", what, "Leave it out, and rename them in project.toml")
    return found


def _from_labels(
    folder: Path, layout: Layout, merge: Mapping[str, str], faults: list[InputError]
) -> Proposal | None:
    """Return the classes that labels tell; None where there are no labels."""
    if layout.kind == "masks":
        if merge:
            raise InputError("--merge", "labels are masks, which have no names", "Leave it out")
        if layout.class_folders:
            return from_class_folders(layout.class_folders)
        masks = find_images(layout.labels, folder)
        if layout.labels == layout.images:
            masks = [mask for mask in masks if is_label_name(mask.path)]
        return from_masks(masks[:_LOOK_AT], faults) if masks else None
    found = find_annotations(layout.labels, folder, faults, [])
    proposal = from_shapes([one for several in found.values() for one in several], merge)
    if proposal is not None:
        _refuse_unknown(merge, proposal)
    return proposal


def _named(classes: Sequence[str]) -> dict[str, int]:
    """Return values for names of classes: 0 for what is not drawn."""
    wrong = {"", "ignore"} & {*classes} or len({*classes}) < len(classes)
    if wrong or not 2 <= len(classes) <= MAX_CLASS_VALUE + 1:
        what = (
            f"{', '.join(classes)!r}: two or more different names are needed, none of them ignore"
        )
        raise InputError("--classes", what, "Write like background,object")
    return {name: value for value, name in enumerate(classes)}


def _refuse_unknown(merge: Mapping[str, str], proposal: Proposal) -> None:
    for label, name in merge.items():
        if label not in proposal.labels:
            what = f'no shape is called "{label}", or "{name}" is no class'
            raise InputError("--merge", what, f"Classes are {', '.join(proposal.classes)}")


def _toml(name: str, layout: Layout, proposal: Proposal) -> str:
    classes = "\n".join(f"{_key(label)} = {value}" for label, value in proposal.classes.items())
    labels = "".join(f"{toml_text(own)} = {toml_text(to)}\n" for own, to in proposal.labels.items())
    mapped = f"\n[data.labels]            # own value or name -> class\n{labels}" if labels else ""
    bare = ""
    if layout.kind == "annotations":
        mark = "" if proposal.undrawn == "ignore" else "# "
        bare = (
            f'{mark}undrawn = "ignore"     # what no shape covers is unlabelled, not background\n'
        )
    follow = (
        "" if layout.num_pairs else "follow = true            # labels join as they are drawn\n"
    )
    return f"""\
# Train with:  emcfsys-engine train project.toml
# Check with:  emcfsys-engine check project.toml

[project]
name = {toml_text(name)}
# pixel_nm = 12.5        # only if the files do not say

[classes]                # name = value in a mask; 255 is unlabelled
{classes}

[[data]]
images = {toml_text(layout.images)}
{layout.kind} = {toml_text(layout.labels)}
split  = "auto"          # train | val | test | auto
{bare}{mapped}
[training]
{follow}preset = "standard"      # quick | standard | best
# minutes = 10           # or steps = 2000

[hotfolder]
watch  = "incoming"
output = "predictions"
"""


def toml_text(words: str) -> str:
    """Return a TOML string: JSON's, without its pairs of surrogates and with DEL escaped."""
    clean = words.encode("utf-8", "replace").decode("utf-8")
    return json.dumps(clean, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(label: str) -> str:
    return label if re.fullmatch(r"[A-Za-z0-9_-]+", label) else toml_text(label)
