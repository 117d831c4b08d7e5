"""HDF5: EMD of Velox and of Berkeley, and plain arrays."""

import json
import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np

from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.damaged_files import refuse_false_promise
from emcfsys_engine.images.micrograph import ImageFacts, Micrograph, nm_per, square_nm
from emcfsys_engine.images.rows import PlaneRows, rows_from

Result = TypeVar("Result")
_MOST_OBJECTS = 10_000
_DEEPEST = 64  # groups within groups: each is found from the first, so thousands take minutes
_LARGEST_COLOURS = 4


@dataclass(frozen=True, kw_only=True)
class _Signal:
    """A dataset that may be an image. Shapes: order names its axes, as in "YXZ"."""

    name: str
    flavour: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    axes: str  # Y, X, S for colour, Z for planes
    pixel_nm: tuple[float, float] | None
    kind: str = "an image"
    notes: tuple[str, ...] = ()

    @property
    def planes(self) -> int:
        return math.prod(n for axis, n in zip(self.axes, self.shape, strict=True) if axis == "Z")

    @property
    def plane_shape(self) -> tuple[int, ...]:
        return tuple(self.shape[self.axes.index(axis)] for axis in "YXS" if axis in self.axes)


def probe(path: Path) -> ImageFacts:
    """Return the facts of the one image in an HDF5 file."""
    return _opened(path, lambda file: _facts(path, *_only_image(path, _signals(path, file))))


def read(path: Path, plane: int) -> Micrograph:
    """Return one plane; of a large array only this plane is read."""
    return _opened(path, lambda file: _read(path, file, plane))


def open_rows(path: Path, plane: int) -> PlaneRows:
    """Return one plane row by row; chunks are read once."""
    with ExitStack() as stack:
        try:
            file = stack.enter_context(h5py.File(path, "r"))
        except Exception as error:
            raise _damaged(path, error) from None
        signal, rest = _only_image(path, _signals(path, file))
        facts = _facts(path, signal, rest)
        index, order = _index_of(signal, min(plane, facts.planes - 1))
        data, down = _dataset(path, file, signal), signal.axes.index("Y")
        across = signal.axes.index("X")

        def read(
            first: int, last: int, left: int | None = None, right: int | None = None
        ) -> np.ndarray:
            wanted = list(index)
            wanted[down], wanted[across] = slice(first, last), slice(left, right)
            try:
                pixels = np.asarray(data[tuple(wanted)])
            except Exception as error:
                raise _damaged(path, error) from None
            return pixels.transpose(order).astype(pixels.dtype.newbyteorder("="), copy=False)

        chunk_rows = data.chunks[down] if data.chunks else 1
        rows = rows_from(facts, plane, read, chunk_rows=chunk_rows, read_part=read)
        rows.resources = stack.pop_all()
        return rows


def _index_of(signal: _Signal, plane: int) -> tuple[tuple[int | slice, ...], list[int]]:
    """Return how to ask for a plane, and how to transpose what comes to H×W or H×W×C."""
    counts = [n for axis, n in zip(signal.axes, signal.shape, strict=True) if axis == "Z"]
    places = iter(np.unravel_index(plane, counts)) if counts else iter(())
    index = tuple(int(next(places)) if axis == "Z" else slice(None) for axis in signal.axes)
    left = signal.axes.replace("Z", "")
    return index, [left.index(axis) for axis in "YXS" if axis in left]


def _dataset(path: Path, file: h5py.File, signal: _Signal) -> h5py.Dataset:
    data = file[signal.name]
    if not isinstance(data, h5py.Dataset):
        raise ImageError(path, f"has no array {signal.name} any more", "Copy it again")
    _refuse_elsewhere(path, file, data)
    return data


def _damaged(path: Path, error: Exception) -> ImageError:
    if isinstance(error, ImageError):
        return error
    words = " ".join(str(error).split())[:100] or type(error).__name__
    what = f"is a truncated or damaged HDF5 file ({words})"
    return ImageError(path, what, "Copy or export it again")


def _opened(path: Path, work: Callable[[h5py.File], Result]) -> Result:
    try:
        with h5py.File(path, "r") as file:
            return work(file)
    except Exception as error:
        raise _damaged(path, error) from None


def _read(path: Path, file: h5py.File, plane: int) -> Micrograph:
    signal, rest = _only_image(path, _signals(path, file))
    facts = _facts(path, signal, rest)
    if not 0 <= plane < facts.planes:
        raise ImageError(
            path, f"has {facts.planes} planes, counted from 0, so there is no #{plane}"
        )
    index, order = _index_of(signal, plane)
    pixels = np.asarray(_dataset(path, file, signal)[index]).transpose(order)
    native = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    return Micrograph(
        pixels=np.ascontiguousarray(native),
        pixel_nm=signal.pixel_nm,
        source=str(path) if facts.planes == 1 else f"{path}#{plane}",
        bit_depth=facts.bit_depth,
        info_bar_rows=0,
    )


def _refuse_elsewhere(path: Path, file: h5py.File, data: h5py.Dataset) -> None:
    """An HDF5 file can name other files that hold its pixels: those are never read."""
    if data.external or data.is_virtual or data.file.filename != file.filename:
        raise ImageError(path, "keeps its pixels in other files", "Copy them into one HDF5 file")


def _facts(path: Path, signal: _Signal, rest: list[_Signal]) -> ImageFacts:
    refuse_false_promise(path, signal.plane_shape, signal.dtype.itemsize, "deflate")
    notes = list(signal.notes)
    if rest:
        kinds = ", ".join(dict.fromkeys(one.kind for one in rest))
        notes.append(f"also holds {kinds}: not used")
    return ImageFacts(
        path=path,
        format=signal.flavour,
        shape=signal.plane_shape,
        dtype=signal.dtype.newbyteorder("=").name,
        planes=signal.planes,
        pixel_nm=signal.pixel_nm,
        bit_depth=signal.dtype.itemsize * 8,
        notes=tuple(notes),
    )


def _only_image(path: Path, signals: list[_Signal]) -> tuple[_Signal, list[_Signal]]:
    images = [one for one in signals if one.kind == "an image"]
    if len(images) == 1:
        return images[0], [one for one in signals if one is not images[0]]
    if images:
        names = ", ".join(f"{one.name} {'×'.join(map(str, one.shape))}" for one in images[:5])
        what = f"is a multi-signal file with {len(images)} images ({names})"
        raise ImageError(path, what, "Export the one to use")
    if signals:
        kinds = " and ".join(dict.fromkeys(one.kind for one in signals))
        raise ImageError(path, f"is {kinds}, not a micrograph", "Export the image itself")
    raise ImageError(path, "is an HDF5 file without an image", "Export it as TIFF")


def _signals(path: Path, file: h5py.File) -> list[_Signal]:
    """Return the images and other signals of a file: Velox's, else Berkeley's, else any arrays."""
    velox = file.get("Data/Image")
    if isinstance(velox, h5py.Group):
        found = [_velox(group) for group in velox.values() if isinstance(group, h5py.Group)]
        return [one for one in found if one is not None]
    groups: list[h5py.Group] = []
    arrays: list[h5py.Dataset] = []
    seen = 0

    def visit(name: str, item: object) -> bool | None:
        nonlocal seen
        seen += 1
        if name.count("/") > _DEEPEST:
            what = f"is an HDF5 file of groups nested more than {_DEEPEST} deep"
            raise ImageError(path, what, "Export the image itself")
        if isinstance(item, h5py.Group) and int(item.attrs.get("emd_group_type", 0)) == 1:
            groups.append(item)
        elif isinstance(item, h5py.Dataset) and item.ndim >= 2 and min(item.shape) > 0:
            arrays.append(item)
        return True if seen > _MOST_OBJECTS else None

    # visititems follows hard links only: a soft or external link never leads out of this file.
    file.visititems(visit)
    if file.get("Data") is not None and not arrays:
        raise ImageError(path, "is a Velox file of spectra, not a micrograph", "Export the image")
    berkeley = [one for one in map(_berkeley, groups) if one is not None]
    return berkeley or [one for one in map(_plain, arrays) if one is not None]


def _kind(dtype: np.dtype[Any]) -> str:
    if dtype.kind == "c" or (dtype.names and len(dtype.names) == 2):
        return "a Fourier transform (complex numbers)"
    return "an image" if dtype.kind in "uifb" else "a table"


def _velox(group: h5py.Group) -> _Signal | None:
    data = group.get("Data")
    if not isinstance(data, h5py.Dataset) or data.ndim != 3:
        return None
    metadata = _velox_metadata(group)
    result = metadata.get("BinaryResult", {})
    size, units = result.get("PixelSize", {}), (result.get("PixelUnitY"), result.get("PixelUnitX"))
    pixel_nm, notes = None, ()
    try:
        down, across = nm_per(str(units[0])), nm_per(str(units[1]))
        if down is not None and across is not None:
            pixel_nm = square_nm(float(size["height"]) * down, float(size["width"]) * across, "nm")
        elif "1/" in str(units[0]):
            notes = (f"a diffraction pattern (its axes are in {units[0]}): no pixel size in nm",)
    except (KeyError, TypeError, ValueError):
        pixel_nm = None
    return _Signal(
        name=data.name or "",
        flavour="EMD (Velox)",
        shape=data.shape,
        dtype=data.dtype,
        axes="YXZ",
        pixel_nm=pixel_nm,
        kind=_kind(data.dtype),
        notes=notes,
    )


def _velox_metadata(group: h5py.Group) -> dict[str, Any]:
    raw = group.get("Metadata")
    if not isinstance(raw, h5py.Dataset) or raw.ndim != 2 or raw.shape[0] > 1 << 24:
        return {}
    try:
        found = json.loads(bytes(raw[:, 0]).rstrip(b"\0"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _berkeley(group: h5py.Group) -> _Signal | None:
    data = group.get("data")
    if not isinstance(data, h5py.Dataset) or data.ndim < 1:
        return None
    kind = _kind(data.dtype)
    steps: list[float | None] = []
    for number in range(1, data.ndim + 1):
        unit, step = _dimension(group.get(f"dim{number}"))
        if "eV" in unit:
            kind = "a spectrum"
        per = nm_per(unit)
        steps.append(step * per if per is not None and step else None)
    axes = _berkeley_axes(group, data.ndim)
    sides = [data.shape[axes.index(axis)] for axis in "YX" if axis in axes]
    if len(sides) < 2 or (kind == "an image" and min(sides) < 2):
        kind = "a spectrum"
    pixel_nm = None
    if len(sides) == 2:
        down, across = steps[axes.index("Y")], steps[axes.index("X")]
        if down is not None and across is not None:
            pixel_nm = square_nm(down, across, "nm")
    return _Signal(
        name=data.name or "",
        flavour="EMD (Berkeley)",
        shape=data.shape,
        dtype=data.dtype,
        axes=axes,
        pixel_nm=pixel_nm,
        kind=kind,
    )


def _berkeley_axes(group: h5py.Group, count: int) -> str:
    """Return the axes of a Berkeley array; HyperSpy stores them in reverse."""
    if count < 2:
        return "Z" * count
    names = [_axis_name(group.get(f"dim{number}")) for number in range(1, count + 1)]
    reverse = "record_by" in group.attrs or names[:2] == ["x", "y"]
    return "XY" + "Z" * (count - 2) if reverse else "Z" * (count - 2) + "YX"


def _axis_name(axis: object) -> str:
    name = axis.attrs.get("name", "") if isinstance(axis, h5py.Dataset) else ""
    return (name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)).lower()


def _dimension(axis: object) -> tuple[str, float]:
    """Return a Berkeley axis' unit and step; its values are evenly spaced coordinates."""
    if not isinstance(axis, h5py.Dataset) or axis.ndim != 1 or axis.shape[0] < 2:
        return "", 0.0
    unit = axis.attrs.get("units", "")
    text = unit.decode("utf-8", "replace") if isinstance(unit, bytes) else str(unit)
    ends = np.asarray(axis[:: max(1, axis.shape[0] - 1)], np.float64)
    return text, float(ends[-1] - ends[0]) / (axis.shape[0] - 1)


def _plain(data: h5py.Dataset) -> _Signal | None:
    if data.dtype.kind not in "uifbc":
        return None
    axes, notes = _named_axes(data) or (_guessed_axes(data), ())
    if min(data.shape[axes.index(axis)] for axis in "YX") < 2:
        return None
    sizes = data.attrs.get("element_size_um")  # ilastik and others: (z, y, x) in µm
    pixel_nm = None
    if sizes is not None and np.size(sizes) >= 2:
        values = np.ravel(sizes)
        pixel_nm = square_nm(float(values[-2]), float(values[-1]), "um")
    return _Signal(
        name=data.name or "",
        flavour="HDF5",
        shape=data.shape,
        dtype=data.dtype,
        axes=axes,
        pixel_nm=pixel_nm,
        kind=_kind(data.dtype),
        notes=notes,
    )


def _guessed_axes(data: h5py.Dataset) -> str:
    """Return the axes of an array that names none: rows and columns last, colours behind them."""
    if data.ndim == 3 and data.shape[-1] == 1:
        return "YXZ"  # one channel
    colour = data.ndim >= 3 and data.shape[-1] in (3, _LARGEST_COLOURS) and data.dtype.kind == "u"
    return "Z" * (data.ndim - 3) + "YXS" if colour else "Z" * (data.ndim - 2) + "YX"


def _named_axes(data: h5py.Dataset) -> tuple[str, tuple[str, ...]] | None:
    """Return the axes as the file names them, and what is worth saying; None where it does not."""
    names = _axis_tags(data) or "".join(str(axis.label)[:1] for axis in data.dims).lower()
    if len(names) != data.ndim or names.count("y") != 1 or names.count("x") != 1:
        return None
    axes = "".join(name.upper() if name in "yx" else "Z" for name in names)
    place = names.find("c")
    if place < 0 or data.shape[place] == 1:
        return axes, ()
    channels = data.shape[place]
    is_colour = channels in (3, _LARGEST_COLOURS) and data.dtype.kind == "u"
    if not is_colour and channels != 2:
        return axes, (f"{channels} channels: each is a plane",)
    note = () if is_colour else ("2 channels: the first is used",)
    return axes[:place] + "S" + axes[place + 1 :], note


def _axis_tags(data: h5py.Dataset) -> str:
    """Return ilastik's and vigra's axis keys, as in "zyxc"; empty where there are none."""
    raw = data.attrs.get("axistags")
    try:
        found = json.loads(raw) if isinstance(raw, str | bytes) else {}
        return "".join(str(axis["key"])[:1] for axis in found["axes"]).lower()
    except (ValueError, RecursionError, KeyError, TypeError):
        return ""
