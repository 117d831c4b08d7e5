"""Adapt a model with a few corrected images: the small project that such a training runs in.

Of each image a quarter is kept aside for validation and the rest trains: so one image is enough.
"""

import glob
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tifffile

from emcfsys_engine.annotations.draw import annotation_ids
from emcfsys_engine.annotations.files import find_annotations
from emcfsys_engine.annotations.formats.labelme import untouched
from emcfsys_engine.annotations.masks import LabelTable, mask_facts, read_mask, recipe_of, table_of
from emcfsys_engine.annotations.numbered import read_numbers, write_numbers
from emcfsys_engine.annotations.pair_masks import behind_masks, masks_that_count
from emcfsys_engine.annotations.pair_shapes import pair_shapes, part_for
from emcfsys_engine.annotations.pairing import bare_name, root_of
from emcfsys_engine.annotations.writer import write_png
from emcfsys_engine.dataset.objects import drawn_ids
from emcfsys_engine.errors import AnnotationError, InputError, UnknownClassError
from emcfsys_engine.images.micrograph import ImageRef, Micrograph
from emcfsys_engine.images.output_names import as_blind_disks_see, instances_of
from emcfsys_engine.images.reader import find_images, read_micrograph
from emcfsys_engine.images.writers import is_companion
from emcfsys_engine.model_card import SAME_PIXEL, ModelCard, read_card
from emcfsys_engine.project import UNLABELLED, Project, load_project
from emcfsys_engine.text import for_shell
from emcfsys_engine.tools.new_project import toml_text

_MOST_RESCALED = 4  # times that images are enlarged or made smaller
_SMALLEST_SIDE_PX = 64  # of an image, half of which is a validation quarter's side


def make_adaptation(
    model: Path, images: Sequence[str], out: Path, *, labels: str | None, minutes: float
) -> Project:
    """Write the project of an adaptation into a new folder: masks, validation quarters, settings.

    `labels`: a folder, file or glob of the images' masks or annotations; None: they lie beside
    each image. Raises: InputError, before anything is written, for an image without labels.
    """
    card = read_card(model)
    if out.exists():
        raise InputError(out, "is there already", "Name another folder with --out")
    refs = [ref for pattern in images for ref in _images(pattern)]
    names = _names(refs)
    try:
        read = [(ref, *_labelled(ref, labels, card)) for ref in refs]
    except UnknownClassError as fault:  # there is no project that could map it
        remedy = (
            f"The model's are {', '.join(card.classes)}: call it by one of them. For other classes "
            f"make a project (emcfsys-engine new) and train it with --from {for_shell(model)}"
        )
        raise UnknownClassError(fault.where, fault.what, remedy) from None
    for kind in ("masks", "quarters", "quarter_masks"):
        (out / kind).mkdir(parents=True)
    tables: list[str] = []
    for (ref, micrograph, ids, numbers), name in zip(read, names, strict=True):
        place = _quarter(ids)
        train = ids.copy()
        train[place] = UNLABELLED
        write_png(out / "masks" / f"{name}.png", train)
        write_png(out / "quarter_masks" / f"{name}.png", ids[place])
        if card.instances and numbers is not None:
            beside = instances_of(Path(f"{name}.png")).name
            write_numbers(out / "masks" / beside, train, numbers)
            write_numbers(out / "quarter_masks" / beside, ids[place], numbers[place])
        _write_image(out / "quarters" / f"{name}.tif", micrograph, place)
        tables.append(_table(str(ref.path.absolute()), f"masks/{name}.png", "train"))
        tables.append(_table(f"quarters/{name}.tif", f"quarter_masks/{name}.png", "val"))
    file = out / "project.toml"
    pixel_nm = _pixel_nm_of(card, [one[1] for one in read])
    file.write_text(_toml(model, card, tables, minutes, pixel_nm), encoding="utf-8")
    return load_project(file)


def _images(pattern: str) -> list[ImageRef]:
    found = [ref for ref in find_images(pattern, Path.cwd()) if not is_companion(ref.path)]
    if stacks := [ref for ref in found if ref.plane is not None]:
        what = "is a stack: one image a file is adapted to"
        raise InputError(stacks[0].path, what, "Save its planes as images of their own")
    return found


def _names(refs: Sequence[ImageRef]) -> list[str]:
    names = [bare_name(ref.path.name) for ref in refs]
    alike = Counter(map(as_blind_disks_see, names))
    for ref, name in zip(refs, names, strict=True):
        if alike[as_blind_disks_see(name)] > 1:
            what = "shares its name with another image"
            raise InputError(ref.path, what, "Adapt to one of them, or rename one")
    return names


def _labelled(
    ref: ImageRef, labels: str | None, card: ModelCard
) -> tuple[Micrograph, np.ndarray, np.ndarray | None]:
    """Return an image, its class ids, and its objects where labels are shapes or number them.

    Shapes: uint8 H×W, 255 is unlabelled; integers H×W.
    """
    micrograph = read_micrograph(ref)
    height, width = micrograph.pixels.shape[:2]
    if min(height, width) < _SMALLEST_SIDE_PX:
        what = f"is only {width} × {height} pixels"
        raise InputError(ref.path, what, f"Take one of at least {_SMALLEST_SIDE_PX}²")
    classes = dict(zip(card.classes, card.class_values, strict=True))
    table = table_of(classes, {})
    found = _of_shapes(ref, labels, table, (height, width)) or _of_mask(ref, labels, table, card)
    if found is None:
        where = f"in {labels}" if labels else "beside it"
        what = f"has no labels {where}"
        raise InputError(ref.path, what, "Save its Labelme file there, or name --labels FOLDER")
    ids, numbers = found
    if ids.shape != (height, width):
        what = f"is {width} × {height} pixels, its labels are {ids.shape[1]} × {ids.shape[0]}"
        raise InputError(ref.path, what, "Pair it with its own labels")
    if (ids == UNLABELLED).all():
        raise InputError(ref.path, "has labels that say nothing", "Draw at least one outline")
    return micrograph, ids, numbers


def _pattern(ref: ImageRef, labels: str | None) -> str:
    stem = glob.escape(bare_name(ref.path.name))
    return labels or str(Path(glob.escape(str(ref.path.parent.absolute())), f"{stem}*"))


def _of_shapes(
    ref: ImageRef, labels: str | None, table: LabelTable, size_HW: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray] | None:
    pattern = _pattern(ref, labels)
    faults: list[InputError] = []
    found = find_annotations(pattern, Path.cwd(), faults, [])
    if faults and labels is None:
        raise faults[0]
    for path in behind_masks(found):  # the mask beside it is what somebody corrected
        del found[path]
    waiting = untouched(found)
    pairs = pair_shapes([ref], ref.path.parent, found, root_of(pattern, Path.cwd()))
    place = pairs.of_image.get(ref)
    if place is None:
        return None
    if place[0] in waiting:
        raise AnnotationError(place[0], "is a suggestion that nobody saved yet", "Save it first")
    annotation = part_for(found[place[0]][place[1]], ref)
    if annotation.size_HW not in (None, size_HW):
        height, width = annotation.size_HW or (0, 0)
        what = f"is of an image of {width} × {height} pixels, {ref.path.name} is "
        raise AnnotationError(place[0], f"{what}{size_HW[1]} × {size_HW[0]}", "Draw it again")
    return annotation_ids(annotation, table, size_HW), drawn_ids(annotation, table, size_HW)


def _of_mask(
    ref: ImageRef, labels: str | None, table: LabelTable, card: ModelCard
) -> tuple[np.ndarray, np.ndarray | None] | None:
    pattern = _pattern(ref, labels)
    root = root_of(pattern, Path.cwd())
    masks = [one for one in find_images(pattern, Path.cwd()) if one.path != ref.path.absolute()]
    mask = masks_that_count(masks).pairs([ref], ref.path.parent, root)[0].get(ref)
    if mask is None:
        return None
    values = tuple(sorted(card.class_values))
    recipe = recipe_of([mask_facts(mask, table)], table, values)
    return read_mask(mask, table, recipe, values), read_numbers(mask, must_read=True)


def _quarter(ids: np.ndarray) -> tuple[slice, slice]:
    """Return the corner that shows most classes, of equals the one with the most labelled pixels.

    Shapes: ids are uint8 H×W.
    """
    down, across = (side // 2 for side in ids.shape)
    corners = [
        (rows, columns)
        for rows in (slice(down, None), slice(0, down))
        for columns in (slice(across, None), slice(0, across))
    ]

    def worth(place: tuple[slice, slice]) -> tuple[int, int]:
        counts = np.bincount(ids[place].ravel(), minlength=256)[:UNLABELLED]
        return int((counts > 0).sum()), int(counts.sum())

    return max(corners, key=worth)


def _write_image(file: Path, micrograph: Micrograph, place: tuple[slice, slice]) -> None:
    """Write a part of an image, in its own numbers and with its pixel size."""
    in_colour = micrograph.pixels.ndim == 3
    metadata: dict[str, object] = {"axes": "YXS" if in_colour else "YX"}
    if micrograph.pixel_nm is not None:
        for letter, side in zip("YX", micrograph.pixel_nm, strict=True):
            metadata[f"PhysicalSize{letter}"] = side
            metadata[f"PhysicalSize{letter}Unit"] = "nm"
    kind = "rgb" if in_colour and micrograph.pixels.shape[2] > 2 else "minisblack"
    tifffile.imwrite(file, micrograph.pixels[place], ome=True, metadata=metadata, photometric=kind)


def _table(images: str, masks: str, split: str) -> str:
    return (
        f'[[data]]\nimages = {toml_text(images)}\nmasks = {toml_text(masks)}\nsplit = "{split}"\n'
    )


def _pixel_nm_of(card: ModelCard, images: Sequence[Micrograph]) -> float | None:
    """Return the model's pixel size, where that of the images is known and another one.

    At it the model finds what it knows in the size that it knows. Where one is many times the
    other, images show other things, and enlarged ones would fill the memory.
    """
    sizes = [(one.pixel_nm[0] * one.pixel_nm[1]) ** 0.5 for one in images if one.pixel_nm]
    if card.pixel_nm is None or len(sizes) < len(images):
        return None
    factors = [one / card.pixel_nm for one in sizes]
    if all(abs(one - 1) <= SAME_PIXEL for one in factors):
        return None
    is_near = all(1 / _MOST_RESCALED <= one <= _MOST_RESCALED for one in factors)
    return card.pixel_nm if is_near else None


def _toml(
    model: Path,
    card: ModelCard,
    tables: Sequence[str],
    minutes: float,
    pixel_nm: float | None,
) -> str:
    classes: Mapping[str, int] = dict(zip(card.classes, card.class_values, strict=True))
    listed = "\n".join(
        f"{toml_text(name)} = {{ value = {value}, instances = true }}"
        if name in card.instances
        else f"{toml_text(name)} = {value}"
        for name, value in classes.items()
    )
    data = "\n".join(tables)
    sized = "" if pixel_nm is None else f"pixel_nm = {pixel_nm!r}\n"
    return f"""\
# Made by:  emcfsys-engine adapt. Of each image a quarter validates, the rest trains.

[project]
name = {toml_text(f"{card.project or model.stem}, adapted")}
{sized}
[classes]
{listed}

{data}
[model]
head = {toml_text(card.network.head)}
backbone = {toml_text(card.network.backbone)}
start = {toml_text(str(model.absolute()))}

# The images are of the microscope that it is for: there is no time to learn of others.
[augment]
preset = "light"

[training]
minutes = {minutes:g}
"""
