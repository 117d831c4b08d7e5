"""Strips of a few validation images: the image, its labels, what was predicted, where it is wrong.

H and W pixels, C channels.
"""

from pathlib import Path

import numpy as np

from emcfsys_engine.images.writers import PngWriter
from emcfsys_engine.model_card import ModelCard
from emcfsys_engine.project import UNLABELLED

MOST = 3  # images of the validation set that are drawn
_LONGEST_PX = 256
_ERROR = (220, 50, 47)


def preview_name(step: int, image: str) -> str:
    """Return a preview's file name: what is not a plain letter in an image's name is dropped."""
    plain = "".join(c if c.isalnum() or c in "-_." else "_" for c in image)[-80:]
    return f"step-{step:07d}-{plain}.png"


def write_preview(
    file: Path,
    image_HWC: np.ndarray,
    truth_HW: np.ndarray,
    predicted_HW: np.ndarray,
    card: ModelCard,
) -> None:
    """Write one strip as PNG. Shapes: as `strip_of`. Raises: OSError when the disk is full."""
    strip = strip_of(image_HWC, truth_HW, predicted_HW, card)
    file.parent.mkdir(exist_ok=True)
    writer = PngWriter(file, (strip.shape[0], strip.shape[1]), channels=3, is_smooth=True)
    try:
        writer.write(strip)
        writer.finish()
    except OSError:
        writer.abort()
        raise


def strip_of(
    image_HWC: np.ndarray, truth_HW: np.ndarray, predicted_HW: np.ndarray, card: ModelCard
) -> np.ndarray:
    """Return one strip: image | truth | prediction | error, at most 256 px a panel.

    Shapes: image is normalised float, of one channel or three; truth and prediction are class
            indices, 255 unlabelled; uint8 H×W×3.
    """
    stride = max(1, -(-max(truth_HW.shape) // _LONGEST_PX))
    image, truth, predicted = (
        plane[::stride, ::stride] for plane in (image_HWC, truth_HW, predicted_HW)
    )
    shown = (np.clip((image + 2.5) / 5, 0, 1) * 255).astype(np.uint8)
    picture = np.broadcast_to(shown, (*shown.shape[:2], 3))
    table = np.full((256, 3), 90, np.uint8)  # unlabelled: grey
    table[: len(card.colours)] = card.colours
    error = picture // 2
    error[(truth != predicted) & (truth != UNLABELLED)] = _ERROR
    gap = np.full((picture.shape[0], 2, 3), 255, np.uint8)
    panels = [picture, gap, table[truth], gap, table[predicted], gap, error]
    return np.concatenate(panels, axis=1)
