"""Zarr and OME-Zarr folders: the finest level of the one image in them."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.micrograph import ImageFacts, Micrograph, nm_per, square_nm
from emcfsys_engine.images.rows import PlaneRows, rows_from

_MOST_SHARD_BYTES = 128 << 20  # of rows that are read together


def probe(path: Path) -> ImageFacts:
    """Return the facts of a Zarr array or OME-Zarr image from its metadata."""
    try:
        array, axes, pixel_nm, flavour = _image(path)
        shape = tuple(array.shape[axes.index(axis)] for axis in "yxs" if axis in axes)
        return ImageFacts(
            path=path,
            format=flavour,
            shape=shape,
            dtype=np.dtype(array.dtype).newbyteorder("=").name,
            planes=math.prod(array.shape) // math.prod(shape),
            pixel_nm=pixel_nm,
            bit_depth=np.dtype(array.dtype).itemsize * 8,
        )
    except ImageError:
        raise
    except Exception as error:
        raise _damaged(path, error) from None


def read(path: Path, plane: int) -> Micrograph:
    """Return one plane; only its chunks are read."""
    facts = probe(path)
    if not 0 <= plane < facts.planes:
        raise ImageError(
            path, f"has {facts.planes} planes, counted from 0, so there is no #{plane}"
        )
    try:
        array, axes, _, _ = _image(path)
        others = [n for axis, n in zip(axes, array.shape, strict=True) if axis not in "yxs"]
        places = iter(np.unravel_index(plane, others)) if others else iter(())
        index = tuple(slice(None) if axis in "yxs" else int(next(places)) for axis in axes)
        pixels = np.asarray(array[index])
    except Exception as error:
        raise _damaged(path, error) from None
    left = [axis for axis in axes if axis in "yxs"]
    pixels = pixels.transpose([left.index(axis) for axis in "yxs" if axis in left])
    return Micrograph(
        pixels=np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder("="), copy=False)),
        pixel_nm=facts.pixel_nm,
        source=str(path) if facts.planes == 1 else f"{path}#{plane}",
        bit_depth=facts.bit_depth,
        info_bar_rows=0,
    )


def open_rows(path: Path, plane: int) -> PlaneRows:
    """Return one plane row by row; chunks are read once."""
    facts = probe(path)
    array, axes, _, _ = _image(path)
    others = [n for axis, n in zip(axes, array.shape, strict=True) if axis not in "yxs"]
    places = iter(np.unravel_index(min(plane, facts.planes - 1), others)) if others else iter(())
    index = [slice(None) if axis in "yxs" else int(next(places)) for axis in axes]
    left = [axis for axis in axes if axis in "yxs"]
    order = [left.index(axis) for axis in "yxs" if axis in left]
    down, across = axes.index("y"), axes.index("x")

    def read(
        first: int, last: int, left: int | None = None, right: int | None = None
    ) -> np.ndarray:
        index[down], index[across] = slice(first, last), slice(left, right)
        try:
            pixels = np.asarray(array[tuple(index)]).transpose(order)
        except Exception as error:
            raise _damaged(path, error) from None
        return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)

    high = _chunk_rows(array, down, facts)
    return rows_from(facts, plane, read, chunk_rows=high, read_part=read)


def _chunk_rows(array: Any, down: int, facts: ImageFacts) -> int:
    """Return how many rows lie in one object of the store: those of a shard where there are.

    Where so many rows would fill the memory, those of a chunk within: a shard is read in parts.
    """
    high = int((getattr(array, "shards", None) or array.chunks)[down])
    row_bytes = math.prod(facts.shape[1:]) * np.dtype(facts.dtype).itemsize
    return high if high * row_bytes <= _MOST_SHARD_BYTES else int(array.chunks[down])


def _image(path: Path) -> tuple[Any, str, tuple[float, float] | None, str]:
    """Return the array, one letter an axis, the pixel size and what kind of Zarr it is."""
    node: Any = zarr.open(str(path), mode="r")
    if isinstance(node, zarr.Array):
        return _checked(path, node), _plain_axes(node), None, "Zarr"
    attributes: Mapping[str, Any] = dict(node.attrs)
    attributes = attributes.get("ome", attributes)
    scales = attributes.get("multiscales")
    if scales:
        level = scales[0]["datasets"][0]
        inside = str(level["path"])
        if inside.startswith("/") or ".." in inside.split("/"):
            raise ImageError(path, "names a level outside its own folder", "Do not use it")
        array = _checked(path, node[inside])
        return array, *_ome_axes(scales[0], level, array), "OME-Zarr"
    arrays = [array for _, array in node.arrays()]
    if len(arrays) != 1:
        what = f"holds {len(arrays)} arrays and does not say which is the image"
        raise ImageError(path, what, "Give the folder of one array")
    return _checked(path, arrays[0]), _plain_axes(arrays[0]), None, "Zarr"


def _checked(path: Path, array: Any) -> Any:
    dtype = np.dtype(array.dtype)
    if len(array.shape) < 2 or min(array.shape) < 1:
        raise ImageError(path, f"is an array of shape {array.shape}, not an image")
    if dtype.kind not in "uifb":
        raise ImageError(path, f"holds {dtype.name} values, not a micrograph")
    if math.prod(array.shape[-2:]) * dtype.itemsize > 64 << 30:
        raise ImageError(path, "promises more than 64 GiB a plane", "It is damaged")
    return array


def _plain_axes(array: Any) -> str:
    colour = (
        len(array.shape) >= 3 and array.shape[-1] in (3, 4) and np.dtype(array.dtype).kind == "u"
    )
    return "p" * (len(array.shape) - 3) + "yxs" if colour else "p" * (len(array.shape) - 2) + "yx"


def _ome_axes(
    scales: Mapping[str, Any], level: Mapping[str, Any], array: Any
) -> tuple[str, tuple[float, float] | None]:
    said = scales.get("axes") or [*"tczyx"][-len(array.shape) :]
    names = [str(axis["name"]) if isinstance(axis, dict) else str(axis) for axis in said]
    units = [str(axis.get("unit", "")) if isinstance(axis, dict) else "" for axis in said]
    axes = "".join(name if name in ("y", "x") else "p" for name in names)
    if len(axes) != len(array.shape) or axes.count("y") != 1 or axes.count("x") != 1:
        return _plain_axes(array), None
    factors = [1.0] * len(axes)
    for place in (scales, level):
        for change in place.get("coordinateTransformations", ()):
            if change.get("type") == "scale" and len(change["scale"]) == len(axes):
                factors = [a * float(b) for a, b in zip(factors, change["scale"], strict=True)]
    down, across = axes.index("y"), axes.index("x")
    per_y, per_x = nm_per(units[down]), nm_per(units[across])
    if per_y is None or per_x is None:
        return axes, None
    return axes, square_nm(factors[down] * per_y, factors[across] * per_x, "nm")


def _damaged(path: Path, error: Exception) -> ImageError:
    words = " ".join(str(error).split())[:100] or type(error).__name__
    return ImageError(path, f"is an incomplete or damaged Zarr folder ({words})", "Copy it again")
