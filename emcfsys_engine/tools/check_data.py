"""Images that are in training and in validation, openly or in disguise."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, Literal

import msgspec
import numpy as np
import shapely
from msgspec.structs import replace

from emcfsys_engine.annotations.draw import mask_of
from emcfsys_engine.annotations.masks import LabelTable, label_table
from emcfsys_engine.annotations.pair_shapes import annotation_for
from emcfsys_engine.annotations.shapes import Annotation, Shape
from emcfsys_engine.dataset.deals import side_of, twin_fault
from emcfsys_engine.dataset.facts_cache import FactsCache
from emcfsys_engine.dataset.samples import Sample
from emcfsys_engine.dataset.splits import ALIKE, likeness, rows_of_neighbours
from emcfsys_engine.errors import InputError, printable
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.normalise import ENOUGH_COLOUR, block_means, colour_share, to_grey
from emcfsys_engine.images.reader import probe, read_micrograph
from emcfsys_engine.project import UNLABELLED, Project
from emcfsys_engine.text import few, how_many


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A fault, or something that a person would want to know before training."""

    level: Literal["error", "warning"]
    file: str
    what: str
    remedy: str = ""

    @classmethod
    def of(cls, fault: InputError) -> "Finding":
        """Return an error that was raised, as a finding."""
        return cls(level="error", file=str(fault.where), what=fault.what, remedy=fault.remedy)

    @classmethod
    def warn(cls, file: Path | str, what: str, remedy: str = "") -> "Finding":
        """Return a warning."""
        return cls(level="warning", file=str(file), what=what, remedy=remedy)

    @classmethod
    def error(cls, file: Path | str, what: str, remedy: str = "") -> "Finding":
        """Return an error."""
        return cls(level="error", file=str(file), what=what, remedy=remedy)

    @property
    def text(self) -> str:
        """One line for a terminal."""
        what = self.what if self.what.endswith((".", "!", "?")) else f"{self.what}."
        remedy = (
            f" {self.remedy}." if self.remedy and not self.remedy.endswith(".") else self.remedy
        )
        return printable(f"{self.level}: {self.file}: {what}{remedy}")


_SATURATED_SHARE = 0.05  # of the pixels at one end of the scale
_SMALLEST_SIDE_PX = 64
_THREADS = 2


class PixelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen in an image's pixels.

    Shapes: the thumbnail holds 32×32 block means, uint8, row by row; empty for an unreadable image.
    """

    THUMBNAIL_PX: ClassVar[int] = 32

    thumbnail: bytes

    fault: tuple[str, str] | None = None
    constant: bool = False
    not_finite: int = 0
    lowest_share: float = 0.0
    highest_share: float = 0.0
    smallest_side: int = 0
    colour_share: float = 0.0  # of the pixels: no grey could tell them from others as bright


def pixel_facts(samples: Sequence[Sample], cache: FactsCache) -> dict[ImageRef, PixelFacts]:
    """Look at the pixels of these images; what cannot be read is a fault of its facts."""
    with ThreadPoolExecutor(_THREADS) as threads:
        facts = list(threads.map(lambda sample: _pixel_facts(sample, cache), samples))
    return {sample.image: seen for sample, seen in zip(samples, facts, strict=True)}


def image_findings(facts: Mapping[ImageRef, PixelFacts]) -> list[Finding]:
    """Return what is wrong with the pixels of these images."""
    return [finding for image, seen in facts.items() for finding in _judged(str(image), seen)]


def colour_findings(project: Project, facts: Mapping[ImageRef, PixelFacts]) -> list[Finding]:
    """Return images whose colour tells what their greys do not, where a network reads greys."""
    if project.model.channels != "grey":
        return []
    remedy = 'Say channels = "rgb" under [model] if colour tells the classes apart'
    return [
        Finding.warn(
            str(image),
            "colour is dropped: 3 channels of equal luminance differ "
            f"in {seen.colour_share:.0%} of the pixels",
            remedy,
        )
        for image, seen in facts.items()
        if seen.colour_share >= ENOUGH_COLOUR
    ]


def _pixel_facts(sample: Sample, cache: FactsCache) -> PixelFacts:
    key = f"thumbnail, pixels and colour:{sample.image.plane}"
    try:
        known = cache.get(sample.image.path, key, PixelFacts)
        if known is not None:
            return known
        pixels = read_micrograph(sample.image).pixels
        grey = to_grey(pixels)
    except InputError as fault:
        return PixelFacts(thumbnail=b"", fault=(fault.what, fault.remedy))
    except OSError as error:
        fault = (f"cannot be read ({error.strerror})", "Copy it again")
        return PixelFacts(thumbnail=b"", fault=fault)
    finite = np.isfinite(grey) if grey.dtype.kind == "f" else None
    values = grey if finite is None or finite.all() else grey[finite]
    low, high = (values.min(), values.max()) if values.size else (0, 0)
    facts = PixelFacts(
        thumbnail=_thumbnail_of(grey),
        constant=bool(low == high),
        not_finite=0 if finite is None else int(finite.size - finite.sum()),
        lowest_share=float((values == low).mean()) if values.size else 0.0,
        highest_share=float((values == high).mean()) if values.size else 0.0,
        smallest_side=min(grey.shape),
        colour_share=colour_share(pixels),
    )
    cache.put(sample.image.path, key, facts)
    return facts


def _thumbnail_of(grey: np.ndarray) -> bytes:
    """Return block means, stretched to 8 bit; borders that fill no block are left out."""
    side = PixelFacts.THUMBNAIL_PX
    block_HW = (grey.shape[0] // side, grey.shape[1] // side)
    if not all(block_HW):
        return b""
    small = block_means(grey, block_HW)[:side, :side]
    span = float(np.ptp(small)) or 1.0
    return ((small - small.min()) / span * 255).astype(np.uint8).tobytes()


def _judged(file: str, seen: PixelFacts) -> list[Finding]:
    if seen.fault is not None:
        return [Finding.error(file, *seen.fault)]
    findings: list[Finding] = []
    if seen.constant:
        findings.append(Finding.warn(file, "is constant: one value everywhere", "Take it out"))
    elif max(seen.lowest_share, seen.highest_share) > _SATURATED_SHARE:
        dark = seen.lowest_share > seen.highest_share
        share = max(seen.lowest_share, seen.highest_share)
        what = f"has {share:.0%} of its pixels at its {'lowest' if dark else 'highest'} value"
        remedy = "It is saturated or has a painted border: the detail there is lost"
        findings.append(Finding.warn(file, what, remedy))
    if seen.not_finite:
        what = f"holds {seen.not_finite:,} pixels that are no numbers"
        findings.append(Finding.warn(file, what, "They are taken as the darkest grey"))
    if seen.smallest_side < _SMALLEST_SIDE_PX:
        what = f"is only {seen.smallest_side} pixels wide or high"
        findings.append(Finding.warn(file, what, "Small images are padded"))
    return findings


_BLOCK_BYTES = 1 << 20
_SAME_PICTURE = 0.985  # correlation of two 32×32 thumbnails
_MOST_BORDERS = 2  # between training and validation in a row of sections: one block has so many


def duplicates(samples: Sequence[Sample], cache: FactsCache) -> list[Finding]:
    """Return files with the same bytes, or in two tables; an error if one trains, one validates."""
    by_size: defaultdict[int, list[Sample]] = defaultdict(list)
    for sample in {sample.image.path: sample for sample in samples}.values():
        if sample.image.path.is_file():
            by_size[sample.image.path.stat().st_size].append(sample)
    suspects = [sample for same in by_size.values() if len(same) > 1 for sample in same]
    with ThreadPoolExecutor(_THREADS) as threads:
        digests = list(threads.map(lambda sample: _digest(sample.image.path, cache), suspects))
    by_digest: defaultdict[str, list[Sample]] = defaultdict(list)
    for sample, digest in zip(suspects, digests, strict=True):
        if digest:
            by_digest[digest].append(sample)
    by_image: defaultdict[ImageRef, list[Sample]] = defaultdict(list)
    for sample in samples:  # of several [[data]] tables
        by_image[sample.image].append(sample)
    findings: list[Finding] = []
    for several in (*by_digest.values(), *by_image.values()):
        first, *others = sorted(several, key=lambda one: str(one.image))
        for other in others:
            if side_of(first) != side_of(other):
                fault = Finding.of(twin_fault(other, first))
                is_ours = "test" not in (first.split, other.split)  # else it stops no training
                findings.append(fault if is_ours else replace(fault, level="warning"))
            else:
                is_other = other.image.path != first.image.path
                what = f"is the same file as {first.image.path}"
                what = what if is_other else "is in two [[data]] tables, with labels in both"
                findings.append(Finding.warn(other.image.path, what, "Keep one of them"))
    return findings


def leaking_groups(samples: Sequence[Sample]) -> list[Finding]:
    """Return groups that were split by hand between training and validation."""
    held: defaultdict[str, dict[str, Sample]] = defaultdict(dict)
    for sample in samples:
        if sample.group is not None:
            held[sample.group].setdefault(sample.split, sample)
    return [
        Finding.warn(
            parts["val"].image.path,
            f'group "{group}" is also in training, as {parts["train"].image.path.name}',
            "Put all of a group into one split",
        )
        for group, parts in held.items()
        if {"train", "val"} <= parts.keys()
    ]


def look_alikes(samples: Sequence[Sample], facts: Mapping[ImageRef, PixelFacts]) -> list[Finding]:
    """Return validation images that show what a training image shows, in another file.

    Compared are the images whose pixels were looked at.
    """
    seen = [sample for sample in samples if len(_thumbnail(sample, facts))]
    train = [sample for sample in seen if sample.split == "train"]
    val = [sample for sample in seen if sample.split == "val"]
    if not train or not val:
        return []
    likeness_VT = _standard(val, facts) @ _standard(train, facts).T
    findings: list[Finding] = []
    for row, sample in zip(likeness_VT, val, strict=True):
        other = train[int(row.argmax())]
        if row.max() > _SAME_PICTURE and other.image.path != sample.image.path:
            what = f"validates, and looks like {other.image.path.name}, which trains"
            remedy = "If they show the same place, put both into one split or say group ="
            findings.append(Finding.warn(str(sample.image), what, remedy))
    return findings


def scattered_sections(samples: Sequence[Sample], cache: FactsCache) -> list[Finding]:
    """Return rows of serial sections whose training and validation parts are interleaved."""
    used = [sample for sample in samples if sample.split in ("train", "val")]
    findings: list[Finding] = []
    for places in rows_of_neighbours([sample.name for sample in used]):
        row = [used[place] for place in places]
        borders = sum(before.split != after.split for before, after in pairwise(row))
        if borders > _MOST_BORDERS and likeness(row, cache) >= ALIKE:
            what = (
                f"{row[0].name} … {row[-1].name} are neighbours that look alike, and {borders} "
                "times a training image lies beside a validation image"
            )
            remedy = 'Validate on one block of them, or say split = "auto"'
            findings.append(Finding.warn(str(row[0].image), what, remedy))
    return findings


def _thumbnail(sample: Sample, facts: Mapping[ImageRef, PixelFacts]) -> bytes:
    seen = facts.get(sample.image)
    return seen.thumbnail if seen is not None and not seen.constant else b""


def _standard(samples: Sequence[Sample], facts: Mapping[ImageRef, PixelFacts]) -> np.ndarray:
    """Return thumbnails of mean 0 and length 1: their products are correlations."""
    rows = np.stack([np.frombuffer(_thumbnail(one, facts), np.uint8) for one in samples])
    centred = rows - rows.mean(axis=1, keepdims=True)
    return centred / np.linalg.norm(centred, axis=1, keepdims=True).clip(1e-6)


def _digest(path: Path, cache: FactsCache) -> str:
    known = cache.get(path, "digest", str)
    if known is not None:
        return known
    digest = hashlib.blake2b(digest_size=16)
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
    except OSError:
        return ""  # an unreadable file is named elsewhere
    cache.put(path, "digest", digest.hexdigest())
    return digest.hexdigest()


_OUTSIDE_PX = 2.0  # drawing tools let a point lie a little over the edge
_OVERLAP_SHARE = 0.1  # of the smaller shape, by a shape of another class
_MOST_IMAGES = 1000
_OVERLAP_IMAGES = 100
_MOST_NAMED = 5  # findings of one kind in one file


def shape_findings(project: Project, samples: Sequence[Sample]) -> list[Finding]:
    """Return what is wrong with the shapes of annotated images."""
    findings: list[Finding] = []
    drawn = [s for s in samples if s.label is not None and s.label.kind == "shapes"]
    for number, sample in enumerate(drawn[:_MOST_IMAGES]):
        assert sample.label is not None
        table = label_table(project, project.data[sample.source])
        try:
            annotation = annotation_for(sample.label.place, sample.image)
            height, width = probe(sample.image.path).shape[:2]
        except InputError:
            continue  # named already, when the samples were gathered
        found = _of_annotation(annotation, table, (height, width))
        if number < _OVERLAP_IMAGES:
            found += _overlaps(annotation, table, (height, width))
        findings += found
    return findings


def _of_annotation(
    annotation: Annotation, table: LabelTable, size_HW: tuple[int, int]
) -> list[Finding]:
    empty: list[str] = []
    crossing: list[str] = []
    outside: list[str] = []
    shapes = annotation.shapes_in(size_HW)
    for number, shape in enumerate(shapes, start=1):
        name = f"{number} ({shape.label})"
        if shape.kind == "bitmap":
            if shape.bitmap is None or not shape.bitmap.any():
                empty.append(name)
            continue
        if _is_outside(shape, size_HW):
            outside.append(name)
        if shape.kind in ("polygon", "rings"):
            if not any(_area(ring) > 0 for ring in shape.rings):
                empty.append(name)
            elif shape.kind == "polygon" and not _is_simple(shape.points):
                crossing.append(name)
    file = annotation.file
    findings: list[Finding] = []
    if not annotation.num_read:
        counts = "is unlabelled" if table.ignores_undrawn else "counts as background"
        what = f"has no shapes: {annotation.image_name or 'its image'} {counts}"
        findings.append(Finding.warn(file, what, "Annotate it, or take the file away"))
    for names, what, remedy in (
        (empty, "no area", "Draw it again, or take it away"),
        (crossing, "an outline that crosses itself", "Draw it again: parts of it may be left out"),
        (outside, "points outside the image", "See that it belongs to this image"),
    ):
        if names:
            listed = few(names, _MOST_NAMED)
            have = how_many(len(names), "shape has", "shapes have")
            findings.append(Finding.warn(file, f"{have} {what}: {listed}", remedy))
    return findings


def _overlaps(annotation: Annotation, table: LabelTable, size_HW: tuple[int, int]) -> list[Finding]:
    """Return shapes that hide much of an earlier one of another class without lying inside it."""
    owner = np.full(size_HW, -1, np.int32)
    areas: list[int] = []
    classes: list[int | None] = []
    hidden: list[str] = []
    shapes = annotation.shapes_in(size_HW)
    for number, shape in enumerate(shapes):
        found = mask_of(shape, size_HW)
        classes.append(table.of_shape(shape))
        areas.append(0)
        if found is None or table.is_reviewed(shape):
            continue
        (top, left), mask = found
        areas[number] = int(mask.sum())
        here = owner[top : top + mask.shape[0], left : left + mask.shape[1]]
        below, counts = np.unique(here[mask], return_counts=True)
        for other, count in zip(below.tolist(), counts.tolist(), strict=True):
            if other < 0 or classes[other] == classes[number] or classes[other] == UNLABELLED:
                continue
            inside = count > 0.9 * areas[number]  # a hole or an inclusion, drawn on purpose
            if count > _OVERLAP_SHARE * min(areas[other], areas[number]) and not inside:
                names = f"{other + 1} ({shapes[other].label}) and {number + 1} ({shape.label})"
                hidden.append(f"{names} share {count:,} px")
        here[mask] = number
    if not hidden:
        return []
    listed = few(hidden, _MOST_NAMED, between="; ")
    remedy = "The later shape wins; draw them side by side if that is not meant"
    return [Finding.warn(annotation.file, f"shapes of two classes overlap: {listed}", remedy)]


def _is_outside(shape: Shape, size_HW: tuple[int, int]) -> bool:
    points = np.concatenate(shape.rings)
    limit = np.array((size_HW[1], size_HW[0])) + _OUTSIDE_PX
    return bool((points < -_OUTSIDE_PX).any() or (points > limit).any())


def _is_simple(ring: np.ndarray) -> bool:
    return bool(shapely.is_simple(shapely.LinearRing(ring))) if len(ring) > 2 else False


def _area(ring: np.ndarray) -> float:
    """Return the area of the convex hull: 0 only where all points lie on one line."""
    return float(shapely.MultiPoint(ring).convex_hull.area)
