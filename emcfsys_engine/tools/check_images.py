"""What the pixels of images tell: damage, flat or saturated pictures, and a thumbnail of each."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import msgspec
import numpy as np

from emcfsys_engine.dataset.facts_cache import FactsCache
from emcfsys_engine.dataset.samples import Sample
from emcfsys_engine.errors import InputError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.normalise import to_grey
from emcfsys_engine.images.reader import read_micrograph
from emcfsys_engine.tools.findings import Finding

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


def pixel_facts(samples: Sequence[Sample], cache: FactsCache) -> dict[ImageRef, PixelFacts]:
    """Look at the pixels of these images; what cannot be read is a fault of its facts."""
    with ThreadPoolExecutor(_THREADS) as threads:
        facts = list(threads.map(lambda sample: _pixel_facts(sample, cache), samples))
    return {sample.image: seen for sample, seen in zip(samples, facts, strict=True)}


def image_findings(facts: Mapping[ImageRef, PixelFacts]) -> list[Finding]:
    """Return what is wrong with the pixels of these images."""
    return [finding for image, seen in facts.items() for finding in _judged(str(image), seen)]


def _pixel_facts(sample: Sample, cache: FactsCache) -> PixelFacts:
    key = f"thumbnail and pixels:{sample.image.plane}"
    try:
        known = cache.get(sample.image.path, key, PixelFacts)
        if known is not None:
            return known
        grey = to_grey(read_micrograph(sample.image).pixels)
    except InputError as fault:
        return PixelFacts(thumbnail=b"", fault=(fault.what, fault.remedy))
    except OSError as error:
        fault = (f"cannot be read ({error.strerror})", "Copy it again")
        return PixelFacts(thumbnail=b"", fault=fault)
    finite = np.isfinite(grey) if grey.dtype.kind == "f" else None
    values = grey if finite is None or finite.all() else grey[finite]
    low, high = (values.min(), values.max()) if values.size else (0, 0)
    facts = PixelFacts(
        thumbnail=_thumbnail(grey),
        constant=bool(low == high),
        not_finite=0 if finite is None else int(finite.size - finite.sum()),
        lowest_share=float((values == low).mean()) if values.size else 0.0,
        highest_share=float((values == high).mean()) if values.size else 0.0,
        smallest_side=min(grey.shape),
    )
    cache.put(sample.image.path, key, facts)
    return facts


def _thumbnail(grey: np.ndarray) -> bytes:
    """Return block means, stretched to 8 bit; borders that fill no block are left out."""
    side = PixelFacts.THUMBNAIL_PX
    rows, columns = grey.shape[0] // side, grey.shape[1] // side
    if not rows or not columns:
        return b""
    cut = grey[: rows * side, : columns * side]
    small = np.nan_to_num(
        cut.reshape(side, rows, side, columns).mean(axis=(1, 3), dtype=np.float64)
    )
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
