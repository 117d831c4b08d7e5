"""A small picture of a large image in regions, and of what is done of its mask.

Only regions that are done are read, each once: of what is not done there is nothing to see yet.
H and W pixels of the picture.
"""

import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.normalise import stretched
from emcfsys_engine.images.reader import read_micrograph
from emcfsys_engine.images.rows import PlaneRows, Survey, open_rows, rows_of
from emcfsys_engine.regions import Mosaic, Region, whole_of

NOT_DONE = 255  # among the values of a mask
_STRIP_PX = 1 << 24  # of the image, that are held at a time


def ref_of(mosaic: Mosaic) -> ImageRef:
    """Return the image of a mosaic."""
    return ImageRef(path=Path(mosaic.image), plane=mosaic.plane)


def survey_of(mosaic: Mosaic) -> Survey:
    """Return the statistics of the whole image."""
    return Survey(
        info_bar_rows=mosaic.info_bar_rows,
        statistics=mosaic.statistics,
        is_coloured=mosaic.is_coloured,
        colours=mosaic.colours,
    )


def folder_of(mosaic: Mosaic, folder: Path) -> Path:
    """Return where a mask grows, in the folder of the run's shards."""
    return folder / f"mosaic-{mosaic.number}.ome.zarr"


class Part:
    """Some of an image and its mask, made smaller by a whole number.

    Shapes: grey and ids are uint8 H×W; ids hold values of the mask, `NOT_DONE` where it has none.
    """

    def __init__(self, box: Region, factor: int) -> None:
        self.box, self.factor = box, factor
        size = tuple(-(-length // factor) for length in box.size)
        self.grey = np.zeros(size, np.uint8)
        self.ids = np.full(size, NOT_DONE, np.uint8)

    def fill(self, region: Region, mosaic: Mosaic, rows: PlaneRows, mask: Any) -> None:
        """Take a region that is done.

        Raises: ImageError for a damaged image; what Zarr raises for a damaged mask.
        """
        by, top, left = self.factor, self.box.top, self.box.left
        down, across = (
            range(-(-(max(low, start) - start) // by), -(-(min(high, end) - start) // by))
            for low, high, start, end in (
                (region.top, region.bottom, top, self.box.bottom),
                (region.left, region.right, left, self.box.right),
            )
        )
        if not len(down) or not len(across):
            return
        first, last = left + across.start * by, min(region.right, left + across.stop * by)
        columns, step = rows.columns(first, last), max(1, _STRIP_PX // (by * (last - first)))
        for start in range(down.start, down.stop, step):
            stop = min(start + step, down.stop)
            above, below = top + start * by, min(region.bottom, top + stop * by)
            place = slice(start, stop), slice(across.start, across.stop)
            self.ids[place] = mask[above:below:by, first:last:by]
            self.grey[place] = _smaller(columns.read(above, below), mosaic, by)


class MosaicView(Part):
    """All of an image, no longer than some pixels; it grows as regions are done."""

    def __init__(self, mosaic: Mosaic, folder: Path, most_px: int = 1024) -> None:
        """`folder`: of the run's shards."""
        whole = whole_of(mosaic.size_HW)
        super().__init__(whole, max(1, -(-max(whole.size) // most_px)))
        self.mosaic, self._folder = mosaic, folder
        self._taken: dict[Region, None] = {}

    def grow(self, done: Iterable[Region], seconds: float) -> bool:
        """Take regions that are done and new, for so long, one at least; False: some are left.

        Raises: ImageError when the image or the mask cannot be read.
        """
        until = time.monotonic() + seconds
        new = [region for region in done if region not in self._taken]
        for number, region in enumerate(new):
            if number and time.monotonic() > until:
                return False
            self._fill(self, [region])
            self._taken[region] = None
        return True

    def part(self, box: Region, factor: int) -> Part:
        """Return a part of it more finely, as far as regions were taken.

        Raises: ImageError when the image or the mask cannot be read.
        """
        made = Part(box, factor)
        self._fill(made, list(self._taken))
        return made

    def _fill(self, part: Part, regions: list[Region]) -> None:
        rows = open_rows(ref_of(self.mosaic)) or rows_of(read_micrograph(ref_of(self.mosaic)))
        with closing(rows):
            if rows.shape[:2] != self.mosaic.size_HW:
                raise ImageError(self.mosaic.image, "has another size than when it was listed")
            try:
                mask = self._mask(part.factor)
                for region in regions:
                    part.fill(region, self.mosaic, rows, mask)
            except (OSError, KeyError, ValueError, IndexError) as error:
                words = " ".join(str(error).split())[:100]
                what = f"cannot be read now ({words})"
                raise ImageError(self.mosaic.mask, what, "Look again when it is done") from None

    def _mask(self, factor: int) -> Any:
        """Return the mask as it grows, or as it is under its name."""
        import zarr  # takes a moment that only this needs

        place = folder_of(self.mosaic, self._folder)
        group = zarr.open_group(str(place if place.is_dir() else self.mosaic.mask), mode="r")
        array: Any = group["0"]
        if tuple(array.shape) != self.mosaic.size_HW:
            raise ValueError(f"it is {array.shape[0]}×{array.shape[1]}")
        return array


def _smaller(pixels: np.ndarray, mosaic: Mosaic, by: int) -> np.ndarray:
    """Return means of squares of pixels as people see them; those at an edge may be of fewer."""
    low, high, _, _ = mosaic.statistics
    grey = stretched(survey_of(mosaic).grey(pixels), low, high)
    height, width = grey.shape
    sums = np.add.reduceat(grey, np.arange(0, height, by), axis=0, dtype=np.float32)
    sums = np.add.reduceat(sums, np.arange(0, width, by), axis=1)
    numbers = [
        np.minimum(by, length - np.arange(0, length, by)).astype(np.float32)
        for length in (height, width)
    ]
    return np.rint(sums / np.outer(*numbers)).astype(np.uint8)
