"""Objects with numbers beside a mask: of which mask they are, what of it has none, what each is.

H and W pixels.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np
import scipy  # its parts are loaded when they are named
import tifffile

from emcfsys_engine.annotations.masks import LabelTable, read_instances
from emcfsys_engine.annotations.pair_masks import NotedOrigins
from emcfsys_engine.errors import AnnotationError, ImageError, InputError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.output_names import instances_there
from emcfsys_engine.images.reader import read_micrograph
from emcfsys_engine.images.rows import PlaneRows, open_rows, rows_of
from emcfsys_engine.project import UNLABELLED

_TOUCHING = np.ones((3, 3), bool)
_BAND_ROWS = 256
_UNREADABLE = (InputError, OSError, ValueError, IndexError, tifffile.TiffFileError)
_COPY = "Copy it again, or remove it"
_OF_MASK = "objects of the mask "  # in the file's description, before the mask's digest


class MaskDigest:
    """Names a mask by its pixels, whose rows come one band after the other."""

    def __init__(self) -> None:
        self._made = hashlib.blake2b(digest_size=16)

    def add(self, rows: np.ndarray) -> None:
        """Take the next rows. Shapes: h×W uint8."""
        self._made.update(np.ascontiguousarray(rows, np.uint8).data)

    def words(self) -> str:
        """Return what the file of its objects says of a mask."""
        return _OF_MASK + self._made.hexdigest()


def write_numbers(file: Path, mask: np.ndarray, numbers: np.ndarray) -> None:
    """Write the objects of a mask to `instances_of` it. Shapes: uint8 H×W and integers H×W."""
    digest = MaskDigest()
    digest.add(mask)
    made = numbers.astype(np.uint32)
    words = digest.words()
    tifffile.imwrite(file, made, description=words, metadata=None, compression="zlib")


def read_numbers(mask: ImageRef, *, must_read: bool = False) -> np.ndarray | None:
    """Return the objects that are numbered beside a mask, or in it, 0 where there is none.

    None: there are no such numbers, or they are of a mask that was changed since. Where another
    program saved the numbers, which then do not say of which mask they are, it must be as we wrote
    it.
    Shapes: H×W integers as stored; what this program wrote is uint32.
    Raises: AnnotationError for numbers that are damaged, or whose disk fails, where they must be
    read: labels would mean other objects without them. Else they are None, too.
    """
    try:
        rows = _opened(mask)
        if rows is None:
            return None
        with rows:
            return rows.read(0, rows.height)
    except _UNREADABLE as fault:
        if not must_read:
            return None
        what = f"has objects' numbers that cannot be read: {str(fault).rstrip('.')}"
        raise AnnotationError(instances_there(mask.path) or mask.path, what, _COPY) from None


def open_numbers(mask: ImageRef) -> PlaneRows | None:
    """Return the rows of what `read_numbers` reads whole; None as there. Close them when done."""
    try:
        return _opened(mask)
    except _UNREADABLE:
        return None


def _opened(mask: ImageRef) -> PlaneRows | None:
    file = instances_there(mask.path)
    if mask.plane is not None or file is None:
        return None
    size_HW, of_mask = _mask_in_words(mask)
    said = str(_description(file))
    if not of_mask or (
        said != of_mask and (_OF_MASK in said or not NotedOrigins().is_as_written(mask.path))
    ):
        return None
    rows = open_rows(ImageRef(path=file)) or rows_of(read_micrograph(ImageRef(path=file)))
    if rows.shape == size_HW and rows.dtype.kind in "iu":
        return rows
    rows.close()
    return None


def _description(file: Path) -> object:
    """Return what a file of numbers says of the mask they belong to."""
    if file.is_dir():
        import zarr  # takes a moment that only this needs

        try:
            return zarr.open_group(str(file), mode="r").attrs.get("description")
        except Exception as error:  # whatever Zarr makes of what another program wrote
            raise ImageError(file, f"cannot be read: {error}") from None
    with tifffile.TiffFile(file) as tiff:
        return tiff.pages.first.description


def _mask_in_words(mask: ImageRef) -> tuple[tuple[int, ...], str]:
    """Return the size of a mask, and what the file of its objects must say of it."""
    values = read_instances(mask, LabelTable(values=()), numbered=True)
    digest = MaskDigest()
    if values is None or values.max(initial=0) > UNLABELLED:
        return (), ""
    digest.add(values)
    return values.shape, digest.words()


def all_numbered(
    ids: np.ndarray, numbers: np.ndarray, background: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return class ids and numbers of all objects, those of classes without numbers included.

    Where a class has numbers, its pixels without one are background: they are no object. The
    connected parts of a class that has none are its objects. What is given is changed, not copied:
    of large images it is most of the memory.
    Shapes: uint8 H×W and integers H×W in; the same, numbers uint32, out.
    """
    nothing = background if background >= 0 else UNLABELLED  # a measurement without background
    numbers = numbers.astype(np.uint32, copy=False)
    have, bare = np.zeros((2, UNLABELLED + 1), bool)
    for rows in _bands(len(ids)):
        is_numbered = numbers[rows] > 0
        have |= np.bincount(ids[rows][is_numbered], minlength=len(have)) > 0
        bare |= np.bincount(ids[rows][~is_numbered], minlength=len(bare)) > 0
    for rows in _bands(len(ids)):
        ids[rows][have[ids[rows]] & (numbers[rows] == 0)] = nothing
        numbers[rows][ids[rows] == nothing] = 0
    for class_id in np.flatnonzero(bare & ~have).tolist():
        if class_id not in (nothing, UNLABELLED):
            mine = ids == class_id
            parts, _ = cast("tuple[np.ndarray, int]", scipy.ndimage.label(mine, _TOUCHING))
            numbers[mine] = parts[mine] + int(numbers.max(initial=0))
    return ids, numbers


def _bands(height: int) -> list[slice]:
    return [slice(first, first + _BAND_ROWS) for first in range(0, height, _BAND_ROWS)]


def with_own_values(
    ids: np.ndarray, numbers: np.ndarray, names: Mapping[int, str], background: int
) -> tuple[np.ndarray, dict[int, str]]:
    """Return a value for every object, above those of the classes, and what each is called.

    Shapes: ids are uint8 H×W, numbers integers H×W; int32 H×W out.
    """
    both = (ids.astype(np.int64) << 32) | numbers  # 0 may be background here and unlabelled there
    found, places = np.unique(both, return_inverse=True)
    values = np.arange(len(found)) + UNLABELLED + 1
    classes = found >> 32
    values[classes == background] = background
    called = {
        int(value): names[int(class_id)] for value, class_id in zip(values, classes, strict=True)
    }
    return values[places].reshape(ids.shape).astype(np.int32), called


def root_of(parent: list[int], part: int) -> int:
    """Return the part that stands for all those joined to one, and shorten the way to it.

    `parent` names for each part another of its own, or itself: a forest of disjoint sets.
    """
    while parent[part] != part:
        parent[part] = parent[parent[part]]
        part = parent[part]
    return part
