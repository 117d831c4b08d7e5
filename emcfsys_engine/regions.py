"""A part of an image, how a person writes it, and how a large image is cut into such parts."""

import re
from collections.abc import Iterator

import msgspec

from emcfsys_engine.errors import InputError

_WRITTEN = re.compile(r"(\d*):(\d*),(\d*):(\d*)")
OF_REGION = r"\.r\d*-\d*\.c\d*-\d*"  # in the name of a mask of a part
_ENDS = re.compile(r"\.r(\d*)-(\d*)\.c(\d*)-(\d*)$")
_BEYOND_PX = 1 << 62  # an end that is the image's
LEAST_CUT_PX = 256
_CHUNKS_PX = (1024, 512, 256)


class Region(msgspec.Struct, frozen=True, array_like=True):
    """Rows and columns of an image, counted from 0; `bottom` and `right` are the first beyond.

    Units: px of the full resolution.
    """

    top: int
    bottom: int
    left: int
    right: int

    @property
    def size(self) -> tuple[int, int]:
        """Its height and width."""
        return self.bottom - self.top, self.right - self.left

    @property
    def pixels(self) -> int:
        """How many pixels it has."""
        return (self.bottom - self.top) * (self.right - self.left)

    @property
    def columns(self) -> tuple[int, int]:
        """Its first column, and the first beyond."""
        return self.left, self.right

    def __str__(self) -> str:
        return f"{self.top}:{self.bottom},{self.left}:{self.right}"


def overlap(stem: str, other: str) -> bool:
    """Tell whether two masks of parts of one image, by their names, share a pixel."""
    one, two = (_named(name) for name in (stem, other))
    across = one.left < two.right and two.left < one.right
    return across and one.top < two.bottom and two.top < one.bottom


def _named(stem: str) -> Region:
    found = _ENDS.search(stem)
    top, bottom, left, right = found.groups() if found is not None else ("",) * 4
    return Region(
        int(top or 0), int(bottom or _BEYOND_PX), int(left or 0), int(right or _BEYOND_PX)
    )


def whole_of(size_HW: tuple[int, int]) -> Region:
    """Return all of an image."""
    return Region(0, size_HW[0], 0, size_HW[1])


def written(text: str) -> str:
    """Return what a person wrote for a region, without spaces; an end left out is the image's.

    Raises: InputError where it is none.
    """
    plain = re.sub(r"\s", "", text)
    found = _WRITTEN.fullmatch(plain)
    ends = [int(end or 0) if found else 0 for end in (found.groups() if found else ())]
    is_empty = found is not None and any(
        last and int(last) <= first for first, last in ((ends[0], found[2]), (ends[2], found[4]))
    )
    if found is None or is_empty or "0" in (found[2], found[4]):
        what = f"{text!r} is no region" if found is None else f"{text!r} holds no pixel"
        remedy = "Use ROW:ROW,COLUMN:COLUMN in px from 0, the second not included: 0:2048,1024:4096"
        raise InputError("--region", what, remedy)
    return plain


def region_in(text: str, size_HW: tuple[int, int], image: str) -> Region:
    """Return a region that was written, in an image of this size.

    Raises: InputError where it leaves the image.
    """
    found = _WRITTEN.fullmatch(text)
    assert found is not None  # as `written` returned it
    height, width = size_HW
    top, left = int(found[1] or 0), int(found[3] or 0)
    region = Region(top, int(found[2] or height), left, int(found[4] or width))
    if region.bottom > height or region.right > width or top >= height or left >= width:
        what = f"has {height:,} rows and {width:,} columns: region {text} leaves it"
        raise InputError(image, what, "Leave an end out to reach the image's: 1024:,0:2048")
    return region


def ending_of(text: str) -> str:
    """Return what the names of a region's files have before their suffix; of no region nothing."""
    if not text:
        return ""
    rows, columns = text.replace(":", "-").split(",")
    return f".r{rows}.c{columns}"


def chunk_px(cut_px: int) -> int:
    """Return the side of the chunks that cuts of such a side are made of."""
    return next(side for side in _CHUNKS_PX if cut_px % side == 0)


def cut_of(size_HW: tuple[int, int], most_px: int) -> tuple[int, int]:
    """Return height and width of the regions of an image: whole chunks, and as even as they can be.

    An image of no more than `most_px`² pixels is one region. `most_px` is a multiple of 256.
    """
    height, width = size_HW
    if height * width <= most_px**2:
        return size_HW
    chunk = chunk_px(most_px)
    down, across = (
        -(-length // -(-length // most_px) // chunk) * chunk for length in (height, width)
    )
    return down, across


def cuts(size_HW: tuple[int, int], cut_HW: tuple[int, int]) -> Iterator[Region]:
    """Yield the regions of an image, row after row of them; together they cover it once."""
    for top in range(0, size_HW[0], cut_HW[0]):
        for left in range(0, size_HW[1], cut_HW[1]):
            bottom, right = min(size_HW[0], top + cut_HW[0]), min(size_HW[1], left + cut_HW[1])
            yield Region(top, bottom, left, right)


class Mosaic(msgspec.Struct, frozen=True, kw_only=True):
    """A large image that tasks share out in regions, and what all of them must agree on.

    Units: pixel_nm is (y, x).
    """

    number: int  # the image's place among all
    image: str
    plane: int | None
    mask: str
    content: str  # digest of the image when it was listed
    size_HW: tuple[int, int]
    cut_HW: tuple[int, int]
    chunk_px: int
    pixel_nm: tuple[float, float] | None
    info_bar_rows: int
    statistics: tuple[float, float, float, float]  # of its greys: see `images.rows.Survey`
    is_coloured: bool
    colours: tuple[tuple[float, float, float, float], ...]
    tiles: tuple[int, int, float, float]  # height and width in px, shares that overlap

    @property
    def pixels(self) -> int:
        """How many pixels it has."""
        return self.size_HW[0] * self.size_HW[1]

    @property
    def regions(self) -> tuple[Region, ...]:
        """What it is cut into."""
        return tuple(cuts(self.size_HW, self.cut_HW))
