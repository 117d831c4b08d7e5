"""Where labels lie in a folder of images: the layouts that people and tools really leave."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from emcfsys_engine.annotations.files import find_annotations
from emcfsys_engine.annotations.masks import LabelTable, read_stencil
from emcfsys_engine.annotations.pair_shapes import pair_shapes
from emcfsys_engine.annotations.pairing import Key, is_label_name, key_of_file, match
from emcfsys_engine.errors import AnnotationError, InputError, ProjectError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.reader import find_images, read_micrograph
from emcfsys_engine.images.writers import is_companion
from emcfsys_engine.project import UNLABELLED, Project
from emcfsys_engine.suffixes import is_left_alone

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "raw", "micrographs", "data", "input")
MASK_FOLDERS = ("masks", "mask", "labels", "label", "seg", "segmentations", "segmentation", "gt")
ANNOTATION_FOLDERS = ("annotations", "annotation", "labelme", "json", "coco", "rois")
_NEVER = frozenset({"runs", "predictions", "incoming"})  # ours, and what comes from a microscope
_MOST_FOLDERS = 24
_FEW_VALUES = 32  # fewer are classes, whatever the picture
_FLAT_SHARE = 0.6  # of neighbours that are equal: a mask is flat, a micrograph is noise


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Images and labels that belong together, as project.toml says it."""

    images: str
    kind: Literal["masks", "annotations"]
    labels: str
    num_images: int
    num_pairs: int
    class_folders: tuple[str, ...] = ()  # below `labels`, where each holds the masks of one class


def best_layout(folder: Path) -> Layout | None:
    """Return the layout of a folder in which most images have labels; None without images.

    Folders with the usual names are asked first, then labels beside the images, then any folder.
    """
    usual = _usual(folder)
    found = [*_in_class_folders(folder, usual), *_layouts(folder, usual, named=True)]
    if not any(one.num_pairs for one in found):
        folders = _folders(folder)
        found += _layouts(
            folder, [(one, other) for one in folders for other in folders], named=False
        )
    # Of equals the first: the usual names come first.
    best = max(found, key=lambda one: one.num_pairs, default=None)
    return _narrowed(folder, best) if best is not None and best.num_pairs else best


def _narrowed(folder: Path, found: Layout) -> Layout:
    """Name the one folder that holds all images, where it is "." and the labels lie elsewhere."""
    if found.images != "." or found.labels == ".":
        return found
    refs = images_in(folder, ".", found.labels)
    tops = {ref.path.relative_to(folder).parts[0] for ref in refs}
    top = tops.pop()
    if tops or not (folder / top).is_dir() or Path(found.labels).is_relative_to(top):
        return found
    same = list(_layouts(folder, [(top, found.labels)], named=True))
    return max((found, *same), key=lambda one: (one.num_pairs, one is not found))


def images_in(folder: Path, place: str, labels: str | None = None) -> list[ImageRef]:
    """Return the micrographs of a place: no masks beside them, nothing that we wrote."""
    root = folder / place
    apart = folder / labels if labels is not None and labels != place else None
    try:
        found = find_images(place, folder)
    except InputError:
        return []
    return [
        ref
        for ref in found
        if not is_companion(ref.path)
        and not (apart is not None and apart != root and ref.path.is_relative_to(apart))
        and not set(ref.path.relative_to(root).parts[:-1]) & _NEVER
        and not (apart is None and is_label_name(ref.path))
    ]


def _usual(folder: Path) -> list[tuple[str, str]]:
    """Return pairs of places: for images, and for labels."""
    subfolders = {entry.name.lower(): entry.name for entry in folder.iterdir() if entry.is_dir()}
    image_places = [subfolders[name] for name in IMAGE_FOLDERS if name in subfolders] or ["."]
    label_places = [
        subfolders[name] for name in (*MASK_FOLDERS, *ANNOTATION_FOLDERS) if name in subfolders
    ]
    pairs = [(images, labels) for images in image_places for labels in label_places]
    return [*pairs, *((images, images) for images in image_places)]


def _folders(folder: Path) -> list[str]:
    """Return the folders below that hold files, by name; the folder itself is "."."""
    found = ["."]
    for entry in sorted(folder.rglob("*")):
        parts = entry.relative_to(folder).parts
        hidden = any(part.startswith(".") or part in _NEVER for part in parts)
        if not hidden and len(parts) <= 2 and entry.is_dir() and not entry.is_symlink():
            found.append(entry.relative_to(folder).as_posix())
        if len(found) >= _MOST_FOLDERS:
            break
    return found


def _in_class_folders(folder: Path, places: Iterable[tuple[str, str]]) -> Iterable[Layout]:
    """Yield the layouts in which one image has masks in several folders: one folder a class."""
    for images, labels in places:
        if images == labels:
            continue
        by_class = masks_by_class(folder / labels)
        if not all(_looks_like_a_mask(next(iter(masks.values()))) for masks in by_class.values()):
            continue
        refs = images_in(folder, images, labels)
        keys = {key: key for masks in by_class.values() for key in masks}
        if pairs := match(refs, folder / images, keys)[0]:
            yield Layout(
                images=images,
                kind="masks",
                labels=labels,
                num_images=len(refs),
                num_pairs=len(pairs),
                class_folders=tuple(by_class),
            )


def _layouts(folder: Path, places: Iterable[tuple[str, str]], *, named: bool) -> Iterable[Layout]:
    """Yield what each pair of places amounts to; places named as labels are taken at their word."""
    for images, labels in places:
        refs = images_in(folder, images, labels)
        if not refs:
            continue
        drawn = find_annotations(labels, folder, [], [])
        pairs = pair_shapes(refs, folder / images, drawn, folder / labels) if drawn else None
        yield Layout(
            images=images,
            kind="annotations",
            labels=labels,
            num_images=len(refs),
            num_pairs=len(pairs.of_image) if pairs else 0,
        )
        yield Layout(
            images=images,
            kind="masks",
            labels=labels,
            num_images=len(refs),
            num_pairs=_mask_pairs(folder, refs, images, labels, named=named),
        )


def _mask_pairs(
    folder: Path, refs: Sequence[ImageRef], images: str, labels: str, *, named: bool
) -> int:
    """Return how many images have a mask there; none where the files look like micrographs."""
    known = set(refs)
    masks = [
        ref
        for ref in find_images(labels, folder)
        if ref not in known and not is_companion(ref.path)
        and (labels != images or is_label_name(ref.path))
    ]  # fmt: skip
    keys = {mask: key_of_file(mask.path, folder / labels, mask.plane) for mask in masks}
    pairs = match(refs, folder / images, keys)[0]
    first = next(iter(pairs.values()), None)
    return len(pairs) if first is not None and (named or _looks_like_a_mask(first)) else 0


def _looks_like_a_mask(ref: ImageRef) -> bool:
    try:
        pixels = read_micrograph(ref).pixels
    except InputError:
        return True  # `check` says what is wrong with it
    if pixels.dtype.itemsize == 1 and len(np.unique(pixels)) <= _FEW_VALUES:
        return True
    same = pixels[:, 1:] == pixels[:, :-1]
    return bool(np.mean(same) >= _FLAT_SHARE) if same.size else True


MasksByClass = dict[str, dict[Key, ImageRef]]


def masks_by_class(root: Path) -> MasksByClass:
    """Return folder -> its masks by name, where several folders below root hold masks of one name.

    Elsewhere it is empty: folders of a split, or of samples, hold masks of different names.
    """
    if not root.is_dir():
        return {}
    found: MasksByClass = {}
    folders = (one for one in root.iterdir() if one.is_dir() and not is_left_alone(one.name))
    for folder in sorted(folders):
        masks = [one for one in find_images(".", folder) if not is_companion(one.path)]
        if masks:
            found[folder.name] = {key_of_file(mask.path, folder): mask for mask in masks}
    names = [key for masks in found.values() for key in masks]
    return found if len(names) > len(set(names)) else {}


def paint_stencils(
    parts: Sequence[tuple[str, Path]], table: LabelTable, size_HW: tuple[int, ...]
) -> np.ndarray:
    """Return the class ids that (folder's name, mask) paint, later ones over earlier ones.

    Shapes: uint8 H×W; a mask of another size is returned as it is, for the caller to name.
    """
    ids = np.full(size_HW, table.undrawn, np.uint8)
    for name, path in parts:
        class_id = table.of_name(name)
        stencil = read_stencil(path)
        if stencil.shape != tuple(size_HW):
            return stencil.astype(np.uint8)
        ids[stencil] = UNLABELLED if class_id is None else class_id
    return ids


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
