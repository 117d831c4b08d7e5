"""Which image each annotation belongs to, and what of it lies on which plane of a stack."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from emcfsys_engine.annotations.files import read_annotations
from emcfsys_engine.annotations.pair_masks import masks_that_count
from emcfsys_engine.annotations.pairing import Key, bare_name, key_of_file, match
from emcfsys_engine.annotations.planes import StackAxes, axes_of
from emcfsys_engine.annotations.shapes import Annotation, Shape, SkippedShape
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.origins import Origin

MAY_BE_OF_ANOTHER = "where it was drawn on that, its labels are wrong"
Place = tuple[Path, int]  # an annotation file, and which of its images


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """What belongs together, and what belongs to nothing."""

    of_image: dict[ImageRef, Place]
    without_image: tuple[Place, ...]
    unused: tuple[Place, ...]  # listed in a file that says nothing about them
    left_out: frozenset[Path] = frozenset()  # other versions of these count
    of_models: frozenset[Path] = frozenset()  # as predict wrote them
    notes: tuple[str, ...] = ()


def pair_shapes(
    images: Sequence[ImageRef],
    image_root: Path,
    found: Mapping[Path, tuple[Annotation, ...]],
    root: Path,
) -> Pairs:
    """Return image -> annotation: by the file's name, then by the name inside it.

    One file can label many planes of a stack, when its shapes say where they lie. Outlines that
    this program wrote belong to the image that it noted, as it was then; older versions
    belong to none.
    """
    counting = masks_that_count([ImageRef(path=path) for path in found])
    noted = {ref.path: origin for ref, origin in counting.origins.items()}
    left_out = found.keys() - {ref.path for ref in counting.refs}
    found = {ref.path: found[ref.path] for ref in counting.refs}
    every = {(path, n): one for path, several in found.items() for n, one in enumerate(several)}
    places = {place: one for place, one in every.items() if not one.unused}
    by_file = {p: _key(p[0], root, noted) for p in places if len(found[p[0]]) == 1}
    by_name = {p: one.key for p, one in places.items() if one.image_name}
    pairs, _ = match(images, image_root, by_file)
    for keys in (by_name, by_file):
        known = {place: places[place] for place in keys}
        pairs |= _matched(images, image_root, keys, pairs, known)
    as_masks = {image: ImageRef(path=file) for image, (file, _) in pairs.items()}
    counting.drop_changed(as_masks, "outline")
    left_out |= {pairs[image][0] for image in pairs.keys() - as_masks.keys()}
    pairs = {image: pairs[image] for image in as_masks}
    used = set(pairs.values())
    return Pairs(
        of_image=pairs,
        without_image=tuple(p for p in places if p not in used and p[0] not in left_out),
        unused=tuple(place for place, one in every.items() if one.unused),
        left_out=frozenset(left_out),
        of_models=frozenset(ref.path for ref in counting.refs if counting.is_of_model(ref)),
        notes=(
            *counting.notes,
            *_of_another(images, pairs, places),
            *_of_another_length(pairs, places),
        ),
    )


def _of_another(
    images: Sequence[ImageRef],
    pairs: Mapping[ImageRef, Place],
    places: Mapping[Place, Annotation],
) -> Iterator[str]:
    """Yield what is to be said where files name, inside, another image that is there, too.

    Labelme shows the image inside: a copy that was made as a template is drawn on that, and so is
    a file that was given another image's name.
    """
    there = {bare_name(ref.path.name) for ref in images}
    told: list[str] = []
    for image, place in pairs.items():
        said = PurePosixPath(places[place].image_name).name
        if bare_name(said) != bare_name(image.path.name) and bare_name(said) in there:
            told.append(f"{place[0]} is taken for {image.path.name}, but says inside {said}")
    if told:
        others = f" (so do {len(told) - 1} more)" if len(told) > 1 else ""
        yield f"{told[0]}{others}: {MAY_BE_OF_ANOTHER}"


def _of_another_length(
    pairs: Mapping[ImageRef, Place], places: Mapping[Place, Annotation]
) -> Iterator[str]:
    """Yield what is to be said where images were drawn on while their files had another length.

    Files without the size in pixels (VIA) tell a replaced image by nothing else.
    """
    told: dict[Path, str] = {}
    for image, place in pairs.items():
        one = places[place]
        if not one.image_bytes or PurePosixPath(one.image_name).name != image.path.name:
            continue
        try:
            now = image.path.stat().st_size
        except OSError:
            continue  # reading it tells why
        if now != one.image_bytes:
            was = f"was drawn on {image.path.name} when it had {one.image_bytes} bytes, now {now}"
            told.setdefault(image.path, f"{place[0]} {was}")
    if told:
        first = next(iter(told.values()))
        others = f" (so were {len(told) - 1} more)" if len(told) > 1 else ""
        yield f"{first}{others}: where the image was replaced, its labels are wrong"


def _key(file: Path, root: Path, noted: Mapping[Path, Origin]) -> Key:
    """Return the key of a file: a newer version's is that of the image that it was noted to be of.

    By its name it might be another image's first.
    """
    origin = noted.get(file)
    if origin is None or origin.version == 1:
        return key_of_file(file, root)
    return key_of_file(file.with_name(origin.image.name), root, origin.plane)


def annotation_for(place: Place, image: ImageRef | None) -> Annotation:
    """Return what a file says of an image; the file is read."""
    return part_for(read_annotations(place[0])[place[1]], image)


def part_for(annotation: Annotation, image: ImageRef | None) -> Annotation:
    """Return what an annotation says of an image: of a stack, of this plane."""
    if image is None or not annotation.is_stacked:
        return annotation
    return on_plane(annotation, _axes(image.path), image.plane or 0)


def _matched(
    images: Sequence[ImageRef],
    image_root: Path,
    keys: Mapping[Place, Key],
    pairs: Mapping[ImageRef, Place],
    annotations: Mapping[Place, Annotation],
) -> dict[ImageRef, Place]:
    """Return pairs of the images that have none yet; a stacked annotation takes its planes."""
    used = set(pairs.values())
    left = {place: key for place, key in keys.items() if place not in used}
    bare = [ref for ref in images if ref not in pairs]
    if not left or not bare:
        return {}
    more = match(bare, image_root, left, pairs.keys())[0]
    used |= set(more.values())
    stacks: dict[ImageRef, list[ImageRef]] = {}
    for ref in bare:
        if ref.plane is not None and ref not in more:
            stacks.setdefault(ImageRef(path=ref.path), []).append(ref)
    left = {
        place: key
        for place, key in left.items()
        if place not in used and annotations[place].is_stacked
    }
    others = {ImageRef(path=ref.path) for ref in (*pairs, *more)} - stacks.keys()
    for whole, place in match(list(stacks), image_root, left, others)[0].items():
        planes = planes_labelled(annotations[place], _axes(whole.path))
        more |= {ref: place for ref in stacks[whole] if ref.plane in planes}
    return more


@functools.lru_cache(maxsize=256)
def _axes_at(path: Path, _changed_ns: tuple[int, int]) -> StackAxes:
    return axes_of(path)


def _axes(path: Path) -> StackAxes:
    try:
        status = path.stat()
        return _axes_at(path, (status.st_mtime_ns, status.st_ctime_ns))
    except OSError:
        return StackAxes(axes=())


def planes_labelled(annotation: Annotation, axes: StackAxes) -> list[int]:
    """Return the planes that hold at least one shape of a stacked annotation, from 0."""
    places = {one.place for one in (*annotation.shapes, *annotation.skipped)}
    return [
        plane
        for plane in range(axes.num_planes)
        if any(place is None or axes.has(place, plane) for place in places)
    ]


def on_plane(annotation: Annotation, axes: StackAxes, plane: int) -> Annotation:
    """Return what a stacked annotation says of one plane; each shape keeps its reason.

    A shape whose place the stack does not have is skipped, once: on the first labelled plane.
    """
    if not annotation.is_stacked:
        return annotation
    first = next(iter(planes_labelled(annotation, axes)), 0)
    shapes: list[Shape] = []
    skipped: list[SkippedShape] = []
    kept_before = [0]  # how many of the first n shapes lie on this plane
    for number, shape in enumerate(annotation.shapes, start=1):
        if shape.place is None or axes.has(shape.place, plane):
            shapes.append(shape)
        elif plane == first and not axes.contains(shape.place):
            skipped.append(_outside(shape, number, axes, len(shapes)))
        kept_before.append(len(shapes))
    skipped += [
        replace(one, below=kept_before[one.below])
        for one in annotation.skipped
        if one.place is None
        or axes.has(one.place, plane)
        or (plane == first and not axes.contains(one.place))
    ]
    skipped.sort(key=lambda one: one.below)
    return replace(annotation, shapes=tuple(shapes), skipped=tuple(skipped))


def _outside(shape: Shape, number: int, axes: StackAxes, below: int) -> SkippedShape:
    assert shape.place is not None
    have = ", ".join(f"{length} × {letter}" for letter, length in axes.axes) or "a single plane"
    name = shape.full_name or shape.label
    why = f"region {number} ({name}) lies on {shape.place.words}, but the image has {have}"
    # On a single image it may be drawn on a slice of what this was cut out of: nobody's background.
    outline = shape if axes.num_planes == 1 else None
    return SkippedShape(why=why, label=shape.label, outline=outline, below=below)
