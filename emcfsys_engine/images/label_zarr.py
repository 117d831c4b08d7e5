"""Label images as OME-Zarr 0.5 (Zarr 3): from top to bottom, or region by region; coarser levels.

Source: OME-NGFF 0.5, multiscales, labels and image-label.
"""

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from emcfsys_engine.files import temporary_of
from emcfsys_engine.images.output_names import INSTANCES
from emcfsys_engine.images.own_files import put
from emcfsys_engine.regions import Region, cuts

_CHUNK_PX = 1024
COARSEST_PX = 2048  # an image no longer than this has one level
_LEVEL_THREADS = 4
_CHUNKS_ACROSS = 8  # that a thread makes of a level at a time
_Size = tuple[int, int]


class ZarrWriter:
    """A label image as OME-Zarr, with its pixel size; a large one has coarser levels."""

    def __init__(
        self,
        file: Path,
        size_HW: _Size,
        pixel_nm: tuple[float, float] | None = None,
        corner_px: _Size = (0, 0),
    ) -> None:
        """`corner_px`: where it begins in the image that it is of."""
        self.file = file
        self._size, self._pixel_nm, self._corner = size_HW, pixel_nm, corner_px
        self._temporary = temporary_of(file)
        if self._temporary.is_symlink():
            self._temporary.unlink()  # a trap: what it leads to is not ours
        shutil.rmtree(self._temporary, ignore_errors=True)
        self._temporary.mkdir()
        array = begin_labels(self._temporary, file.name, size_HW, pixel_nm, corner_px=corner_px)
        self._levels = [_Rows(array)]

    def write(self, rows: np.ndarray) -> None:
        """Add rows.

        Shapes: rows×W uint8.
        """
        self._levels[0].write(rows)

    def instances(self, description: str) -> Callable[[np.ndarray], None]:
        """Begin the numbers of the objects as labels inside: `x.ome.zarr/labels/instances`.

        They are whole when the mask is. `description` says of which mask they are.
        Shapes: what is returned takes the next rows, rows×W uint32.
        """
        level = begin_instances(
            self._temporary, self._size, self._pixel_nm, description, self._corner
        )
        self._levels.append(level)
        return level.write

    def complete(self) -> Path:
        """Complete the folder under its temporary name."""
        for level in self._levels:
            level.finish()
        finish_labels(self._temporary)
        return self._temporary

    def finish(self) -> None:
        """Complete the folder and give it its name; one of that name is replaced."""
        put(self.complete(), self.file, may_replace=True)

    def abort(self) -> None:
        """Leave nothing behind."""
        shutil.rmtree(self._temporary, ignore_errors=True)


class _Rows:
    """Writes an array from top to bottom."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self._kept: list[np.ndarray] = []
        self._done = 0

    def write(self, rows: np.ndarray) -> None:
        """Add rows."""
        self._kept.append(rows)
        held = sum(map(len, self._kept))
        if held >= _CHUNK_PX:
            block = np.concatenate(self._kept)
            whole = held // _CHUNK_PX * _CHUNK_PX
            self._store(block[:whole])
            self._kept = [block[whole:]] if whole < held else []

    def finish(self) -> None:
        """Store what waits for the rows below it."""
        if self._kept:
            self._store(np.concatenate(self._kept))
            self._kept = []

    def _store(self, rows: np.ndarray) -> None:
        self._array[self._done : self._done + len(rows)] = rows
        self._done += len(rows)


def begin_instances(
    folder: Path,
    size_HW: _Size,
    pixel_nm: tuple[float, float] | None,
    description: str,
    corner_px: _Size = (0, 0),
) -> _Rows:
    """Begin the numbers of the objects inside a mask, anew where they are there already."""
    import zarr  # takes a moment that only this needs

    labels = zarr.open_group(str(folder / "labels"), mode="w", zarr_format=3)
    labels.attrs["ome"] = {"version": "0.5", "labels": [INSTANCES]}
    array = begin_labels(
        folder / "labels" / INSTANCES,
        INSTANCES,
        size_HW,
        pixel_nm,
        dtype="uint32",
        description=description,
        source="../../",
        corner_px=corner_px,
    )
    return _Rows(array)


def begin_labels(
    folder: Path,
    name: str,
    size_HW: _Size,
    pixel_nm: tuple[float, float] | None,
    *,
    dtype: str = "uint8",
    description: str | None = None,
    source: str | None = None,
    corner_px: _Size = (0, 0),
    cut_HW: _Size | None = None,
    chunk_px: int = _CHUNK_PX,
) -> Any:
    """Begin a label image in a group of its own and return its array, of finest resolution.

    `source`: where the image lies that these are the labels of, from the group's folder; `cut_HW`:
    of regions that are written each by itself, and have a file each.
    """
    import zarr  # takes a moment that only this needs

    group = zarr.open_group(str(folder), mode="w", zarr_format=3)
    sides = (chunk_px, chunk_px)
    if cut_HW is None:
        sides = (min(chunk_px, size_HW[0]), min(chunk_px, size_HW[1]))
    array = _begin_array(group, "0", size_HW, sides, dtype, cut_HW)
    unit = {} if pixel_nm is None else {"unit": "nanometer"}
    side = (1.0, 1.0) if pixel_nm is None else pixel_nm
    changes: list[dict[str, Any]] = [{"type": "scale", "scale": [float(one) for one in side]}]
    if any(corner_px):
        moved = [float(px * nm) for px, nm in zip(corner_px, side, strict=True)]
        changes.append({"type": "translation", "translation": moved})
    of_image = {} if source is None else {"source": {"image": source}}
    group.attrs["ome"] = {
        "version": "0.5",
        "multiscales": [
            {
                "name": name,
                "axes": [{"name": axis, "type": "space", **unit} for axis in "yx"],
                "datasets": [{"path": "0", "coordinateTransformations": changes}],
            }
        ],
        "image-label": {"version": "0.5", **of_image},
    }
    if description is not None:
        group.attrs["description"] = description
    return array


def _begin_array(
    group: Any, name: str, size_HW: _Size, sides: _Size, dtype: str, cut_HW: _Size | None = None
) -> Any:
    return group.create_array(
        name,
        shape=size_HW,
        chunks=sides,
        shards=cut_HW,
        dtype=dtype,
        dimension_names=("y", "x"),
        overwrite=True,
    )


def write_region(array: Any, region: Region, pixels_HW: np.ndarray) -> None:
    """Write the file of one region of an array that is cut into such, and wait for the disk.

    What an earlier start left of it is neither read nor trusted; of background alone there is no
    file. Shapes: as the region's size, of the array's dtype.
    Raises: OSError when the disk is full.
    """
    file = file_of(array, region)
    file.unlink(missing_ok=True)
    array[region.top : region.bottom, region.left : region.right] = pixels_HW
    for place in (file, file.parent, file.parent.parent):
        with suppress(FileNotFoundError):
            sync(place)


def file_of(array: Any, region: Region) -> Path:
    """Return the file of one region of an array that is cut into such."""
    down, across = array.shards
    key = f"{region.top // down}/{region.left // across}"
    return Path(array.store.root) / array.path / "c" / key


def finish_labels(folder: Path) -> None:
    """Complete a label image, and that of its objects where there is one, on the disk."""
    for leftover in folder.rglob("*.partial"):  # Zarr's own, of a process that was killed
        leftover.unlink(missing_ok=True)
    instances = folder / "labels" / INSTANCES
    for place in (folder, instances) if instances.is_dir() else (folder,):
        add_levels(place)
    for place in sorted(folder.rglob("*"), reverse=True):
        sync(place)
    sync(folder)


def add_levels(folder: Path) -> None:
    """Give a label image coarser levels, each half as long, until one is no longer than 2,048 px.

    Every second pixel of every second row is taken: means of labels are none. What is there of an
    earlier start is made again.
    """
    import zarr  # takes a moment that only this needs

    group = zarr.open_group(str(folder), mode="r+")
    found: Any = group.attrs["ome"]
    about = dict(found)
    scales = about["multiscales"][0]
    levels = scales["datasets"][:1]
    array: Any = group["0"]
    while max(array.shape) > COARSEST_PX:
        array = _add_level(group, array, str(len(levels)))
        factor = 2 ** len(levels)
        changes = [dict(change) for change in levels[0]["coordinateTransformations"]]
        changes[0]["scale"] = [side * factor for side in changes[0]["scale"]]
        levels.append({"path": str(len(levels)), "coordinateTransformations": changes})
    if len(levels) != len(scales["datasets"]):
        scales["datasets"] = levels
        group.attrs["ome"] = about


def _add_level(group: Any, finer: Any, name: str) -> Any:
    height, width = (-(-length // 2) for length in finer.shape)
    sides = finer.chunks
    made = _begin_array(group, name, (height, width), sides, finer.dtype.name, finer.shards)

    def fill(part: Region) -> None:
        rows, columns = slice(part.top, part.bottom), slice(part.left, part.right)
        of_rows, of_columns = (slice(2 * n.start, 2 * n.stop, 2) for n in (rows, columns))
        made[rows, columns] = finer[of_rows, of_columns]

    # No two of these write one file.
    with ThreadPoolExecutor(min(_LEVEL_THREADS, len(os.sched_getaffinity(0)))) as pool:
        parts = cuts((height, width), finer.shards or (sides[0], _CHUNKS_ACROSS * sides[1]))
        for _ in pool.map(fill, parts):
            pass
    return made


def sync(place: Path) -> None:
    """Wait until a file or a folder's names are on the disk."""
    descriptor = os.open(place, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
