"""Masks that are drawn, saved and measured; what the tables then say."""

import csv
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from scipy import ndimage

from emcfsys_engine.tools.measure.masks import measure_masks
from emcfsys_engine.tools.measure.results import Measurement, MeasureSettings

CLASSES = {"matrix": 0, "large": 1, "small": 2}
SMALL_MASKS = arrays(
    np.uint8, st.tuples(st.integers(1, 18), st.integers(1, 18)), elements=st.integers(0, 2)
)


def disc(shape: tuple[int, int], centre: tuple[float, float], radius: float) -> np.ndarray:
    rows, columns = np.indices(shape)
    return np.hypot(rows - centre[0], columns - centre[1]) <= radius


def save_mask(file: Path, ids: np.ndarray, pixel_nm: tuple[float, float] | None = None) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    info = PngInfo()
    if pixel_nm:
        info.add_text("pixel_nm", f"{pixel_nm[0]:.9g} {pixel_nm[1]:.9g}")
    Image.fromarray(ids).save(file, pnginfo=info)


def rows_of(file: str | Path) -> list[dict[str, str]]:
    with Path(file).open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def measured(folder: Path, **settings: object) -> Measurement:
    return measure_masks(
        str(folder / "masks"), folder / "out", MeasureSettings(classes=CLASSES, **settings)
    )


def blobs(seed: int, side: int = 40) -> np.ndarray:
    """Return a mask of round pieces, uint8, wider than high."""
    noise = np.random.default_rng(seed).random((side, side + 7))
    return (ndimage.gaussian_filter(noise, 2) > 0.5).astype(np.uint8)
