"""Grey values from any camera made alike: percentile clip, then z-score, over the whole image."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from emcfsys_engine.model_card import NormaliserSettings

_FLAT = 0.6  # a painted row is mostly one value
_LEAST_ROWS = 8
_MOST_SHARE = 0.25
_BAND_ROWS = 512
_EDGE_ROWS = 16  # above a bar: where its edge may still be seen
_STRAIGHT = 0.7  # of the columns end within two rows


def find_info_bar(pixels: np.ndarray) -> int:
    """Return how many rows at the bottom are a painted bar; 0 when none is.

    A bar is a block at the bottom where one background value fills most of each row, begun by a
    sharp, straight edge, and whose text uses the extreme grey values. Vacuum and pores that are
    clipped to black are as flat, but no specimen ends in the same row everywhere.
    Shapes: H×W or H×W×C of any real dtype; only integers have a bar.
    """
    grey = pixels if pixels.ndim == 2 else pixels[..., 0]
    return find_info_bar_of_rows(lambda first, last: grey[first:last], grey.shape, grey.dtype)


def find_info_bar_of_rows(
    read: Callable[[int, int], np.ndarray], size_HW: tuple[int, ...], dtype: np.dtype[Any]
) -> int:
    """Return the same for an image of one channel that is read in bands; most are not read whole.

    Shapes: read(first, last) gives rows×W of that dtype; only integers have a bar.
    """
    height, width = size_HW
    if width < 64 or height < 64 or dtype.kind not in "ui":
        return 0
    background = _commonest(read(height - _LEAST_ROWS, height))
    start = height - max(1, int(height * _MOST_SHARE))
    facts = [_facts(rows, background) for rows in _bands(read, start, height)]
    share, low, high = (np.concatenate(each) for each in zip(*facts, strict=True))
    flat = share > _FLAT
    if flat.all() or flat.sum() < _LEAST_ROWS:
        return 0
    # Rows full of text may fall below the limit: a bar reaches up to the last flat row above it.
    rows = _rows_from_bottom(flat)
    first = len(flat) - rows
    if rows < _LEAST_ROWS or first == 0 or share[:first].mean() > 0.2:
        return 0
    ends = [(int(band.min()), int(band.max())) for band in _bands(read, 0, start)]
    ends.append((int(low.min()), int(high.max())))
    whole = max(most for _, most in ends) - min(least for least, _ in ends)
    has_text = int(high[first:].max()) - int(low[first:].min()) > 0.3 * max(1, whole)
    around = read(height - rows - _EDGE_ROWS, height - rows + 4)
    return rows if has_text and _ends_straight(around, background) else 0


def _ends_straight(rows: np.ndarray, background: np.generic) -> bool:
    """Tell whether what is unlike the background ends at one height in most columns."""
    away = np.abs(rows.astype(np.int64) - int(background))
    is_other = away > np.median(away[:_EDGE_ROWS]) / 4  # a JPEG's edge rings into the bar
    some = is_other[:, is_other.any(axis=0)]
    ends = np.bincount(np.argmax(some[::-1], axis=0), minlength=2)
    near = np.convolve(ends, np.ones(2, np.int64), "valid")
    return bool(near.max() >= _STRAIGHT * max(1, some.shape[1]))


def _facts(rows: np.ndarray, background: np.generic) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a row's share of background, its lowest and its highest value."""
    return (rows == background).mean(axis=1), rows.min(axis=1), rows.max(axis=1)


def _bands(read: Callable[[int, int], np.ndarray], first: int, last: int) -> Iterator[np.ndarray]:
    for start in range(first, last, _BAND_ROWS):
        yield read(start, min(last, start + _BAND_ROWS))


def _rows_from_bottom(flat: np.ndarray) -> int:
    rows = gap = 0
    for number, is_flat in enumerate(flat[::-1], start=1):
        gap = 0 if is_flat else gap + 1
        if gap > 12:
            break
        if is_flat:
            rows = number
    return rows


def _commonest(block: np.ndarray) -> np.generic:
    values, counts = np.unique(block, return_counts=True)
    return values[counts.argmax()]


_COUNTED = (np.dtype(np.uint8), np.dtype(np.uint16))  # values are counted instead of sorted
SAMPLE_PX = 4_000_000  # above this the statistics come from an evenly strided sample


class Normaliser(NormaliserSettings, frozen=True, kw_only=True):
    """How pixels become a network's input; kept in the model file, so that both ends agree.

    The statistics are those of the whole image, never of a tile: tiles would show seams. Constant
    borders and the microscope's info bar are left out of them. bioimage.io can say exactly this
    (ScaleRange, then ZeroMeanUnitVariance).
    """

    def apply(self, pixels: np.ndarray, info_bar_rows: int = 0) -> np.ndarray:
        """Return the image as float32 with mean 0 and deviation 1 a channel.

        NaN and infinity become the clip's ends (NaN its low one); a constant image becomes zeros.
        Shapes: H×W or H×W×C of any real dtype in, H×W×C float32 out.
        """
        image = pixels[..., None] if pixels.ndim == 2 else pixels
        return self.apply_all(image, self.per_channel(image, info_bar_rows))

    def per_channel(
        self, pixels: np.ndarray, info_bar_rows: int = 0
    ) -> tuple[tuple[float, float, float, float], ...]:
        """Return the statistics of each channel.

        Shapes: H×W, which is one channel, or H×W×C, of any real dtype; C times as `statistics`.
        """
        planes = [pixels] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
        return tuple(self.statistics(plane, info_bar_rows) for plane in planes)

    def apply_all(
        self, rows: np.ndarray, statistics: Sequence[tuple[float, float, float, float]]
    ) -> np.ndarray:
        """Return some rows, normalised by the statistics of each channel of the whole image.

        Shapes: h×W, or h×W×C with the statistics of C channels, any real dtype; float32 out.
        """
        if rows.ndim == 2:
            return self.apply_known(rows, statistics[0])
        made = np.empty(rows.shape, np.float32)
        for channel, known in enumerate(statistics):
            made[..., channel] = self.apply_known(rows[..., channel], known)
        return made

    def apply_known(
        self, rows: np.ndarray, statistics: tuple[float, float, float, float]
    ) -> np.ndarray:
        """Return some rows of one channel, normalised by the statistics of the whole image.

        Shapes: any, of any real dtype; the same in float32 out.
        """
        low, high, mean, deviation = statistics
        if deviation == 0:
            return np.zeros(rows.shape, np.float32)
        made = rows.astype(np.float32)
        if rows.dtype.kind == "f":
            np.nan_to_num(made, copy=False, nan=low, posinf=high, neginf=low)
        np.clip(made, low, high, out=made)
        made -= np.float32(mean)
        made /= np.float32(deviation)
        return made

    def statistics(
        self, plane: np.ndarray, info_bar_rows: int = 0
    ) -> tuple[float, float, float, float]:
        """Return the clip's low and high end, and mean and deviation after clipping.

        Shapes: plane is H×W of any real dtype. Units: as its values.
        """
        specimen = plane[: plane.shape[0] - info_bar_rows] if info_bar_rows else plane
        if not specimen.size:
            return 0.0, 0.0, 0.0, 0.0
        specimen = _without_borders(specimen)
        stride = sample_stride(specimen.size)
        return self.statistics_of(specimen[::stride, ::stride].ravel())

    def statistics_of(self, sample: np.ndarray) -> tuple[float, float, float, float]:
        """Return the same from the sample of an image: see `images.survey`.

        Shapes: any number of values on one axis, in the image's own type: any real dtype.
        """
        if sample.dtype in _COUNTED and sample.size:
            low, high, mean, deviation = self._counted(sample)
        else:
            values = sample.astype(np.float64)
            values = values[np.isfinite(values)]
            if not values.size:
                return 0.0, 0.0, 0.0, 0.0
            low, high = np.percentile(values, (self.low_percentile, self.high_percentile))
            if not high > low:  # one value fills nearly everything: use the extremes
                low, high = values.min(), values.max()
            clipped = np.clip(values, low, high)
            mean, deviation = float(clipped.mean()), float(clipped.std())
        tiny = 1e-6 * max(1.0, abs(float(low)), abs(float(high)))
        spread = (
            deviation
            if deviation > tiny
            or (np.issubdtype(sample.dtype, np.floating) and deviation > 1e-6 * abs(mean))
            else 0.0
        )
        return float(low), float(high), mean, spread

    def _counted(self, sample: np.ndarray) -> tuple[float, float, float, float]:
        """Return low, high, mean and deviation from how often each value occurs: no sorting."""
        counts = np.bincount(sample)
        below = counts.cumsum()
        low, high = (
            _percentile(below, percent) for percent in (self.low_percentile, self.high_percentile)
        )
        if not high > low:
            low, high = float(np.argmax(counts > 0)), float(len(counts) - 1)
        clipped = np.clip(np.arange(len(counts), dtype=np.float64), low, high)
        mean = float(counts @ clipped) / sample.size
        variance = float(counts @ (clipped - mean) ** 2) / sample.size
        return low, high, mean, variance**0.5


def _percentile(below: np.ndarray, percent: float) -> float:
    """Return a percentile as numpy's linear method does; `below` counts the values up to each."""
    place = (int(below[-1]) - 1) * percent / 100
    first = int(place)
    lower, upper = np.searchsorted(below, (first, min(first + 1, int(below[-1]) - 1)), side="right")
    return float(lower + (upper - lower) * (place - first))


def has_no_number(values: np.ndarray) -> bool:
    """Tell whether all values are NaN or infinite. Shapes: any, of any real dtype."""
    return values.dtype.kind == "f" and values.size > 0 and not np.isfinite(values).any()


def sample_stride(num_px: int) -> int:
    """Return the step, along rows and columns, at which an image's statistics are sampled."""
    return max(1, round((num_px / SAMPLE_PX) ** 0.5))


def to_grey(pixels: np.ndarray) -> np.ndarray:
    """Return one channel: the first where colours are equal, else luminance; alpha is dropped.

    Shapes: H×W or H×W×C of any real dtype; H×W out, float32 for luminance, else dtype kept.
    """
    if pixels.ndim == 2:
        return pixels
    if pixels.shape[2] <= 2:
        return pixels[..., 0]
    if has_equal_channels(pixels):
        return pixels[..., 0]
    return luminance(pixels)


def has_equal_channels(pixels: np.ndarray) -> bool:
    """Tell whether a colour picture is grey: most that microscopes write as RGB are.

    Shapes: H×W×C of any real dtype, with three or more channels.
    """
    red, green, blue = (pixels[..., n] for n in range(3))
    return np.array_equal(red, green) and np.array_equal(green, blue)


def luminance(pixels: np.ndarray) -> np.ndarray:
    """Return how bright colours are.

    Shapes: H×W×C or N×C of any real dtype, three channels or more; H×W or N float32 out.
    """
    weights = np.array((0.299, 0.587, 0.114), np.float32)  # ITU-R BT.601, as Pillow's "L"
    return pixels[..., :3].astype(np.float32) @ weights


def block_means(grey: np.ndarray, block_HW: tuple[int, int]) -> np.ndarray:
    """Return the mean of each whole block; borders that fill none are left out, NaN counts as 0.

    Shapes: H×W of any real dtype, (H // block height)×(W // block width) float64 out.
    """
    high, wide = block_HW
    rows, columns = grey.shape[0] // high, grey.shape[1] // wide
    cut = grey[: rows * high, : columns * wide].reshape(rows, high, columns, wide)
    return np.nan_to_num(cut.mean(axis=(1, 3), dtype=np.float64))


def to_8_bit(pixels: np.ndarray, info_bar_rows: int = 0) -> np.ndarray:
    """Return the picture that people look at: the same clip, stretched over 0–255.

    Shapes: H×W or H×W×C of any real dtype in, H×W or H×W×3 uint8 out.
    """
    colours = pixels if pixels.ndim == 2 else pixels[..., :3]
    if colours.ndim == 3 and colours.shape[2] < 3:
        colours = colours[..., 0]
    normaliser = Normaliser()
    low, high, _, _ = normaliser.statistics(to_grey(colours), info_bar_rows)
    return stretched(colours, low, high)


def stretched(pixels: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return values from low to high spread over 0–255; NaN becomes 0.

    Shapes: any, of any real dtype; the same in uint8 out.
    """
    made = np.nan_to_num(pixels.astype(np.float32), nan=low, posinf=high, neginf=low)
    made = (np.clip(made, low, high) - low) * (255 / (high - low)) if high > low else made * 0
    return (made + 0.5).astype(np.uint8)


def _without_borders(plane: np.ndarray) -> np.ndarray:
    """Cut constant rows and columns from the edges (padding of aligned stacks)."""
    top, bottom, left, right = 0, plane.shape[0], 0, plane.shape[1]
    while top < bottom and _is_constant(plane[top], plane[0, 0]):
        top += 1
    while bottom > top and _is_constant(plane[bottom - 1], plane[-1, 0]):
        bottom -= 1
    if top == bottom:
        return plane
    middle = plane[top:bottom]
    while left < right - 1 and _is_constant(middle[:, left], middle[0, 0]):
        left += 1
    while right > left + 1 and _is_constant(middle[:, right - 1], middle[0, -1]):
        right -= 1
    return middle[:, left:right]


def _is_constant(line: np.ndarray, value: np.generic) -> bool:
    return bool((line == value).all())


# Grey or colour: what a network of one or three channels reads, and whether colour says anything.
#
# Most micrographs that are stored as RGB are grey, or grey behind a colour table: there brightness
# says all. In others, such as stained sections, pixels of equal brightness differ in colour.

GREY, RGB = 1, 3  # channels of a network
ENOUGH_COLOUR = 0.02  # of the pixels: a red scale bar is less
_SAMPLE_PX = 4_000_000
_LARGEST_BLOCK_PX = 8  # averaged: the noise of a camera is no colour
_STEPS = 64  # of brightness, within which pixels count as equally bright
_DIFFERS = 0.08  # of the image's range of values


def read_as(pixels: np.ndarray, channels: int) -> np.ndarray:
    """Return what a network of so many channels reads; alpha is dropped, grey is used three times.

    Shapes: H×W or H×W×C of any real dtype; H×W out for one channel, H×W×3 for three; float32
            where colours became grey, else dtype kept.
    """
    if channels == GREY:
        return to_grey(pixels)
    if is_in_colour(pixels):
        return pixels[..., :3]
    return np.repeat(to_grey(pixels)[..., None], RGB, axis=2)


def is_in_colour(pixels: np.ndarray) -> bool:
    """Tell whether the pixels have colours that differ. Shapes: H×W or H×W×C, any real dtype."""
    return pixels.ndim == 3 and pixels.shape[2] >= RGB and not has_equal_channels(pixels)


def carries_colour(pixels: np.ndarray) -> bool:
    """Tell whether pixels of equal brightness differ in colour: grey would lose that.

    A colour table over a grey image, sepia, a coloured scale bar and a camera's noise do not.
    Shapes: H×W or H×W×C of any real dtype.
    """
    return colour_share(pixels) >= ENOUGH_COLOUR


def colour_share(pixels: np.ndarray) -> float:
    """Return the share of pixels whose colour is not that of others as bright as they are.

    Shapes: H×W or H×W×C of any real dtype. Units: 0 to 1.
    """
    if not is_in_colour(pixels):
        return 0.0
    colours_N3 = _averaged(pixels[..., :3])
    low, high = np.percentile(colours_N3, (0.5, 99.5))
    if not high > low:
        return 0.0
    colours_N3 = (colours_N3 - low) / (high - low)
    light_N = luminance(colours_N3)
    step_N = np.clip(light_N * _STEPS, 0, _STEPS - 1).astype(np.int64)
    tint_N2 = colours_N3[:, ::2] - light_N[:, None]  # red and blue; green follows from them
    differing = 0
    for step in np.unique(step_N):
        own_N2 = tint_N2[step_N == step]
        away_N = np.abs(own_N2 - np.median(own_N2, axis=0)).max(axis=1)
        differing += int((away_N > _DIFFERS).sum())
    return differing / len(colours_N3)


def _averaged(colours: np.ndarray) -> np.ndarray:
    """Return the means of blocks, of a part of them where there are many. Shapes: H×W×3, N×3."""
    height, width = colours.shape[:2]
    side = int(np.clip(min(height, width) // 32, 1, _LARGEST_BLOCK_PX))
    skip = max(1, height * width // _SAMPLE_PX)
    tops = range(0, height - side + 1, side * skip)
    rows = np.concatenate([colours[top : top + side] for top in tops])
    means = [block_means(rows[..., n], (side, side)) for n in range(RGB)]
    return np.stack(means, axis=-1).reshape(-1, RGB)
