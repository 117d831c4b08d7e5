"""Images that are in training and in validation, openly or in disguise."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np

from emcfsys_engine.dataset.facts_cache import FactsCache
from emcfsys_engine.dataset.samples import Sample
from emcfsys_engine.dataset.split_samples import ALIKE, likeness
from emcfsys_engine.dataset.splits import rows_of_neighbours
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.tools.check_images import PixelFacts
from emcfsys_engine.tools.findings import Finding

_THREADS = 2
_BLOCK_BYTES = 1 << 20
_SAME_PICTURE = 0.985  # correlation of two 32×32 thumbnails
_MOST_BORDERS = 2  # between training and validation in a row of sections: one block has so many


def duplicates(samples: Sequence[Sample], cache: FactsCache) -> list[Finding]:
    """Return files with the same bytes: an error when one trains and another validates."""
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
    findings: list[Finding] = []
    for same in by_digest.values():
        first = same[0]
        for other in same[1:]:
            if first.split != other.split:
                what = f"is in {other.split}, and the same file {first.image.path} in {first.split}"
                remedy = "Keep one of them: validation on training images measures nothing"
                findings.append(Finding.error(other.image.path, what, remedy))
            else:
                what = f"is the same file as {first.image.path}"
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
