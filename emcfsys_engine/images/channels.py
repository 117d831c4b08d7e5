"""Grey or colour: what a network of one or three channels reads, and whether colour says anything.

Most micrographs that are stored as RGB are grey, or grey behind a colour table: there brightness
says all. In others, such as stained sections, pixels of equal brightness differ in colour.
"""

import numpy as np

from emcfsys_engine.images.normalise import block_means, has_equal_channels, luminance, to_grey

GREY, RGB = 1, 3  # channels of a network
ENOUGH_COLOUR = 0.02  # of the pixels: a red scale bar is less
_SAMPLE_PX = 4_000_000
_LARGEST_BLOCK_PX = 8  # averaged: the noise of a camera is no colour
_STEPS = 64  # of brightness, within which pixels count as equally bright
_DIFFERS = 0.08  # of the image's range of values


def read_as(pixels: np.ndarray, channels: int) -> np.ndarray:
    """Return what a network of so many channels reads; alpha is dropped, grey is used three times.

    Shapes: H×W or H×W×C in; H×W out for one channel, H×W×3 for three.
    """
    if channels == GREY:
        return to_grey(pixels)
    if is_in_colour(pixels):
        return pixels[..., :3]
    return np.repeat(to_grey(pixels)[..., None], RGB, axis=2)


def is_in_colour(pixels: np.ndarray) -> bool:
    """Tell whether the pixels have colours that differ. Shapes: H×W or H×W×C."""
    return pixels.ndim == 3 and pixels.shape[2] >= RGB and not has_equal_channels(pixels)


def carries_colour(pixels: np.ndarray) -> bool:
    """Tell whether pixels of equal brightness differ in colour: grey would lose that.

    A colour table over a grey image, sepia, a coloured scale bar and a camera's noise do not.
    Shapes: H×W or H×W×C.
    """
    return colour_share(pixels) >= ENOUGH_COLOUR


def colour_share(pixels: np.ndarray) -> float:
    """Return the share of pixels whose colour is not that of others as bright as they are.

    Shapes: H×W or H×W×C.
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
