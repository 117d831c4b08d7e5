"""How well objects are found: matched one to one, split, merged, and how wrong their sizes are.

Objects of the same class match where they share more than half of what either covers, so that none
has two. G settings, C classes, B basins, T true objects.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import msgspec
import numpy as np

from emcfsys_engine.learn.inference.objects import Basins
from emcfsys_engine.model_card import ObjectSettings
from emcfsys_engine.project import UNLABELLED
from emcfsys_engine.run.events import ObjectScores

THRESHOLDS = tuple(n / 100 for n in range(50, 100, 5))
SEEDS = (0.05, 0.15, 0.3, 0.5)
NECKS = (0.5, 0.65, 0.8, 0.9)
LEAST_PX = (1, 12, 40)
_ABOUT = 0.01  # of PQ: settings so close are alike
_MOSTLY = 0.5  # of an object lies in another one, or is unlabelled


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """What the basins of one image and its true objects share, on labelled pixels.

    Shapes: pairs 2×P (basin, true object) and shared P pixels; 0 stands for none of either. All
    are int64, the classes of true objects uint8.
    """

    basins: Basins
    pairs: np.ndarray
    shared: np.ndarray
    bare: np.ndarray  # unlabelled pixels of each basin
    true_class: np.ndarray  # of each true object; that of 0 is none
    pixel_nm: float | None


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """What was counted of one class in one image. Units: diameters are px."""

    hits: tuple[int, ...]  # at each of THRESHOLDS
    iou_sum: float  # of those at 0.5
    splits: int
    merges: int
    found: tuple[float, ...]  # equivalent diameters
    true: tuple[float, ...]
    pixel_nm: float | None


def overlap_of(
    marks: np.ndarray,
    basins: Basins,
    true_ids: np.ndarray,
    labels: np.ndarray,
    pixel_nm: tuple[float, float] | None,
) -> Overlap:
    """Return what basins and true objects share.

    Shapes: all H×W: marks int32, true ids of any integer dtype, labels uint8 class indices or 255,
    as the classes of the basins are.
    """
    basin = basins.basin_of[marks]
    known = labels != UNLABELLED
    keys = (basin[known] << 32) | true_ids[known].astype(np.int64)
    pair, shared = np.unique(keys, return_counts=True)
    true_class = np.full(int(true_ids.max(initial=0)) + 1, UNLABELLED, np.uint8)
    true_class[true_ids[known]] = labels[known]
    true_class[0] = UNLABELLED
    return Overlap(
        basins=basins,
        pairs=np.stack((pair >> 32, pair & 0xFFFFFFFF)),
        shared=shared,
        bare=np.bincount(basin[~known], minlength=len(basins.peak)),
        true_class=true_class,
        pixel_nm=None if pixel_nm is None else math.sqrt(pixel_nm[0] * pixel_nm[1]),
    )


@dataclass(frozen=True, kw_only=True)
class _Matched:
    """The objects of one image under some settings.

    Shapes: pairs 2×Q of objects that share pixels, from 1; shared and iou Q; areas by their number.
    """

    pairs: np.ndarray
    shared: np.ndarray
    iou: np.ndarray
    found_px: np.ndarray
    found_class: np.ndarray
    counts_found: np.ndarray  # bool: not mostly on unlabelled pixels
    true_px: np.ndarray


def _matched(one: Overlap, settings: ObjectSettings) -> _Matched:
    basins = one.basins
    # Of each basin, by any of its marks.
    object_of = np.zeros(len(basins.peak), np.int64)
    object_of[basins.basin_of] = basins.joined(settings)
    num = int(object_of.max(initial=0)) + 1
    found_class = np.full(num, UNLABELLED, np.uint8)
    found_class[object_of] = basins.class_value
    found_class[0] = UNLABELLED
    key, place = np.unique((object_of[one.pairs[0]] << 32) | one.pairs[1], return_inverse=True)
    shared = np.bincount(place.reshape(-1), one.shared, len(key)).astype(np.int64)
    pairs = np.stack((key >> 32, key & 0xFFFFFFFF))
    found_px = np.bincount(pairs[0], shared, num).astype(np.int64)
    true_px = np.bincount(pairs[1], shared, len(one.true_class)).astype(np.int64)
    bare = np.bincount(object_of, one.bare, num)
    both = (pairs > 0).all(axis=0)
    both &= found_class[pairs[0]] == one.true_class[pairs[1]]
    pairs, shared = pairs[:, both], shared[both]
    union = found_px[pairs[0]] + true_px[pairs[1]] - shared
    return _Matched(
        pairs=pairs,
        shared=shared,
        iou=shared / union,
        found_px=found_px,
        found_class=found_class,
        counts_found=(found_px > 0) & (bare <= _MOSTLY * (bare + found_px)),
        true_px=true_px,
    )


def counts_of(one: Overlap, settings: ObjectSettings, classes: Sequence[int]) -> tuple[Counts, ...]:
    """Return what is counted in one image, class by class."""
    matched = _matched(one, settings)
    result: list[Counts] = []
    for value in classes:
        mine = (matched.found_class == value) & matched.counts_found
        true = (one.true_class == value) & (matched.true_px > 0)
        here = mine[matched.pairs[0]] & true[matched.pairs[1]]
        found_at, true_at = matched.pairs[:, here]
        iou, shared = matched.iou[here], matched.shared[here]
        parts = np.bincount(true_at[shared > _MOSTLY * matched.found_px[found_at]], minlength=1)
        whole = np.bincount(found_at[shared > _MOSTLY * matched.true_px[true_at]], minlength=1)
        result.append(
            Counts(
                hits=tuple(int((iou > threshold).sum()) for threshold in THRESHOLDS),
                iou_sum=float(iou[iou > THRESHOLDS[0]].sum()),
                splits=int((parts > 1).sum()),
                merges=int((whole > 1).sum()),
                found=_diameters(matched.found_px[mine]),
                true=_diameters(matched.true_px[true]),
                pixel_nm=one.pixel_nm,
            )
        )
    return tuple(result)


def _diameters(area_px: np.ndarray) -> tuple[float, ...]:
    return tuple(np.sqrt(4 * area_px / math.pi).tolist())


def scores_of(counts: Sequence[Counts]) -> ObjectScores:
    """Return the scores of one class over whole images.

    Source: AP is that of Caicedo et al. 2019 (doi:10.1038/s41592-019-0612-7), hits over hits,
            false and missed objects, since no object has a confidence; PQ, SQ, RQ are those of
            Kirillov et al. 2019 (arXiv:1801.00868); the error of sizes is the Wasserstein distance
            of the equivalent diameters.
    """
    from scipy.stats import wasserstein_distance  # takes a second that only this needs

    found = sum(len(one.found) for one in counts)
    true = sum(len(one.true) for one in counts)
    hits = [sum(each) for each in zip(*(one.hits for one in counts), strict=True)] or [0]
    iou_sum, is_any = sum(one.iou_sum for one in counts), found + true > 0
    ap = [hit / (found + true - hit) for hit in hits] if is_any else []
    in_nm = bool(counts) and all(one.pixel_nm is not None for one in counts)
    scale = [(one.pixel_nm or 1.0) if in_nm else 1.0 for one in counts]
    sizes = [
        [size * px for one, px in zip(counts, scale, strict=True) for size in own(one)]
        for own in (lambda one: one.found, lambda one: one.true)
    ]
    return ObjectScores(
        ap50=ap[0] if is_any else None,
        ap50_95=sum(ap) / len(ap) if is_any else None,
        pq=2 * iou_sum / (found + true) if is_any else None,
        sq=iou_sum / hits[0] if hits[0] else None,
        rq=2 * hits[0] / (found + true) if is_any else None,
        splits=sum(one.splits for one in counts),
        merges=sum(one.merges for one in counts),
        num_found=found,
        num_true=true,
        size_error=float(wasserstein_distance(*sizes)) if found and true else None,
        size_unit="nm" if in_nm else "px",
    )


GRID = tuple(
    ObjectSettings(seed=seed, neck=neck, min_px=least)
    for seed, neck, least in product(SEEDS, NECKS, LEAST_PX)
)


def grid_counts(images: Iterable[Overlap], classes: Sequence[int]) -> np.ndarray:
    """Return what each setting of GRID finds in some images: add it up over all.

    Shapes: G×C×3 float64: the sum of the overlaps of hits, found, and true objects.
    """
    total = np.zeros((len(GRID), len(classes), 3))
    for one in images:
        for place, settings in enumerate(GRID):
            for number, each in enumerate(counts_of(one, settings, classes)):
                total[place, number] += each.iou_sum, len(each.found), len(each.true)
        one.basins.forget()
    return total


def best_settings(total: np.ndarray) -> ObjectSettings:
    """Return the settings that part least of those whose mean PQ is about the highest.

    A few images tell settings apart no better than that, and other images are parted too much
    sooner than too little: the rule of one standard error (Breiman et al. 1984).
    Shapes: as `grid_counts` gives them, G×C×3 float64.
    """
    number = total[..., 1] + total[..., 2]
    pq = np.divide(2 * total[..., 0], number, out=np.zeros_like(number), where=number > 0)
    means = pq.mean(axis=1)
    good = np.flatnonzero(means >= means.max() - _ABOUT)
    return GRID[min(good.tolist(), key=lambda place: (GRID[place].neck, -means[place]))]


def mean_pq(scores: Mapping[str, ObjectScores]) -> float | None:
    """Return the mean PQ of the classes that have any object; None where none has."""
    known = [one.pq for one in scores.values() if one.pq is not None]
    return sum(known) / len(known) if known else None
