"""Images and labels to another pixel size, so that one project sees one scale."""

import numpy as np
from PIL import Image

_SAME = 1e-3  # relative: closer sizes are the same size


def size_at(
    size_HW: tuple[int, int], pixel_nm: tuple[float, float], wanted_nm: float
) -> tuple[int, int]:
    """Return the size in pixels that an image has at another pixel size; at least 1 × 1.

    Units: pixel_nm is (y, x).
    """
    height, width = (
        side if abs(own / wanted_nm - 1) < _SAME else max(1, round(side * own / wanted_nm))
        for side, own in zip(size_HW, pixel_nm, strict=True)
    )
    return height, width


def resampled(image: np.ndarray, size_HW: tuple[int, int]) -> np.ndarray:
    """Return the image at another size; making it smaller averages, so that nothing aliases.

    Shapes: H×W or H×W×C in, float32 of the same number of axes out.
    """
    if image.shape[:2] == tuple(size_HW):
        return image.astype(np.float32, copy=False)
    planes = image[..., None] if image.ndim == 2 else image
    size = (size_HW[1], size_HW[0])
    done = [
        np.asarray(
            Image.fromarray(np.ascontiguousarray(planes[..., c], np.float32)).resize(
                size, Image.Resampling.BICUBIC
            )
        )
        for c in range(planes.shape[2])
    ]
    return done[0] if image.ndim == 2 else np.stack(done, axis=2)


def resampled_labels(ids: np.ndarray, size_HW: tuple[int, int]) -> np.ndarray:
    """Return class ids at another size; no value appears that was not there.

    Shapes: uint8 H×W.
    """
    if ids.shape == tuple(size_HW):
        return ids
    size = (size_HW[1], size_HW[0])
    return np.asarray(Image.fromarray(ids).resize(size, Image.Resampling.NEAREST))
