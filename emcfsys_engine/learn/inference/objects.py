"""Objects out of classes, distances and borders: the same whatever rows come at once.

Each pixel of a class with objects leads to the highest pixel around it: all that lead to one peak
are a basin (a watershed by rainfall). Basins are joined over their passes when all rows are known.
H and W pixels, h rows, P passes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import scipy  # its parts are loaded when they are named

from emcfsys_engine.annotations.numbered import root_of
from emcfsys_engine.model_card import ModelCard, ObjectSettings

_FULL = 255 * 16  # of a height: bytes, weighted by 1, 2, 1 along rows and columns
_REACH = 2  # rows above and below that a pixel's way depends on
_AROUND = tuple((down, across) for down in (-1, 0, 1) for across in (-1, 0, 1))


@dataclass(frozen=True, kw_only=True)
class Basins:
    """What is known of all basins of an image, by their numbers from 1; entry 0 is none.

    Shapes: passes 2×P int64: basins that touch, highest pass first, and its height in heights P
    float64; of those in a ring all but the lowest, which can decide nothing. One number a basin:
    peak float64, area and first int64, class value uint8; basin_of is int64.
    Units:  peak and heights are shares, 0 to 1.
    """

    basin_of: np.ndarray  # of each mark that `add` gave to pixels
    peak: np.ndarray
    area_px: np.ndarray
    first: np.ndarray  # of its pixels, in reading order
    class_value: np.ndarray
    passes: np.ndarray
    heights: np.ndarray
    _joined: dict[tuple[float, float], tuple[list[int], list[int]]] = field(default_factory=dict)

    def joined(self, settings: ObjectSettings) -> np.ndarray:
        """Return the object of each mark, numbered by their first pixels; 0 is none.

        Two are one where the lower's peak is no seed, or the pass between them is not much lower;
        what is too small to be an object is part of the one it touches at the highest pass, if any.
        Shapes: one uint32 for each mark.
        Source: Najman & Schmitt 1996, with relative heights.
        """
        root = self._roots(settings)
        area = np.bincount(root, self.area_px, len(root))
        first_px = np.full(len(root), np.iinfo(np.int64).max)
        np.minimum.at(first_px, root, self.first)
        is_object = np.bincount(root, minlength=len(root)) > 0
        is_object &= area >= max(1, settings.min_px)
        is_object[0] = False
        kept = np.flatnonzero(is_object)
        kept = kept[np.argsort(first_px[kept], kind="stable")]
        number = np.zeros(len(root), np.uint32)
        number[kept] = np.arange(1, len(kept) + 1)
        return number[root][self.basin_of]

    def forget(self) -> None:
        """Let go of what was kept for settings that differ in size only."""
        self._joined.clear()

    def _roots(self, settings: ObjectSettings) -> np.ndarray:
        """Return the basin that stands for each one's object."""
        hills = settings.seed, settings.neck
        if hills not in self._joined:
            self._joined[hills] = self._hills(*hills)
        parent, area = (list(each) for each in self._joined[hills])
        if settings.min_px > 1:
            peak = self.peak.tolist()
            for one, other in self.passes.T.tolist():
                lower, upper = _by_peak(root_of(parent, one), root_of(parent, other), peak)
                if lower != upper and min(area[lower], area[upper]) < settings.min_px:
                    parent[lower] = upper
                    area[upper] += area[lower]
        return np.array([root_of(parent, basin) for basin in range(len(parent))], np.int64)

    def _hills(self, seed: float, neck: float) -> tuple[list[int], list[int]]:
        """Join what is one hill: return which basin each is part of, and the pixels of each."""
        peak, area, parent = self.peak.tolist(), self.area_px.tolist(), list(range(len(self.peak)))
        pairs, heights = self.passes.T.tolist(), self.heights.tolist()
        for (one, other), height in zip(pairs, heights, strict=True):
            lower, upper = _by_peak(root_of(parent, one), root_of(parent, other), peak)
            is_one = peak[lower] < seed or height >= neck * peak[lower]
            if lower != upper and is_one:
                parent[lower] = upper
                area[upper] += area[lower]
        return parent, area


class ObjectFinder:
    """Takes rows from top to bottom and gives each pixel a mark; `end` says what the marks are."""

    def __init__(self, width: int, values: Sequence[int]) -> None:
        """`values`: in a mask, of the classes with objects."""
        self._values = tuple(values)
        self._mask = np.empty((0, width), np.uint8)
        self._height = np.empty((0, width), np.uint8)
        self._first = 0  # row of the image that the held ones begin with
        self._done = 0  # rows whose pixels have marks
        self._marks_above = np.zeros(width, np.int32)  # of the last row that is done
        self._smooth_above = np.zeros(width, np.int16)
        self._mask_above = np.zeros(width, np.uint8)
        self._waiting = np.empty((2, 0), np.int64)  # marks and columns that lead to the next row
        self._num = 0
        self._peaks: list[np.ndarray] = [np.zeros(1, np.int16)]
        self._areas: list[np.ndarray] = [np.zeros(1, np.int64)]
        self._firsts: list[np.ndarray] = [np.full(1, -1, np.int64)]
        self._classes: list[np.ndarray] = [np.zeros(1, np.uint8)]
        self._grown: list[np.ndarray] = []  # marks of rows above, and how many pixels they got
        self._same: list[np.ndarray] = []
        self._passes: list[np.ndarray] = []

    def add(self, mask: np.ndarray, planes: np.ndarray) -> np.ndarray:
        """Take the next rows; return the marks of rows that are done, which follow those before.

        Shapes: mask h×W uint8 class values, planes 2×h×W uint8 (distance and border, 255 =
        certain); marks are h×W int32, 0 where there is no object.
        """
        height = (planes[0].astype(np.uint16) * (255 - planes[1]) // 255).astype(np.uint8)
        self._mask = np.concatenate((self._mask, mask))
        self._height = np.concatenate((self._height, height))
        return self._marked(self._first + len(self._mask) - _REACH)

    def end(self) -> tuple[np.ndarray, Basins]:
        """Return the marks of the last rows, and all basins.

        Shapes: marks are int32 h×W.
        """
        marks = self._marked(self._first + len(self._mask))
        return marks, self._basins()

    def _marked(self, until: int) -> np.ndarray:
        """Mark the rows up to `until` and forget those that no later one depends on."""
        rows = until - self._done
        width = self._mask.shape[1]
        if rows <= 0:
            return np.empty((0, width), np.int32)
        smooth = _smooth(self._height)
        own = slice(self._done - self._first, until - self._first)
        marks = self._of_rows(own, smooth)
        self._passes_of(marks, smooth[own], self._mask[own])
        self._marks_above, self._smooth_above = marks[-1], smooth[own][-1]
        self._mask_above = self._mask[own][-1]
        self._done = until
        keep = max(0, until - _REACH - self._first)
        self._mask, self._height = self._mask[keep:].copy(), self._height[keep:].copy()
        self._first += keep
        return marks

    def _of_rows(self, own: slice, smooth: np.ndarray) -> np.ndarray:
        mask = self._mask[own]
        rows, width = mask.shape
        inside = np.isin(mask, self._values)
        place = np.flatnonzero(inside)
        step = _steps(self._mask, smooth, own, self._values).reshape(-1)[place]
        number_of = np.zeros(rows * width, np.int32)
        number_of[place] = np.arange(len(place), dtype=np.int32)
        down = np.array([at[0] for at in _AROUND])[step]
        there = place + down * width + np.array([at[1] for at in _AROUND])[step]
        is_above, is_below = there < 0, there >= rows * width
        parent = np.arange(len(place), dtype=np.int32)
        stays = is_above | is_below
        parent[~stays] = number_of[there[~stays]]
        is_end = parent == np.arange(len(place))
        while True:  # each round doubles how far a pixel sees
            further = parent[parent]
            if np.array_equal(further, parent):
                break
            parent = further
        mark = np.zeros(len(place), np.int32)
        fresh = np.flatnonzero(is_end & ~is_above)
        mark[fresh] = np.arange(1, len(fresh) + 1) + self._num
        mark[is_above] = self._marks_above[there[is_above] + width]
        peak = smooth[own].reshape(-1)[place[fresh]]
        peak[is_below[fresh]] = 0  # its own is higher, and known later
        mark = mark[parent]
        marks = np.zeros(rows * width, np.int32)
        marks[place] = mark
        self._note(marks.reshape(rows, width), place, mark, len(fresh), peak, mask)
        leads = np.flatnonzero(is_below)
        self._waiting = np.stack((mark[leads], there[leads] - rows * width)).astype(np.int64)
        return marks.reshape(rows, width)

    def _note(
        self,
        marks: np.ndarray,
        place: np.ndarray,
        mark: np.ndarray,
        num_fresh: int,
        peak: np.ndarray,
        mask: np.ndarray,
    ) -> None:
        """Count pixels, and note which marks are one with what led here from above."""
        before, self._num = self._num, self._num + num_fresh
        if self._waiting.shape[1]:
            from_above, columns = self._waiting
            self._same.append(np.stack((from_above, marks[0, columns])))
        known, index, count = np.unique(mark, return_index=True, return_counts=True)
        is_old = known <= before
        self._grown.append(np.stack((known[is_old].astype(np.int64), count[is_old])))
        index, count = index[~is_old], count[~is_old]  # of the fresh ones, in order
        self._peaks.append(peak)
        self._areas.append(count.astype(np.int64))
        self._firsts.append(place[index] + self._done * mask.shape[1])
        self._classes.append(mask.reshape(-1)[place[index]])

    def _passes_of(self, marks: np.ndarray, smooth: np.ndarray, mask: np.ndarray) -> None:
        """Note which marks of a class touch, and how high the highest place between them is."""
        marks, smooth, mask = (
            np.concatenate((above[None], rows))
            for above, rows in (
                (self._marks_above, marks),
                (self._smooth_above, smooth),
                (self._mask_above, mask),
            )
        )
        keys: list[np.ndarray] = []
        heights: list[np.ndarray] = []
        for here, there in _NEIGHBOURS:
            one, other = marks[here], marks[there]
            meet = (one != other) & (one > 0) & (other > 0) & (mask[here] == mask[there])
            place = np.flatnonzero(meet)
            one, other = one.reshape(-1)[place], other.reshape(-1)[place]
            keys.append((np.minimum(one, other).astype(np.int64) << 32) | np.maximum(one, other))
            heights.append(np.minimum(smooth[here], smooth[there]).reshape(-1)[place])
        self._passes.append(np.stack(_highest(np.concatenate(keys), np.concatenate(heights))))

    def _basins(self) -> Basins:
        """Join what is one basin in rows that came one after the other."""
        num = self._num + 1
        peak, area, first, class_value = (
            np.concatenate(each) for each in (self._peaks, self._areas, self._firsts, self._classes)
        )
        for known, count in self._grown:
            np.add.at(area, known, count)
        same = np.concatenate((*self._same, np.empty((2, 0), np.int64)), axis=1)
        graph = scipy.sparse.coo_matrix((np.ones(same.shape[1], bool), tuple(same)), (num, num))
        count, group = cast(
            "tuple[int, np.ndarray]",
            scipy.sparse.csgraph.connected_components(graph, directed=False),
        )
        starts = np.full(count, np.iinfo(np.int64).max)
        np.minimum.at(starts, group, first)
        order = np.argsort(starts, kind="stable")  # 0 stays first: it begins before all pixels
        number = np.empty(count, np.int64)
        number[order] = np.arange(count)
        basin_of = number[group]
        made = np.zeros(count, np.int64)
        np.maximum.at(made, basin_of, peak)
        values = np.zeros(count, np.uint8)
        values[basin_of] = class_value
        keys, heights = np.concatenate((*self._passes, np.empty((2, 0), np.int64)), axis=1)
        low, high = basin_of[keys >> 32], basin_of[keys & 0xFFFFFFFF]
        differ = low != high
        low, high = np.minimum(low, high)[differ], np.maximum(low, high)[differ]
        keys, heights = _highest((low << 32) | high, heights[differ])
        order = np.lexsort((keys, -heights))
        keys, heights = _spanning(keys[order], heights[order], count)
        return Basins(
            basin_of=basin_of,
            peak=made / _FULL,
            area_px=np.bincount(basin_of, area, count).astype(np.int64),
            first=starts[np.argsort(starts, kind="stable")],
            class_value=values,
            passes=np.stack((keys >> 32, keys & 0xFFFFFFFF)),
            heights=heights / _FULL,
        )


def find_objects(
    mask: np.ndarray, planes: np.ndarray, values: Sequence[int], settings: ObjectSettings
) -> np.ndarray:
    """Return the objects of an image that is in memory.

    Shapes: mask H×W class values, planes 2×H×W, both uint8; the result uint32 H×W, 0 where none is.
    """
    marks, basins = basins_of(mask, planes, values)
    return basins.joined(settings)[marks]


def basins_of(
    mask: np.ndarray, planes: np.ndarray, values: Sequence[int]
) -> tuple[np.ndarray, Basins]:
    """Return a mark for each pixel of an image, and all basins.

    Shapes: as `find_objects` takes them; marks int32 H×W, 0 where there is no object.
    """
    finder = ObjectFinder(mask.shape[1], values)
    above = finder.add(mask, planes)
    rest, basins = finder.end()
    return np.concatenate((above, rest)), basins


def values_of(card: ModelCard) -> tuple[int, ...]:
    """Return what the classes with objects are in a mask; none where a model knows no objects."""
    pairs = zip(card.classes, card.class_values, strict=True)
    return tuple(value for name, value in pairs if name in card.instances)


def _smooth(height: np.ndarray) -> np.ndarray:
    """Weigh each pixel with those around it: of bytes, small differences are noise.

    Shapes: uint8 in, int16 out, of the same size.
    """
    wide = np.pad(height, 1, mode="edge").astype(np.int16)
    rows = wide[:-2] + 2 * wide[1:-1] + wide[2:]
    return rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]


def _steps(mask: np.ndarray, smooth: np.ndarray, own: slice, values: Sequence[int]) -> np.ndarray:
    """Return which of the nine pixels around each is the highest of its class, the last of equals.

    Shapes: uint8, as many rows as `own` has; of pixels without objects it is their own.
    """
    first, last = max(0, own.start - 1), own.stop + 1
    above, below = int(own.start == 0), int(last > len(mask))
    shape = (own.stop - own.start, mask.shape[1])
    step = np.full(shape, _AROUND.index((0, 0)), np.uint8)
    for value in values:
        is_own = mask[first:last] == value
        if not is_own.any():
            continue
        heights = np.where(is_own, smooth[first:last], np.int16(-1))
        heights = np.pad(heights, ((above, below), (1, 1)), constant_values=-1)
        best = np.full(shape, -1, np.int16)
        code = np.zeros(shape, np.uint8)
        for number, (down, across) in enumerate(_AROUND):
            one = heights[1 + down : 1 + down + shape[0], 1 + across : 1 + across + shape[1]]
            is_best = one >= best
            np.copyto(best, one, where=is_best)
            np.copyto(code, np.uint8(number), where=is_best)
        np.copyto(step, code, where=mask[own] == value)
    return step


def _highest(keys: np.ndarray, heights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each key once, in order, with its highest. Shapes: P in; int64 out."""
    known, places = np.unique(keys, return_inverse=True)
    most = np.zeros(len(known), np.int64)
    np.maximum.at(most, places.reshape(-1), heights)
    return known.astype(np.int64), most


def _spanning(keys: np.ndarray, heights: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the passes of the tree that spans all basins by the highest ones, in their order.

    Shapes: P in, fewer out.
    """
    rank = np.arange(1, len(keys) + 1, dtype=np.float64)  # no two alike: one tree is the right one
    graph = scipy.sparse.coo_matrix((rank, (keys >> 32, keys & 0xFFFFFFFF)), (count, count)).tocsr()
    kept = np.sort(scipy.sparse.csgraph.minimum_spanning_tree(graph).data).astype(np.int64) - 1
    return keys[kept], heights[kept]


def _by_peak(one: int, other: int, peak: list[float]) -> tuple[int, int]:
    """Return two basins, the one with the lower peak first."""
    return (one, other) if (peak[one], -one) <= (peak[other], -other) else (other, one)


_BUT_LAST, _BUT_FIRST = slice(None, -1), slice(1, None)
_NEIGHBOURS = (
    ((_BUT_FIRST, _BUT_LAST), (_BUT_FIRST, _BUT_FIRST)),  # of the row above only with those below
    ((_BUT_LAST, slice(None)), (_BUT_FIRST, slice(None))),
    ((_BUT_LAST, _BUT_LAST), (_BUT_FIRST, _BUT_FIRST)),
    ((_BUT_LAST, _BUT_FIRST), (_BUT_FIRST, _BUT_LAST)),
)
