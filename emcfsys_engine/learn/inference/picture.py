"""An image as a network is to predict it, whole or in part."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from emcfsys_engine.learn.inference.bands import Wanted
from emcfsys_engine.learn.inference.scaling import needed_of
from emcfsys_engine.learn.inference.tiles import Place, Sides
from emcfsys_engine.learn.pixels_on_device import OwnRows
from emcfsys_engine.regions import Region, whole_of


@dataclass(frozen=True, kw_only=True)
class Part:
    """What is wanted of an image that is not predicted as a whole.

    Shapes: read(first, last, left, right) gives h×w of the image, as `Picture.read` its rows.
    """

    region: Region
    read: Callable[[int, int, int, int], np.ndarray | OwnRows]
    of_HW: tuple[int, int]  # of the whole image
    sides: Sides | None = None  # of the whole image's tiles, where they are chosen already
    is_one_of_many: bool = False  # all of the image is predicted, in such parts


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One image to predict.

    `ahead`: rows are read in a thread while the network works on those above.
    Shapes: read(first, last) gives rows (last - first)×W, with ×3 for a model of colours, float32
    and normalised or OwnRows.
    """

    read: Callable[[int, int], np.ndarray | OwnRows]
    size_HW: tuple[int, int]  # of what is wanted
    info_bar_rows: int = 0  # at the bottom of the whole image
    scale: float = 1.0  # by which it is enlarged for the network
    wanted: Wanted = field(default_factory=Wanted)
    ahead: bool = False
    part: Part | None = None

    @property
    def whole_size(self) -> tuple[int, int]:
        """The size of the whole image."""
        return self.size_HW if self.part is None else self.part.of_HW

    @property
    def inner_size(self) -> tuple[int, int]:
        """The size of the whole image as the network sees it."""
        if self.scale == 1.0:
            return self.whole_size
        height, width = (max(1, round(length * self.scale)) for length in self.whole_size)
        return height, width

    @cached_property
    def inner_part(self) -> Region:
        """What is wanted, in the image as the network sees it."""
        if self.part is None:
            return whole_of(self.inner_size)
        if self.scale == 1.0:
            return self.part.region
        return needed_of(self.part.region, self.inner_size, self.whole_size)

    @property
    def bar_from(self) -> int:
        """The row of what is wanted with which the info bar begins; it may lie outside."""
        above = 0 if self.part is None else self.part.region.top
        return self.whole_size[0] - self.info_bar_rows - above

    @property
    def inner_bar_from(self) -> int:
        """The row of the whole image with which the info bar begins, as the network sees it."""
        return round((self.whole_size[0] - self.info_bar_rows) * self.scale)

    def above_bar(self, tile: Place[Any]) -> float:
        """Return which share of a tile counts for what is told of the image.

        That is what lies above the info bar; of parts that make the whole image each has the tiles
        that begin in it, so that each is counted once.
        """
        if self.part is not None and self.part.is_one_of_many:
            mine, (height, width), inner = self.part.region, self.whole_size, self.inner_size
            row, column = tile.top * height // inner[0], tile.left * width // inner[1]
            if not (mine.top <= row < mine.bottom and mine.left <= column < mine.right):
                return 0.0
        return (self.inner_bar_from - tile.top) / tile.height

    def read_columns(self, first: int, last: int, columns: tuple[int, int]) -> np.ndarray | OwnRows:
        """Return some columns of rows, h×w; all of them of an image that is wanted whole."""
        if self.part is None:
            return self.read(first, last)
        return self.part.read(first, last, *columns)
