"""Labels that come while a training runs: which images joined or went, and on which side they are.

An image keeps its side for ever: what a run knows stays where it is, its groups and stacks stay
whole, and for all others the seed and the name decide.
"""

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import msgspec

from emcfsys_engine.annotations.files import read_with
from emcfsys_engine.annotations.pair_shapes import MAY_BE_OF_ANOTHER
from emcfsys_engine.annotations.pairing import root_of
from emcfsys_engine.dataset.deals import Deal, recognised
from emcfsys_engine.dataset.samples import Gathered, gather
from emcfsys_engine.dataset.source_images import plain_names
from emcfsys_engine.dataset.splits import VALIDATION_SHARE, Sample, Split
from emcfsys_engine.errors import InputError
from emcfsys_engine.images.walk import FileStamp, stamp_of, stamps_below
from emcfsys_engine.project import Project
from emcfsys_engine.text import how_many

SETTLED_S = 0.3  # a label file that does not change for so long is whole, or is read again later
Stamp = tuple[FileStamp, ...]


@dataclass(frozen=True, kw_only=True)
class LabelledNow:
    """The labelled images of a project, of a run that goes on and others."""

    samples: tuple[Sample, ...]  # with the run's names for those it knows
    gone: frozenset[str]  # of the run, whose labels are no longer there
    faults: tuple[InputError, ...]
    doubts: tuple[str, ...] = ()  # of labels that may have been drawn on another image


def labelled_now(project: Project, deal: Deal) -> LabelledNow:
    """Return the labelled images of a project, each on its side; faults are left to the caller."""
    gathered = gather_some(project)
    places = range(len(project.data))
    images = [(n, image, name, True) for n in places for image, name in plain_names(project, n)]
    name_of = recognised(deal, images).name_of
    val = frozenset(deal.val)
    known = [
        replace(one, name=name, split="val" if name in val else "train")
        for one in gathered.samples
        if (name := name_of.get((one.source, one.image)))
    ]
    others = [one for one in gathered.samples if (one.source, one.image) not in name_of]
    return LabelledNow(
        samples=(*known, *_dealt(project, known, others)),
        gone=frozenset(deal.names) - {one.name for one in known},
        faults=gathered.faults,
        doubts=tuple(note for note in gathered.notes if MAY_BE_OF_ANOTHER in note),
    )


def gather_some(project: Project) -> Gathered:
    """Return what is labelled so far: an image without labels is no fault here."""
    data = tuple(
        one if one.teaches_unlabelled else msgspec.structs.replace(one, unlabelled="skip")
        for one in project.data
    )
    return gather(msgspec.structs.replace(project, data=data), for_training=False)


def has_both_sides(samples: Iterable[Sample]) -> bool:
    """Tell whether there is an image to train on and one to validate on."""
    return {"train", "val"} <= {one.split for one in samples}


def waiting_words(num_labelled: int, num_sound: int | None = None) -> str:
    """Say what a training has that cannot begin yet; `num_sound`: how many of them it can use."""
    images = how_many(num_labelled, "image is", "images are")
    sound = "" if num_sound in (None, num_labelled) else f" and {num_sound} of them can be used"
    return f"{images} labelled{sound}, one to train on and one to validate on are needed"


def _dealt(project: Project, known: Sequence[Sample], others: Sequence[Sample]) -> Iterator[Sample]:
    """Yield new images on their sides; those for testing are left out."""
    sides: dict[tuple[int, str], Split] = {_unit(one): one.split for one in known}
    for one in others:
        wanted = project.data[one.source].split
        unit = _unit(one)
        side = sides.get(unit) or drawn_side(one, project.project.seed)
        split: Split = side if wanted == "auto" else wanted
        sides.setdefault(unit, split)
        if split != "test":
            yield replace(one, split=split)


def _unit(sample: Sample) -> tuple[int, str]:
    """Return what must stay on one side: a group of any source, a stack, or a single image."""
    if sample.group is not None:
        return 0, f"group {sample.group}"
    if sample.image.plane is not None:
        return sample.source, f"stack {sample.image.path.name}"
    return sample.source, f"image {sample.name}"


def drawn_side(sample: Sample, seed: int) -> Split:
    """Return the side on which an image is that joins a training, with its group or stack."""
    unit = _unit(sample)
    digest = hashlib.blake2b(f"{seed} {unit}".encode("utf-8", "surrogateescape"), digest_size=8)
    share = int.from_bytes(digest.digest(), "big") / 2**64
    return "val" if share < VALIDATION_SHARE else "train"


def label_stamp(sample: Sample) -> Stamp:
    """Return what changes when somebody writes an image or its labels; files that are gone: 0."""
    label = sample.label
    if label is None:
        return ()
    files = [path for _, path in label.parts] or [label.path]
    files += [other for path in files for other in read_with(path)]
    return tuple(stamp_of(path) for path in (sample.image.path, *files))


def settled(samples: Sequence[Sample]) -> list[Sample]:
    """Return those of some samples whose files nobody is writing."""
    before = [label_stamp(one) for one in samples]
    if samples:
        time.sleep(SETTLED_S)
    return [one for one, stamp in zip(samples, before, strict=True) if label_stamp(one) == stamp]


def folders_stamp(project: Project) -> frozenset[FileStamp]:
    """Return what changes when somebody writes a file where images or labels lie."""
    roots = {
        root_of(pattern, project.folder)
        for source in project.data
        for pattern in (source.images, source.masks, source.annotations)
        if pattern is not None
    }
    return frozenset(stamp for root in roots for stamp in stamps_below(root))
