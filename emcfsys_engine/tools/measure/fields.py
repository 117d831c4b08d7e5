"""The masks of a folder as fields: which files, what their values mean, how large a pixel is."""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from emcfsys_engine.annotations.contradictions import contradictions, may_contradict, notes_of_masks
from emcfsys_engine.annotations.layouts import masks_by_class
from emcfsys_engine.annotations.masks import (
    LabelTable,
    MaskFacts,
    MaskRecipe,
    levels_of,
    read_instances,
    read_mask,
    table_of,
)
from emcfsys_engine.annotations.numbered import open_numbers
from emcfsys_engine.annotations.pair_masks import masks_that_count
from emcfsys_engine.annotations.pairing import root_of
from emcfsys_engine.errors import AnnotationError, ImageError, InputError
from emcfsys_engine.images.damaged_files import quiet_libraries
from emcfsys_engine.images.micrograph import ImageFacts, ImageRef, Micrograph
from emcfsys_engine.images.normalise import to_grey
from emcfsys_engine.images.other_outputs import left_out_outputs
from emcfsys_engine.images.output_names import instances_there
from emcfsys_engine.images.reader import find_images, probe, read_micrograph
from emcfsys_engine.images.writers import TIFF_SOFTWARE, is_companion
from emcfsys_engine.project import UNLABELLED
from emcfsys_engine.text import few, how_many
from emcfsys_engine.tools.measure.results import MeasureSettings, NotMeasured
from emcfsys_engine.tools.measure.runs import Runs, runs_beside, runs_of
from emcfsys_engine.tools.measure.tables import Unit
from emcfsys_engine.tools.new_classes import Proposal, facts_of, from_facts

_CENTIMETRE = 3
_NM_PER_CM = 1e7
SAME_SIZE = 0.01  # relative: calibrations of one magnification differ by less
_LARGEST_NM = 10_000.0  # larger pixels are dots of a printer or a scanner


def pixel_nm_of(
    mask: ImageRef, image: ImageRef | None, facts_of: Callable[[Path], ImageFacts] = probe
) -> tuple[float, float] | None:
    """Return the pixel size: the image's, else the mask's own; None when neither says.

    `facts_of`: asks a file, or remembers what it said.
    Units:  nm, (y, x).
    Raises: ImageError when a file cannot be read.
    """
    if image is not None:
        size = facts_of(image.path).pixel_nm_of(image.plane)
        if size is not None:
            return size
    return _written_size(mask.path) or facts_of(mask.path).pixel_nm_of(mask.plane)


def _written_size(mask: Path) -> tuple[float, float] | None:
    """Return the size that `predict` wrote: exactly, as a PNG's text, or as a TIFF's resolution."""
    try:
        with quiet_libraries():
            if mask.suffix.lower() == ".png":
                return _png_text(mask)
            if mask.suffix.lower() in (".tif", ".tiff"):
                return _tiff_resolution(mask)
    except (OSError, ValueError, SyntaxError, tifffile.TiffFileError):
        return None  # a damaged file is named when its pixels are read
    return None


def _png_text(mask: Path) -> tuple[float, float] | None:
    with Image.open(mask) as picture:
        words = str(picture.info.get("pixel_nm", "")).split()
    if len(words) != 2:
        return None
    return _checked(float(words[0]), float(words[1]), math.inf)  # ours alone: of no printer


def _tiff_resolution(mask: Path) -> tuple[float, float] | None:
    """Return the resolution in pixels a centimetre of a TIFF written by tifffile, as ours are."""
    with tifffile.TiffFile(mask) as tiff:
        tags = tiff.pages.first.tags
        unit, maker = tags.get("ResolutionUnit"), tags.get("Software")
        if unit is None or int(unit.value) != _CENTIMETRE or maker is None:
            return None
        if not str(maker.value).startswith("tifffile"):
            return None
        most = math.inf if str(maker.value) == TIFF_SOFTWARE else _LARGEST_NM
        sizes: list[float] = []
        for name in ("YResolution", "XResolution"):
            over, under = tags[name].value if name in tags else (0, 1)
            sizes.append(_NM_PER_CM * under / over if over else math.inf)
    return _checked(sizes[0], sizes[1], most)


def _checked(down: float, across: float, most: float) -> tuple[float, float] | None:
    good = all(math.isfinite(size) and 0 < size < most for size in (down, across))
    return (down, across) if good else None


def parse_pixel_nm(text: str) -> tuple[float, float]:
    """Return (y, x) from "12.5" or, where rows and columns differ, "12.5,10".

    Raises: InputError for anything else.
    """
    try:
        numbers = [float(word) for word in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or not all(math.isfinite(n) and n > 0 for n in numbers):
        remedy = "Write nanometres: 12.5, or height,width as 12.5,10"
        raise InputError("--pixel-nm", f"{text!r} is no pixel size", remedy)
    return numbers[0], numbers[-1]


_TWO_VALUES = {0, UNLABELLED}
MaskOf = tuple[ImageRef, MaskFacts]


@dataclass(kw_only=True)
class Items:
    """Masks to measure, and what went wrong or should be said on the way."""

    masks: list[ImageRef]
    image_of: dict[ImageRef, ImageRef]
    root: Path
    failed: list[NotMeasured] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    without_numbers: list[str] = field(default_factory=list)  # masks whose file of them is not used
    may_contradict: bool = False  # in what their values mean, so that all have to be looked at
    of_models: frozenset[ImageRef] = frozenset()  # masks as a model made them: nobody changed them

    def say_without_numbers(self) -> None:
        """Say which files of objects' numbers were left aside."""
        if masks := self.without_numbers:
            why = "the mask was changed since, or they cannot be read"
            are = how_many(len(masks), "mask is", "masks are")
            self.notes.append(f"{are} measured without these ({few(masks, 3)}): {why}")

    def fail(self, mask: ImageRef, fault: InputError) -> None:
        self.failed.append(NotMeasured(file=str(mask), why=why_not_measured(mask, fault)))
        self.masks.remove(mask)


def why_not_measured(mask: ImageRef, fault: InputError) -> str:
    """Return why a mask could not be measured, in words that follow its name."""
    why = f"{fault.what}. {fault.remedy}".strip().rstrip(".")
    about = "" if str(fault.where) == str(mask) else f"{fault.where}: "
    return about + why


@dataclass(frozen=True, kw_only=True)
class Labels:
    """How a mask's pixels are read, and which of its classes have objects."""

    classes: Mapping[str, int]
    table: LabelTable
    recipe: MaskRecipe
    objects: tuple[int, ...]
    numbered: bool  # each value is one object, as a person said
    background: int  # -1: none

    @property
    def names(self) -> list[tuple[int, str]]:
        return sorted((value, name) for name, value in self.classes.items())


def _find_masks(
    masks: str, images: str | None, out: Path, base: Path, settings: MeasureSettings
) -> Items:
    root = root_of(images, base) if images else base
    refs = find_images(images, base) if images else []
    mask_root = root_of(masks, base)
    known = set(refs) if images != masks else set[ImageRef]()
    own = out.absolute()
    every = [
        ref for ref in find_images(masks, base) if ref not in known and not _is_ours(ref.path, own)
    ]
    beside = {ref for ref in every if is_companion(ref.path)}
    found = [ref for ref in every if ref not in beside]
    elsewhere = left_out_outputs(masks, base)
    if not found:
        what = f"holds no masks of its own: {elsewhere}" if elsewhere else "holds no masks"
        raise AnnotationError(base / masks, what, "Name masks or their folder")
    counting = masks_that_count(found)
    counting.drop_parts()
    items = Items(
        masks=counting.refs.copy(),
        image_of={},
        root=mask_root,
        of_models=frozenset(filter(counting.is_of_model, counting.refs)),
    )
    classes = settings.classes if not settings.numbered else None
    if classes is not None and settings.labels:
        counting.doubt_values(classes, settings.labels)
    elif classes is not None:
        for mask in counting.of_other_classes(classes):
            items.fail(mask, counting.other_classes(mask, "Measure it with --model of its own"))
    if images:
        pairs, left = counting.pairs(refs, root, mask_root)
        items.image_of = {mask: ref for ref, mask in pairs.items()}
        for mask in left:
            if mask in items.masks:
                remedy = "Mend the names, or leave out --images"
                items.fail(mask, AnnotationError(str(mask), f"no image of {images} fits", remedy))
    else:
        counting.doubt_namesakes()
    counting.name_beside(beside)
    items.notes += [*filter(None, [elsewhere]), *counting.notes]
    num_classes = 2 if classes is None or settings.labels else len(classes)
    items.may_contradict = may_contradict(counting, num_classes)
    return items


def _refuse_class_folders(place: Path, settings: MeasureSettings) -> None:
    """Refuse masks that lie in one folder a class: each alone says nothing of the other classes."""
    names = {*(settings.classes or ()), *settings.labels}
    if folders := [name for name in masks_by_class(place) if name in names]:
        what = f"has one folder of masks a class ({', '.join(folders)})"
        remedy = "Join them first: emcfsys-engine convert FOLDER --to masks --project PROJECT"
        raise AnnotationError(place, what, remedy)


def _is_ours(path: Path, out: Path) -> bool:
    return (
        path.absolute().parent == out
        and re.fullmatch(r"(histogram|grain-map)-.+\.png", path.name, re.DOTALL) is not None
    )


def _labels_of(items: Items, settings: MeasureSettings) -> Labels:
    """Decide what the masks' values mean."""
    classes = settings.classes
    labels: Mapping[str, str] = settings.labels
    recipe: MaskRecipe = "index"
    unsaid = not labels and not settings.numbered
    is_asked = classes is None or settings.numbered or items.may_contradict
    facts = facts_of(items.masks) if is_asked else []
    if not settings.numbered:
        _refuse_contradictions(facts, classes, labels)
    if unsaid and (classes is None or len(classes) == 2) and _hold_0_and_255(facts):
        recipe = "two_values"
        classes = classes or {"background": 0, "object": 1}
        low, high = sorted(classes, key=classes.__getitem__)
        items.notes.append(f'the masks hold only 0 and 255: taken as "{low}" and "{high}"')
    elif settings.numbered or (classes is None and _largest_number(facts) > UNLABELLED):
        classes, name = _one_object_class(classes)
        largest = max(1, _largest_number(facts))
        labels = {"0": next(iter(classes)), f"1-{largest}": name}
        items.notes.append(f"values up to {largest:,}: each is taken as one object")
    elif classes is None and unsaid and (proposal := _of_smoothed_or_coloured(facts)):
        classes, labels = proposal.classes, proposal.labels
        items.notes += [f"no classes were given: {note}" for note in proposal.notes]
    elif classes is None:
        classes = {"background": 0} | {f"class {value}": value for value in range(1, UNLABELLED)}
        items.notes.append("no classes were given: values are named class 1, class 2 …")
    items.notes += notes_of_masks(dict(facts), table_of(classes, settings.labels))
    background = settings.background or min(classes, key=classes.__getitem__)
    if background != "none" and background not in classes:
        remedy = f"Use one of: {', '.join(classes)}, none"
        raise InputError("--background", f"{background!r} is no class", remedy)
    return Labels(
        classes=classes,
        table=table_of(classes, labels),
        recipe=recipe,
        objects=tuple(sorted(v for name, v in classes.items() if name != background)),
        numbered=settings.numbered,
        background=classes.get(background, -1),
    )


def _refuse_contradictions(
    facts: Sequence[MaskOf], classes: Mapping[str, int] | None, labels: Mapping[str, str]
) -> None:
    named = from_facts(facts).classes if classes is None else classes
    if faults := contradictions(facts, table_of(named, labels), sorted(named.values())):
        raise faults[0]


def _of_smoothed_or_coloured(facts: Sequence[MaskOf]) -> Proposal | None:
    """Return the classes of masks whose values are none by themselves: of a JPEG, of colours."""
    if any(one.in_colour or levels_of(one, mask) for mask, one in facts):
        return from_facts(facts)
    return None


def _one_object_class(classes: dict[str, int] | None) -> tuple[dict[str, int], str]:
    """Return background and the class of all numbered objects, and that class's name."""
    if classes is None:
        return {"background": 0, "object": 1}, "object"
    if len(classes) != 2:
        what = f"needs a background and one class of objects, and there are {len(classes)} classes"
        raise InputError("--numbered", what, "Leave out --project and --model")
    low, high = sorted(classes, key=classes.__getitem__)
    return {low: classes[low], high: classes[high]}, high


def _hold_0_and_255(facts: Iterable[MaskOf]) -> bool:
    """Tell whether all masks together hold nothing but 0 and 255; the first other value ends it."""
    held: set[int] = set()
    for _, one in facts:
        held |= {value for value, _ in one.values}
        if one.in_colour or not held <= _TWO_VALUES:
            return False
    return held == _TWO_VALUES


def _largest_number(facts: Iterable[MaskOf]) -> int:
    """Return the largest value of all masks that hold whole numbers of one channel; 0 for none."""
    values = (value for _, one in facts if not one.in_colour for value, _ in one.values)
    return max(values, default=0)


def _pixel_sizes(
    items: Items, settings: MeasureSettings
) -> tuple[dict[ImageRef, tuple[float, float]], list[ImageRef]]:
    """Return the pixel size of each mask, 1 px for all where one is not known; and whose is not."""
    asked = lru_cache(maxsize=2)(probe)  # a stack and its mask: once a file
    if settings.pixel_nm is not None:
        items.notes += _other_sizes(items, settings.pixel_nm, asked)
        return dict.fromkeys(items.masks, settings.pixel_nm), []
    found: dict[ImageRef, tuple[float, float]] = {}
    unknown: list[ImageRef] = []
    for mask in tuple(items.masks):
        try:
            size = pixel_nm_of(mask, items.image_of.get(mask), asked)
        except InputError as fault:
            items.fail(mask, fault)
            continue
        if size is None and settings.fallback_nm is not None:
            size = (settings.fallback_nm, settings.fallback_nm)
        if size is None:
            unknown.append(mask)
        else:
            found[mask] = size
    if not unknown:
        return found, []
    which = (
        "no file says" if not found else f"{len(unknown)} files, as {unknown[0].name}, do not say"
    )
    remedy = "Give --pixel-nm" + (", which goes for all, or --project with theirs" if found else "")
    items.notes.append(f"{which} its pixel size: all numbers are in px. {remedy}")
    return dict.fromkeys(items.masks, (1.0, 1.0)), unknown


def _other_sizes(
    items: Items, told: tuple[float, float], facts_of: Callable[[Path], ImageFacts]
) -> Iterator[str]:
    """Say which files have another pixel size than the one that is told for all of them."""
    others: list[str] = []
    for mask, image in ((mask, items.image_of.get(mask)) for mask in items.masks):
        with suppress(InputError):  # it is named when it is read
            size = pixel_nm_of(mask, image, facts_of)
            if size is not None and not np.allclose(size, told, rtol=SAME_SIZE, atol=0):
                others.append(f"{mask.path.name} {max(size):.4g} nm")
    if others:
        taken = f"--pixel-nm is taken for all: {max(told):.4g} nm"
        yield f"{how_many(len(others), 'file')} of another pixel size ({few(others)}), and {taken}"


def _grey_of(micrograph: Micrograph, mask: ImageRef, size: tuple[int, int]) -> np.ndarray:
    grey = to_grey(micrograph.pixels)
    if grey.shape != size:
        mine, its = f"{size[1]}×{size[0]} px", f"{grey.shape[1]}×{grey.shape[0]} px"
        what = f"is {mine}, its image {micrograph.source} {its}"
        raise ImageError(str(mask), what, "Name the image that the mask was made of")
    return grey


def shown(mask: ImageRef, root: Path) -> str:
    """Return a mask's name below the folder that masks are found in, as tables have it."""
    try:
        name = mask.path.relative_to(root).as_posix()
    except ValueError:
        name = str(mask.path)
    return name if mask.plane is None else f"{name}#{mask.plane}"


@dataclass(frozen=True, kw_only=True)
class Field:
    """One mask as it is measured.

    Shapes: ids are uint8 H×W, 255 where unlabelled; grey is H×W of any real dtype.
    Units:  pixel is (y, x) in the unit of all fields.
    """

    name: str
    image: str  # empty without one
    ids: np.ndarray
    numbered: Runs | None  # of its objects, where the mask or a file beside it numbers them
    grey: np.ndarray | None
    pixel: tuple[float, float]
    size_HW: tuple[int, int]  # of the file: a painted bar below is no part of the field

    def of_size(self, pixel: tuple[float, float]) -> "Field":
        """Return the same field with pixels of another size."""
        return replace(self, pixel=pixel)


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Masks that are measured together, in one unit."""

    items: Items
    labels: Labels
    pixel_of: Mapping[ImageRef, tuple[float, float]]
    unit: Unit
    without_size: tuple[ImageRef, ...]  # masks whose pixel size nobody says: then all is in px
    reads_numbers: bool  # of objects in the file beside a mask: not where they are to be split

    def read(self, mask: ImageRef) -> Field:
        """Return one mask with its image.

        Raises: InputError when either cannot be read, or they do not fit.
        """
        labels = self.labels
        ids = read_mask(mask, labels.table, labels.recipe, tuple(v for v, _ in labels.names))
        size = (ids.shape[0], ids.shape[1])
        image = self.items.image_of.get(mask)
        grey = None
        if image is not None:
            micrograph = read_micrograph(image)
            grey = _grey_of(micrograph, mask, size)
            ids = ids[: size[0] - micrograph.info_bar_rows]  # a painted bar is no specimen
            grey = grey[: ids.shape[0]]
        return Field(
            name=shown(mask, self.items.root),
            image=str(image) if image is not None else "",
            ids=ids,
            numbered=self._numbered(mask, ids, grey),
            grey=grey,
            pixel=self.pixel_of[mask],
            size_HW=size,
        )

    def _numbered(self, mask: ImageRef, ids: np.ndarray, grey: np.ndarray | None) -> Runs | None:
        """Return the runs of numbered objects; None where nothing numbers them.

        The numbers of a large mask are four times its memory: they are read in bands.
        """
        numbers = read_instances(mask, self.labels.table, numbered=self.labels.numbered)
        if numbers is not None:
            return runs_of(numbers[: len(ids)], grey, nothing=0)
        beside = open_numbers(mask) if self.reads_numbers else None
        if beside is None:
            if self.reads_numbers and instances_there(mask.path) is not None:
                self.items.without_numbers.append(mask.path.name)
            return None
        with beside:
            return runs_beside(ids, beside, self.labels.background, grey)


def open_fields(
    masks: str, out: Path, settings: MeasureSettings, *, images: str | None, base: Path
) -> Fields:
    """Find the masks of a file, folder or glob, and what holds for all of them.

    Raises: InputError when there are no masks.
    """
    items = _find_masks(masks, images, out, base, settings)
    beside = [file for mask in items.masks if (file := instances_there(mask.path)) is not None]
    if beside and settings.split == "none":
        items.notes.append(
            f"{len(beside)} of {len(items.masks)} masks have their objects' numbers with them "
            f"({beside[0].name} …): they are used where the mask is unchanged"
        )
    _refuse_class_folders(base / Path(masks).expanduser(), settings)
    labels = _labels_of(items, settings)
    if settings.split != "none" and (labels.numbered or labels.table.ranges):
        what = "where masks number their objects each number is one"
        items.notes.append(f"--split {settings.split}: {what}, and nothing of it is split")
    pixel_of, unknown = _pixel_sizes(items, settings)
    unit: Unit = "px" if unknown else "nm"
    return Fields(
        items=items,
        labels=labels,
        pixel_of=pixel_of,
        unit=unit,
        without_size=tuple(unknown),
        reads_numbers=settings.split == "none",
    )
