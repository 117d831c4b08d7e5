"""What the pixels and bytes of images tell: damage, flat or saturated pictures, duplicates."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np

from emcfsys_engine.annotations.facts_cache import FactsCache
from emcfsys_engine.annotations.samples import Sample
from emcfsys_engine.errors import InputError
from emcfsys_engine.images.normalise import to_grey
from emcfsys_engine.images.reader import read_micrograph
from emcfsys_engine.tools.findings import Finding

_SATURATED_SHARE = 0.05  # of the pixels at one end of the scale
_SMALLEST_SIDE_PX = 64
_THREADS = 2
_BLOCK_BYTES = 1 << 20


class _PixelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen in an image's pixels."""

    fault: tuple[str, str] | None = None
    constant: bool = False
    not_finite: int = 0
    lowest_share: float = 0.0
    highest_share: float = 0.0
    smallest_side: int = 0


def image_findings(samples: Sequence[Sample], cache: FactsCache) -> list[Finding]:
    """Return what is wrong with the pixels of these images."""
    with ThreadPoolExecutor(_THREADS) as threads:
        facts = list(threads.map(lambda sample: _pixel_facts(sample, cache), samples))
    findings: list[Finding] = []
    for sample, seen in zip(samples, facts, strict=True):
        findings += _judged(str(sample.image), seen)
    return findings


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


def _pixel_facts(sample: Sample, cache: FactsCache) -> _PixelFacts:
    key = f"pixels:{sample.image.plane}"
    try:
        known = cache.get(sample.image.path, key, _PixelFacts)
        if known is not None:
            return known
        grey = to_grey(read_micrograph(sample.image).pixels)
    except InputError as fault:
        return _PixelFacts(fault=(fault.what, fault.remedy))
    except OSError as error:
        return _PixelFacts(fault=(f"cannot be read ({error.strerror})", "Copy it again"))
    finite = np.isfinite(grey) if grey.dtype.kind == "f" else None
    values = grey if finite is None or finite.all() else grey[finite]
    low, high = (values.min(), values.max()) if values.size else (0, 0)
    facts = _PixelFacts(
        constant=bool(low == high),
        not_finite=0 if finite is None else int(finite.size - finite.sum()),
        lowest_share=float((values == low).mean()) if values.size else 0.0,
        highest_share=float((values == high).mean()) if values.size else 0.0,
        smallest_side=min(grey.shape),
    )
    cache.put(sample.image.path, key, facts)
    return facts


def _judged(file: str, seen: _PixelFacts) -> list[Finding]:
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
