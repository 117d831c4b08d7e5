"""Mask files to class ids: index, two values, ranges, instances, palettes, colours, painted."""

import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np

from emcfsys_engine.annotations.shapes import Shape
from emcfsys_engine.errors import AnnotationError, ImageError, UnknownClassError
from emcfsys_engine.images.damaged_files import fenced, quiet_libraries
from emcfsys_engine.images.formats import frames, picture, tiff
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.reader import format_of, read_micrograph
from emcfsys_engine.project import UNLABELLED, Project, Source

IGNORED_LABELS = frozenset(
    {"__ignore__", "ignore", "unlabelled", "unlabeled", "void", "Ignore*"}  # the last is QuPath's
)
BACKGROUND_LABELS = frozenset({"_background_", "background"})
REVIEWED = "reviewed"  # a shape of this name says where a person looked, unless it is a class
# Numbers that a person or a script put behind a class's name; "phase1" is a name of its own.
_NUMBERED = re.compile(r"[ _\-.#]+\d+$")
OTHER = "other"  # in [data.labels]: every value or colour that no other line names


@dataclass(frozen=True, kw_only=True)
class LabelTable:
    """What one source's labels mean.

    Shapes: values is a list of (low, high, class id), both ends included; colours are 0xRRGGBB.
    """

    values: tuple[tuple[int, int, int], ...]
    colours: dict[int, int] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    other: int | None = None
    background: int = UNLABELLED  # the class that is called background, when there is one
    ignores_undrawn: bool = False  # what no shape covers is unlabelled, not background
    ranges: tuple[tuple[int, int], ...] = ()  # values that [data.labels] maps as ranges
    numbers: frozenset[int] = frozenset()  # values that [data.labels] names one by one
    reviewed: str | None = None  # inside shapes of this name what is not drawn is background

    @property
    def undrawn(self) -> int:
        """What no shape covers, and what a painted-over image shows."""
        return UNLABELLED if self.ignores_undrawn else self.background

    def of_value(self, value: int) -> int | None:
        """Return the class id of a mask value; None when it is no class."""
        for low, high, class_id in self.values:
            if low <= value <= high:
                return class_id
        return self.other

    def of_name(self, name: str) -> int | None:
        """Return the class id of a label's name; None when it is no class."""
        if name in self.names:
            return self.names[name]
        if name in IGNORED_LABELS:
            return UNLABELLED
        if name in BACKGROUND_LABELS and self.background != UNLABELLED:
            return self.background
        if name.isdecimal() and len(name) < 10:  # tools without names write the class's number
            return self.of_value(int(name))
        return self.other

    def of_shape(self, shape: Shape) -> int | None:
        """Return the class id of a shape; None when its label is no class.

        A name with a number ("mito_12", "mito-0003") is that class if it is one, else its stem.
        """
        if shape.full_name in self.names:
            return self.names[shape.full_name]
        known = self.of_name(shape.label)
        if known is None and shape.full_name:
            stem = _NUMBERED.sub("", shape.full_name)
            return self.names.get(stem)
        return known

    def is_reviewed(self, shape: Shape) -> bool:
        """Tell whether a shape says where a person looked, rather than what is there."""
        if self.reviewed is not None:
            return self.reviewed in (shape.label, shape.full_name)
        return shape.label == REVIEWED and self.of_name(REVIEWED) in (None, self.other)

    def nearest_name(self, name: str) -> str:
        """Return the known name that looks most like this one; empty when none does."""
        by_lower = {known.lower(): known for known in self.names}
        near = difflib.get_close_matches(name.lower(), by_lower, 1, 0.6)
        return by_lower[near[0]] if near else ""

    def lookup(self, largest: int) -> np.ndarray:
        """Return an array that maps every value up to `largest`; -1 is no class.

        Shapes: int16, largest + 1 long.
        """
        table = np.full(largest + 1, -1 if self.other is None else self.other, np.int16)
        for low, high, class_id in reversed(self.values):
            table[max(low, 0) : high + 1] = class_id
        return table


def label_table(project: Project, source: Source) -> LabelTable:
    """Return what the labels of a source mean; its own [data.labels] go before the classes."""
    table = table_of(project.classes, source.labels)
    return replace(table, ignores_undrawn=source.undrawn == "ignore", reviewed=source.reviewed)


def table_of(classes: Mapping[str, int], labels: Mapping[str, str]) -> LabelTable:
    """Return what labels mean, from classes (name to value) and labels (own word to class name).

    Keys of [data.labels] are values ("255"), ranges ("128-255"), colours ("#ff0000"), names, and
    "other" for all the rest.
    """
    values: list[tuple[int, int, int]] = []
    colours: dict[int, int] = {}
    names = dict(classes)
    other = None
    for key, meaning in labels.items():
        class_id = UNLABELLED if meaning == "ignore" else classes[meaning]
        names[key] = class_id
        word = key.strip()
        span = re.fullmatch(r"(\d+)(?:\s*(?:-|–|\.\.)\s*(\d+))?", word)
        if span:
            values.append((int(span[1]), int(span[2] or span[1]), class_id))
        elif re.fullmatch(r"#[0-9a-fA-F]{6}", word):
            colours[int(word[1:], 16)] = class_id
        elif word == OTHER:
            other = class_id
    own = [(value, value, value) for value in (*classes.values(), UNLABELLED)]
    return LabelTable(
        values=(*values, *own),
        colours=colours,
        names=names,
        other=other,
        ranges=tuple((low, high) for low, high, _ in values if low < high),
        numbers=frozenset(low for low, high, _ in values if low == high),
        background=0 if 0 in classes.values() else UNLABELLED,
    )


# "index": values go through the label table. "two_values": 0 and 255 are the project's two classes.
MaskRecipe = Literal["index", "two_values"]
_LEVEL_SHARE = 0.005  # of the pixels: what a level holds at least
_MOST_LEVELS = 6
_DENSE = 0.5  # of all numbers up to the largest are used
_APART = 24  # grey values between two levels at least
_NEAR = 12  # grey values to either side of a level that JPEG leaves of it
_SMOOTH_SHARE, _LOSSY_SHARE = 0.85, 0.6  # of the pixels are near a level
_FLAT = 0.5  # of the pixels beside the levels are like their neighbours: numbers
_FEWEST = 3  # values beside the levels, before a mask is called smoothed
_NUMBERED_OBJECTS = 20  # wrong values: so many are no classes
_STRIP_ROWS = 512
_NAMED_VALUES = 6  # so many wrong values are named in a message, the rest counted


@dataclass(frozen=True, kw_only=True)
class MaskFacts:
    """Which values a mask holds. Units: counts are pixels."""

    size_HW: tuple[int, int]
    values: tuple[tuple[int, int], ...]  # (value, pixels); colours are 0xRRGGBB
    in_colour: bool
    transparent: int = 0  # pixels that show nothing: unlabelled, and not among the values

    def class_of(self, value: int, table: LabelTable) -> int | None:
        """Return the class id of one of its values; None when it is no class."""
        return _class_of_colour(value, table) if self.in_colour else table.of_value(value)

    def unknown(self, table: LabelTable) -> tuple[tuple[int, int], ...]:
        """Return the (value, pixels) that are no class, most pixels first."""
        wrong = [(v, n) for v, n in self.values if self.class_of(v, table) is None]
        return tuple(sorted(wrong, key=lambda pair: -pair[1]))


def mask_facts(ref: ImageRef, table: LabelTable) -> MaskFacts:
    """Read a mask and count its values.

    Raises: AnnotationError when it is no mask.
    """
    stored, clear_HW = _stored(ref, table)
    size_HW = (stored.shape[0], stored.shape[1])
    in_colour = stored.ndim == 3
    if clear_HW is not None:
        stored = stored[~clear_HW]
    if in_colour:
        colours, counts = np.unique(_packed(stored), return_counts=True)
    elif stored.dtype.itemsize == 1:
        strips = range(0, len(stored), _STRIP_ROWS)  # bincount makes eight bytes of each
        counted = [np.bincount(stored[n : n + _STRIP_ROWS].ravel(), minlength=256) for n in strips]
        all_counts = np.sum(counted, axis=0) if counted else np.zeros(256, np.int64)
        colours = np.flatnonzero(all_counts)
        counts = all_counts[colours]
    else:
        colours, counts = np.unique(stored, return_counts=True)
    pairs = zip(colours.tolist(), counts.tolist(), strict=True)
    return MaskFacts(
        size_HW=size_HW,
        values=tuple((int(value), int(count)) for value, count in pairs),
        in_colour=in_colour,
        transparent=0 if clear_HW is None else int(clear_HW.sum()),
    )


def read_mask(
    ref: ImageRef, table: LabelTable, recipe: MaskRecipe, values: tuple[int, ...]
) -> np.ndarray:
    """Return class ids; `values` are the project's class values, lowest first.

    Shapes: uint8 H×W, 255 where unlabelled.
    Raises: AnnotationError for values that are no class, each named with its pixels.
    """
    stored, clear_HW = _stored(ref, table)
    lookup = np.zeros(0, np.int16)
    if stored.ndim == 2 and recipe == "index" and (largest := int(stored.max(initial=0))) < 1 << 20:
        lookup = table.lookup(largest)
    made = np.empty(stored.shape[:2], np.uint8)
    for top in range(0, len(stored), _STRIP_ROWS):  # an index by values takes eight bytes of each
        strip = slice(top, top + _STRIP_ROWS)
        if stored.ndim == 3:
            ids = _ids_of_colours(stored[strip], table)
        elif recipe == "two_values":
            ids = np.where(stored[strip] == 0, values[0], values[1]).astype(np.int16)
        else:
            ids = lookup[stored[strip]] if lookup.size else _ids_of_large(stored[strip], table)
        if clear_HW is not None:
            ids[clear_HW[strip]] = UNLABELLED
        if (ids < 0).any():
            facts = mask_facts(ref, table)
            raise unknown_values(ref, facts.unknown(table), facts)
        made[strip] = ids
    return made


def _ids_of_large(stored: np.ndarray, table: LabelTable) -> np.ndarray:
    """Return the class ids of instance numbers, which can be any 32-bit value; -1 is no class."""
    found, places = np.unique(stored, return_inverse=True)
    known = [table.of_value(int(v)) for v in found]
    ids = np.array([-1 if k is None else k for k in known], np.int16)[places]
    return ids.reshape(stored.shape)


def recipe_of(
    facts: Collection[MaskFacts], table: LabelTable, class_values: Sequence[int]
) -> MaskRecipe:
    """Tell whether all masks of a source hold only 0 and 255, and there are two classes."""
    held = {value for one in facts for value, _ in one.values}
    # Those of the table's own labels stand before the classes and "unlabelled".
    own = table.values[: -1 - len(class_values)]
    is_mapped = any(low <= UNLABELLED <= high for low, high, _ in own)
    in_colour = any(one.in_colour for one in facts)
    two = held == {0, UNLABELLED} and len(class_values) == 2 and not is_mapped and not in_colour
    return "two_values" if two else "index"


def read_instances(
    ref: ImageRef, table: LabelTable, *, numbered: bool = False
) -> np.ndarray | None:
    """Return the numbers of a mask's objects where a range of [data.labels] says they are numbers.

    Smoothed edges are mapped by ranges, too, but are no numbers: there, and where no range maps
    the values, None. With numbered a person has said that these are.
    Shapes: integers H×W.
    """
    if numbered:
        numbers_HW, clear_HW = _stored(ref, table)
        return numbers_HW if clear_HW is None else np.where(clear_HW, 0, numbers_HW)
    if not table.ranges:
        return None
    facts = mask_facts(ref, table)
    numbers = sum(
        any(low <= value <= high for low, high in table.ranges) for value, _ in facts.values
    )
    if facts.in_colour or numbers < 2 or is_smoothed(facts, ref):
        return None
    numbers_HW, clear_HW = _stored(ref, table)
    return numbers_HW if clear_HW is None else np.where(clear_HW, 0, numbers_HW)


def is_smoothed(facts: MaskFacts, ref: ImageRef) -> bool:
    """Tell whether the values between a few levels come from smoothed edges: JPEG, anti-aliasing.

    In a mask of numbered objects no two values hold nearly everything with the rest between them.
    """
    return not facts.in_colour and len(levels_of(facts, ref)) > 1


def levels_of(facts: MaskFacts, ref: ImageRef) -> tuple[int, ...]:
    """Return the few values that a smoothed mask was made of; none where it is not smoothed."""
    total = sum(count for _, count in facts.values)
    counts = dict(facts.values)
    if max(counts, default=0) > UNLABELLED or len(counts) < 3:
        return ()
    levels: list[int] = []
    for value, count in sorted(counts.items(), key=lambda pair: -pair[1]):
        if count >= _LEVEL_SHARE * total and all(abs(value - one) >= _APART for one in levels):
            levels.append(value)
    near = sum(n for v, n in counts.items() if any(abs(v - one) <= _NEAR for one in levels))
    least = _LOSSY_SHARE if _is_lossy(ref) else _SMOOTH_SHARE
    between = len(counts) - len(levels)
    if len(levels) > _MOST_LEVELS:  # a ramp; numbered objects have no gaps in their numbers
        has_gaps = len(counts) < _DENSE * (max(counts) + 1)
        return (0, UNLABELLED) if has_gaps and {0, UNLABELLED} <= counts.keys() else ()
    if len(levels) < 2 or near < least * total or (between < _FEWEST and not _is_lossy(ref)):
        return ()
    return () if _others_are_flat(ref, levels) else tuple(sorted(levels))


def _others_are_flat(ref: ImageRef, levels: Sequence[int]) -> bool:
    """Tell whether the values beside the levels fill areas, as numbers of objects do.

    Of smoothed edges no pixel is like both its neighbours below and to the right: on real masks 0
    to 1 % are (JPEG of 30 to 90, resized), of numbered objects 94 to 98 %.
    """
    stored, _ = _stored(ref, LabelTable(values=()))
    other = ~np.isin(stored, levels)[:-1, :-1]
    here = stored[:-1, :-1]
    is_flat = (here == stored[:-1, 1:]) & (here == stored[1:, :-1])
    return bool(other.any()) and float(is_flat[other].mean()) > _FLAT


def _is_lossy(ref: ImageRef) -> bool:
    try:
        with ref.path.open("rb") as file:
            start = file.read(12)
    except OSError:
        return False
    lossy = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"RIFF", b"\0\0\0\x0cjP  ")
    return start.startswith(lossy) or start[4:8] == b"ftyp"


def ranges_between(levels: tuple[int, ...]) -> list[str]:
    """Return ranges that part the values 0 to 255 half-way between levels."""
    ends = [(low + high) // 2 for low, high in pairwise(levels)]
    starts = [0, *(end + 1 for end in ends)]
    return [f"{low}-{high}" for low, high in zip(starts, [*ends, UNLABELLED], strict=True)]


def read_stencil(path: Path) -> np.ndarray:
    """Return where a class folder's mask is set: not 0, in any of its channels.

    Shapes: bool H×W.
    """
    stored, clear_HW = _stored(ImageRef(path=path), LabelTable(values=()))
    is_set = np.any(stored > 0, axis=2) if stored.ndim == 3 else np.greater(stored, 0)
    return is_set if clear_HW is None else is_set & ~clear_HW


def unknown_values(
    ref: ImageRef, wrong: tuple[tuple[int, int], ...], facts: MaskFacts
) -> UnknownClassError:
    """Return the error that names values which are no class, and what to write."""
    commonest = next((value for value, _ in wrong), 0)
    if facts.in_colour:
        named = ", ".join(f"#{value:06x} ({count:,} px)" for value, count in wrong[:_NAMED_VALUES])
        what = f"is a colour picture, and these colours are no class: {named}{_more(wrong)}"
        first = f"#{commonest:06x}"
        remedy = f'Name them under [data.labels], as in "{first}" = "…", or save an index mask'
        return UnknownClassError(str(ref), what, remedy)
    levels = levels_of(facts, ref)
    if levels:
        cause = "JPEG or its like" if _is_lossy(ref) else "anti-aliasing or JPEG"
        what = (
            f"holds {len(facts.values)} grey values around {_listed(levels)}: its edges are "
            f"smoothed, by {cause}"
        )
        lines = _listed(tuple(f'"{one}" = "…"' for one in ranges_between(levels)))
        remedy = f"Give ranges under [data.labels]: {lines}"
        return UnknownClassError(str(ref), what, remedy)
    if len(wrong) > _NUMBERED_OBJECTS:
        largest = max(value for value, _ in facts.values)  # 255 is a number there, too
        what = f"holds {len(facts.values):,} values up to {largest:,}, as masks of numbered objects"
        remedy = f'Map them by a range under [data.labels], as in "1-{largest}" = "…"'
        return UnknownClassError(str(ref), what, remedy)
    named = ", ".join(
        f"value {value} is no class ({count:,} px)" for value, count in wrong[:_NAMED_VALUES]
    )
    remedy = f'Add it to [classes], or map it under [data.labels], as in "{commonest}" = "…"'
    if len(wrong) > 3:  # numbered objects
        remedy += f'; instance numbers are mapped by a range: "1-{max(v for v, _ in wrong)}" = "…"'
    return UnknownClassError(str(ref), named + _more(wrong), remedy)


def _listed(words: tuple[object, ...]) -> str:
    *first, last = map(str, words)
    return f"{', '.join(first)} and {last}" if first else last


def _more(wrong: tuple[tuple[int, int], ...]) -> str:
    return f" and {rest} more" if (rest := len(wrong) - _NAMED_VALUES) > 0 else ""


def _stored(ref: ImageRef, table: LabelTable) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the values of a mask, and where it is transparent; None where it is nowhere.

    Shapes: H×W or H×W×3, bool H×W.
    """
    stored = _read_stored(ref, table)
    clear_HW = _clear_in_palette(ref)
    if stored.ndim == 2:
        return _whole_numbers(ref, stored), clear_HW
    if clear_HW is None and stored.shape[2] in (2, 4):
        clear_HW = stored[..., -1] == 0
    if clear_HW is not None and clear_HW.any():
        stored = np.where(clear_HW[..., None], 0, stored)  # whatever lies under it
    else:
        clear_HW = None
    return _whole_numbers(ref, _grey_or_colour(stored)), clear_HW


def _clear_in_palette(ref: ImageRef) -> np.ndarray | None:
    """Return where a picture's palette makes it transparent, bool H×W; None where nowhere."""
    name = format_of(ref.path)
    if name not in ("picture", "frames") or ref.plane:
        return None
    with quiet_libraries(), fenced(ref.path):
        entries = picture.clear_entries(ref.path)
        if entries is None:
            return None
        clear_HW = entries[_read_indices(ref, in_colour=False)]
    return clear_HW if clear_HW.any() else None


def _read_stored(ref: ImageRef, table: LabelTable) -> np.ndarray:
    """Return H×W integers, or H×W×3 bytes where colours matter."""
    try:
        with quiet_libraries():
            return _read_indices(ref, in_colour=bool(table.colours))
    except ImageError as error:
        raise AnnotationError(error.where, error.what, error.remedy) from None


def _whole_numbers(ref: ImageRef, stored: np.ndarray) -> np.ndarray:
    if stored.dtype.kind == "b":
        return stored.astype(np.uint8)
    if stored.dtype.kind == "f":
        if not np.isfinite(stored).all() or (stored != np.rint(stored)).any():
            what = "holds fractions, so it is no mask"
            raise AnnotationError(str(ref), what, "Save class values as whole numbers")
        return stored.astype(np.int64)
    if stored.dtype.kind == "i" and int(stored.min(initial=0)) < 0:
        lowest = int(stored.min())
        raise AnnotationError(
            str(ref), f"holds negative values down to {lowest}", "Use values from 0 to 255"
        )
    return stored


def _read_indices(ref: ImageRef, *, in_colour: bool) -> np.ndarray:
    name = format_of(ref.path)
    if not in_colour and name == "picture":
        return picture.read_indices(ref.path)
    if not in_colour and name == "frames":
        return frames.read_indices(ref.path, ref.plane or 0)
    if not in_colour and name == "tiff":
        return tiff.read_indices(ref.path, ref.plane or 0)
    return read_micrograph(ref).pixels


def _grey_or_colour(stored: np.ndarray) -> np.ndarray:
    if stored.shape[2] <= 2:
        return stored[..., 0]
    colours = stored[..., :3]
    if (colours == colours[..., :1]).all():
        return colours[..., 0]
    if colours.dtype == np.uint16:  # GIMP saves 8-bit paint as 16 bits
        return (colours >> 8).astype(np.uint8)
    return colours.astype(np.uint8)


def _packed(colours: np.ndarray) -> np.ndarray:
    wide = colours.astype(np.uint32)
    return (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]


def _is_grey(value: int) -> bool:
    return value >> 16 == (value >> 8) & 255 == value & 255


def _class_of_colour(value: int, table: LabelTable) -> int | None:
    if value in table.colours or table.other is not None:
        return table.colours.get(value, table.other)
    # Colour painted over the image itself: every grey pixel is what nobody painted.
    if table.colours and _is_grey(value) and table.background != UNLABELLED:
        return table.undrawn
    return None


def _ids_of_colours(stored: np.ndarray, table: LabelTable) -> np.ndarray:
    colours, places = np.unique(_packed(stored), return_inverse=True)
    known = [_class_of_colour(int(value), table) for value in colours]
    ids = np.array([-1 if k is None else k for k in known], np.int16)
    return ids[places].reshape(stored.shape[:2])
