"""Micrographs with masks of three classes, for benches that train."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from emcfsys_engine.tools.demo import make_micrograph


def write_pairs(images: Path, masks: Path, indices: Iterable[int], px: int) -> None:
    """Write drawn micrographs of px × px and their masks as PNG, named by their indices."""
    for index in indices:
        _, pixels = make_micrograph(1, index, px)
        truth = np.digitize(pixels, (90, 150)).astype(np.uint8)
        for folder, array in ((images, pixels), (masks, truth)):
            folder.mkdir(exist_ok=True)
            Image.fromarray(array).save(folder / f"{index}.png")
