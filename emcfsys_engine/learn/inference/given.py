"""What a Predictor is given, as an array of pixels: arrays, lists, pictures and tensors."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image

from emcfsys_engine.errors import InputError

_MOST_CHANNELS = 4
_BY_SLICE = "Give one slice, or all to predict_stack, which yields slice by slice"


def as_pixels(given: Any) -> np.ndarray:
    """Return one image as an array.

    Shapes: H×W or H×W×C with C up to 4, of any real type; whatever numpy, Pillow or torch made.
    Raises: InputError for stacks, other shapes and what is no picture.
    """
    pixels = _array(given)
    if pixels.ndim == 3 and pixels.shape[2] > _MOST_CHANNELS:
        what = f"has the shape {_told(pixels)}: a stack, or channels that come first"
        raise InputError("image", what, f"{_BY_SLICE}; colours are H×W×C")
    if pixels.ndim not in (2, 3):
        what = f"has {pixels.ndim} axes ({_told(pixels)}), an image has two, or three with colours"
        raise InputError("image", what, _BY_SLICE if pixels.ndim > 3 else "Give it as H×W")
    return pixels


def slices_of(given: Any) -> Iterator[np.ndarray]:
    """Yield the images of a stack: D×H×W, D×H×W×C, or anything that yields images.

    Raises: InputError for one image, or where a slice is none.
    """
    if isinstance(given, np.ndarray | torch.Tensor) and given.ndim < 3:
        raise InputError("stack", "is no stack", "Give D×H×W, or one image to predict")
    if not isinstance(given, Iterable):
        raise InputError("stack", f"is a {type(given).__name__}", "Give D×H×W, or a list of images")
    for one in given:
        yield as_pixels(one)


def _array(given: Any) -> np.ndarray:
    if isinstance(given, torch.Tensor):
        given = given.detach().cpu()
        given = given.float().numpy() if given.dtype == torch.bfloat16 else given.numpy()
    elif isinstance(given, Image.Image):
        plain = {"1": "L", "P": "RGB", "PA": "RGBA", "CMYK": "RGB", "YCbCr": "RGB", "HSV": "RGB"}
        given = given.convert(plain.get(given.mode, given.mode))
    try:
        pixels = np.asarray(given)
    except (ValueError, TypeError):
        raise InputError("image", "has rows of unlike lengths", "Give it as H×W") from None
    if pixels.dtype.kind not in "buif":
        word = "complex numbers" if pixels.dtype.kind == "c" else f"the type {pixels.dtype}"
        remedy = (
            "Give real numbers, such as np.abs of it" if word[0] == "c" else "Give real numbers"
        )
        raise InputError("image", f"holds {word}", remedy)
    if pixels.dtype == np.bool_:
        return pixels.view(np.uint8)
    return pixels.astype(np.float32) if pixels.dtype == np.float16 else pixels


def _told(pixels: np.ndarray) -> str:
    return " × ".join(map(str, pixels.shape)) or "one number"
