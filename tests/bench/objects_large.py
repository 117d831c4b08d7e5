"""Objects of a 20,000² image with 100,000 particles: seconds beyond the network, and memory.

    python tests/bench/objects_large.py OUT [--side 20000]

Bands of 512 rows come as a network gives them; OUT gets mask and x.instances.tif, which `measure`
reads.
"""

import argparse
import os
import resource
import time
from pathlib import Path

import numpy as np

from emcfsys_engine.colours import colours_for
from emcfsys_engine.dataset.objects import targets_of
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.learn.inference.bands import Band
from emcfsys_engine.learn.inference.outputs import Companions, MadeFrom, OutputSet
from emcfsys_engine.model_card import ModelCard, NetworkSpec
from emcfsys_engine.tools.measure.masks import measure_masks
from emcfsys_engine.tools.measure.results import MeasureSettings

_BAND_ROWS = 512
_CELL_PX = 63  # a particle each


def one_cell_row(width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return mask and planes of a row of particles, every second of which touches its neighbour."""
    rows, columns = np.indices((_CELL_PX, width))
    within, cell = columns % _CELL_PX, columns // _CELL_PX
    middle = np.where(cell % 2, 24, 38)
    inside = (rows - 31) ** 2 + (within - middle) ** 2 < 25**2
    ids = np.where(inside, cell + 1, 0).astype(np.int32)
    mask = (ids > 0).astype(np.uint8)
    return mask, np.minimum(targets_of(ids, mask), 254)


def peak_gib() -> float:
    """Return the most memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Write the objects of one image, then measure them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--side", type=int, default=20_000)
    given = parser.parse_args()
    card = ModelCard(
        network=NetworkSpec(head="unet", backbone="resnet18", num_classes=2, num_planes=2),
        classes=("background", "particle"),
        class_values=(0, 1),
        colours=colours_for(2),
        instances=("particle",),
        patch_px=256,
    )
    mask, planes = one_cell_row(given.side)
    began = time.monotonic()
    outputs = OutputSet(
        given.out / "x.png",
        (given.side, given.side),
        (5.0, 5.0),
        card,
        Companions(),
        book=OutputBook(given.out),
        origin=MadeFrom(image=Path("/nowhere/x.tif")),
    )
    for first in range(0, given.side, _BAND_ROWS):
        rows = np.arange(first, min(given.side, first + _BAND_ROWS)) % _CELL_PX
        counts = np.zeros(2, np.int64)
        outputs.add(
            Band(first=first, mask=mask[rows], counts=counts, sure=0.0, planes=planes[:, rows])
        )
    outputs.finish()
    written_s, memory = time.monotonic() - began, peak_gib()
    began = time.monotonic()
    settings = MeasureSettings(classes={"background": 0, "particle": 1})
    found = measure_masks(str(given.out / "x.png"), given.out / "numbers", settings)
    print(f"objects and files {written_s:.1f} s, peak {memory:.2f} GiB")
    measured_s = time.monotonic() - began
    print(f"measure {measured_s:.1f} s, peak {peak_gib():.2f} GiB, {found.num_objects:,} objects")
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
