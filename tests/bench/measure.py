"""How long `measure` takes on a 4096² mask with 20,000 objects, and scikit-image beside it.

python -m tests.bench.measure [--skimage]
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.measure import label, regionprops_table

from emcfsys_engine.tools.measure.masks import measure_masks
from emcfsys_engine.tools.measure.results import MeasureSettings
from tests.bench.machine import machine_line

_SIDE_PX = 4096
_PER_ROW = 142  # 142² = 20,164 objects
_LIMIT_S = 5.0
_PROPERTIES = (
    "area", "centroid", "axis_major_length", "axis_minor_length", "orientation", "eccentricity",
    "solidity", "perimeter_crofton", "feret_diameter_max", "mean_intensity",
)  # fmt: skip


def main() -> None:
    """Print one table; each has the same limit."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--skimage", action="store_true", help="Time regionprops_table as well.")
    arguments = parser.parse_args()
    print(machine_line("numpy", "scipy", "scikit-image", "shapely"))
    ids, grey = _discs()
    print(f"{'4096² mask':<44} {'objects':>8} {'seconds':>8}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "masks").mkdir()
        (folder / "images").mkdir()
        Image.fromarray(ids).save(folder / "masks/a.png")
        Image.fromarray(grey).save(folder / "images/a.png")
        for words, images, settings in (
            ("measure, mask alone", False, MeasureSettings(classes=_CLASSES)),
            ("measure with its image", True, MeasureSettings(classes=_CLASSES)),
            (
                "measure --split watershed",
                False,
                MeasureSettings(classes=_CLASSES, split="watershed"),
            ),
        ):
            began = time.perf_counter()
            done = measure_masks(
                str(folder / "masks"),
                folder / "out",
                settings,
                images=str(folder / "images") if images else None,
            )
            _row(words, done.num_objects, time.perf_counter() - began)
    print(f"limit: {_LIMIT_S:g} s")
    if arguments.skimage:
        began = time.perf_counter()
        table = regionprops_table(label(ids, connectivity=2), grey, properties=_PROPERTIES)
        _row(
            "regionprops_table, fewer columns, no files",
            len(table["area"]),
            time.perf_counter() - began,
        )


_CLASSES = {"matrix": 0, "large": 1, "small": 2}


def _discs() -> tuple[np.ndarray, np.ndarray]:
    """Return discs of 8 to 26 px, two classes in turn, and an image of noise."""
    rng = np.random.default_rng(0)
    step = _SIDE_PX / _PER_ROW
    radius = rng.uniform(4, 13, (_PER_ROW, _PER_ROW))
    place = np.arange(_SIDE_PX)
    cell = np.minimum((place / step).astype(int), _PER_ROW - 1)
    offset = place - (cell + 0.5) * step
    inside = np.hypot(offset[:, None], offset[None]) < radius[cell[:, None], cell[None]]
    turn = 1 + (cell[:, None] + cell[None]) % 2
    grey = rng.integers(0, 65_535, (_SIDE_PX, _SIDE_PX), dtype=np.uint16)
    return (inside * turn).astype(np.uint8), grey


def _row(words: str, num_objects: int, seconds: float) -> None:
    print(f"{words:<44} {num_objects:>8,} {seconds:>8.2f}")


if __name__ == "__main__":
    main()
