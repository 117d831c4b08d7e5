"""TIFF of every kind: strips, tiles, BigTIFF, planar, palette, compressed, pyramids, stacks."""

import io
import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.damaged_files import refuse_false_promise
from emcfsys_engine.images.formats.picture import palette_is_grey, through_palette
from emcfsys_engine.images.formats.tiff_metadata import VendorFacts, vendor_facts
from emcfsys_engine.images.micrograph import ImageFacts, Micrograph
from emcfsys_engine.images.rows import PlaneRows, StoredRows, rows_from
from emcfsys_engine.text import how_to_read

_JPEG = (6, 7, 34892, 33007)
_MOST_STRIP_BYTES = 256 << 20  # a file in one larger strip is better read whole, once


_Part = Callable[[int, int, int, int], np.ndarray]  # first and last row, left and right


def segmented(
    path: Path, tiff: tifffile.TiffFile, page: Any, shape: tuple[int, ...]
) -> tuple[_Part, int] | None:
    """Return a reader of parts and the rows of a segment; None if there is but one large strip.

    Of tiles only those are decoded that a part touches.
    Shapes: `shape` is (H, W) or (H, W, C); parts come as h×w or h×w×C, dtype as stored.
    """
    key = page.keyframe
    high = int(key.tilelength if key.is_tiled else key.rowsperstrip)
    dtype = np.dtype(key.dtype).newbyteorder("=")
    if high >= shape[0] and math.prod(shape) * dtype.itemsize > _MOST_STRIP_BYTES:
        return None
    wide_px = int(key.tilewidth) if key.is_tiled else shape[1]
    across = -(-shape[1] // wide_px)
    # Old writers say 0 bytes of a segment that is there: read whole, its length is known.
    if any(
        at and not size for at, size in zip(page.dataoffsets, page.databytecounts, strict=False)
    ):
        return None
    options: dict[str, Any] = {}
    if key.compression in _JPEG:
        options = {"jpegtables": page.jpegtables, "jpegheader": key.jpegheader}

    def read(first: int, last: int, begin: int, end: int) -> np.ndarray:
        part = np.zeros((last - first, end - begin, *shape[2:]), dtype)
        numbers = [
            row * across + column
            for row in range(first // high, -(-last // high))
            for column in range(begin // wide_px, -(-end // wide_px))
        ]
        offsets = [page.dataoffsets[n] for n in numbers]
        counts = [page.databytecounts[n] for n in numbers]
        found: Any
        for found in tiff.filehandle.read_segments(offsets, counts, flat=True):
            data, index = found
            made, place, size = key.decode(data, numbers[index], **options, _fullsize=False)
            if made is None:  # a segment that was left out: nothing but 0
                continue
            top, left = place[2] - first, place[3] - begin
            block = made[0] if len(shape) == 3 else made[0, ..., 0]
            above, before = max(0, -top), max(0, -left)
            below = min(size[1], part.shape[0] - top)
            beside = min(size[2], part.shape[1] - left)
            cut = block[above:below, before:beside]
            part[top + above : top + below, left + before : left + beside] = cut
        return part

    return read, high


_CODINGS = {
    1: "none",
    5: "lzw",
    6: "jpeg",
    7: "jpeg",
    8: "deflate",
    32773: "packbits",
    32946: "deflate",
}
_MINISWHITE, _PALETTE, _CMYK = 0, 3, 5
_CIELAB = (8, 9, 10)
_YCBCR = 6  # JPEG and its like are decoded to RGB, others are not:
_LOSSLESS = (1, 5, 8, 32773, 32946, 34925, 50000)
_Show = Callable[[np.ndarray], np.ndarray]
_MOST_PAGES = 200_000


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """Planes of one size: a series of the file at its full resolution."""

    series: Any
    axes: str
    shape: tuple[int, ...]
    planes: int

    @property
    def plane_shape(self) -> tuple[int, ...]:
        size = (self.shape[self.axes.index("Y")], self.shape[self.axes.index("X")])
        samples = self.shape[self.axes.index("S")] if "S" in self.axes else 1
        return size if samples == 1 else (*size, samples)

    def page(self, index: int) -> Any:
        """The page of the file that holds plane `index`; None where it is missing."""
        return self.series.pages[index // self.page_planes]

    @property
    def page_planes(self) -> int:
        """How many planes a page of the file holds."""
        return math.prod(self.series.keyframe.shape) // math.prod(self.plane_shape)


def probe(path: Path) -> ImageFacts:
    """Return the facts of a TIFF: reads tags, no pixels."""
    return probe_inside(path, path)


def probe_inside(path: Path, file: Path | io.BytesIO) -> ImageFacts:
    """Return the facts of a TIFF that may stand inside another file."""
    with _Opened(path, file) as tiff:
        layers = _layers(path, tiff)
        return _facts(path, tiff, layers, (layers[0], 0))


def read(path: Path, plane: int) -> Micrograph:
    """Return one plane; a palette is turned into what it shows."""
    return read_inside(path, path, plane)


def read_inside(path: Path, file: Path | io.BytesIO, plane: int = 0) -> Micrograph:
    """Return one plane of a TIFF that may stand inside another file."""
    with _Opened(path, file) as tiff:
        layers = _layers(path, tiff)
        layer, index = _find_plane(path, layers, plane)
        facts = _facts(path, tiff, layers, (layer, index))
        pixels = _read_plane(path, tiff, layer, index)
        if (shown := _shower(tiff, layer, index)) is not None:
            pixels = shown(pixels)
    return Micrograph(
        pixels=pixels,
        pixel_nm=facts.pixel_nm,
        source=str(path) if facts.planes == 1 else f"{path}#{plane}",
        bit_depth=facts.bit_depth,
        info_bar_rows=facts.info_bar_rows,
    )


def open_rows(path: Path, plane: int) -> PlaneRows | None:
    """Return one plane row by row; None for channels stored apart and for one large strip."""
    with ExitStack() as stack:
        tiff = stack.enter_context(_Opened(path, path))
        layers = _layers(path, tiff)
        layer, index = _find_plane(path, layers, plane)
        facts = _facts(path, tiff, layers, (layer, index))
        part, high = _part_reader(path, tiff, layer, index) or (None, 0)
        if part is None:
            return None
        if (shown := _shower(tiff, layer, index)) is not None:
            part = _shown(part, shown)
        read = partial(_whole_rows, part, facts.shape[1])
        rows = rows_from(facts, plane, read, chunk_rows=high, read_part=part)
        rows.resources = stack.pop_all()
        return rows


def _whole_rows(part: _Part, width: int, first: int, last: int) -> np.ndarray:
    return part(first, last, 0, width)


def _part_reader(
    path: Path, tiff: tifffile.TiffFile, layer: _Layer, index: int
) -> tuple[_Part, int] | None:
    series, shape = layer.series, layer.plane_shape
    axes = "YXS" if len(shape) == 3 else "YX"
    if not layer.axes.replace("S", "" if len(shape) == 2 else "S").endswith(axes):
        return None
    if series.dataoffset is not None:
        step = math.prod(shape) * np.dtype(series.dtype).itemsize
        start = series.dataoffset + index * step
        stored = np.dtype(series.dtype).newbyteorder(tiff.byteorder)
        return StoredRows(path, tiff.filehandle, start, shape, stored).part, 1
    if math.prod(series.keyframe.shape) != math.prod(shape) or series.keyframe.imagedepth != 1:
        return None
    page = series.pages[index]
    if page is None:
        raise ImageError(path, f"plane #{index} is missing from the file", "Copy it again")
    return segmented(path, tiff, page, shape)


def _shown(part: _Part, shown: _Show) -> _Part:
    return lambda *where: shown(part(*where))


def _colormap(layer: _Layer, index: int) -> np.ndarray | None:
    """Return the palette of a plane: pages that else are alike can have each its own.

    Shapes: 3×N uint16; None where values are no indices.
    """
    key = layer.series.keyframe
    if key.photometric != _PALETTE or key.colormap is None or len(layer.plane_shape) != 2:
        return None
    page = layer.page(index)
    found = None if page is None else page.aspage().colormap
    return np.asarray(key.colormap if found is None else found)


def _shower(
    tiff: tifffile.TiffFile, layer: _Layer, index: int, *, palette: bool = True
) -> _Show | None:
    """Return what turns stored values into those that every viewer shows; None: they are the same.

    `palette`: through the palette as well, where there is one.
    """
    key = layer.series.keyframe
    colormap = _colormap(layer, index)
    if colormap is not None:
        return (lambda pixels: _show(pixels, colormap)) if palette else None
    if _is_inverted(tiff, layer):
        white = (1 << _bits(layer)) - 1
        return lambda pixels: _from_white(pixels, white)
    if key.photometric == _CMYK and layer.plane_shape[2:] and layer.plane_shape[2] >= 4:
        full = (1 << _bits(layer)) - 1
        return lambda pixels: _rgb_of_cmyk(pixels, full)
    return None


def _is_inverted(tiff: tifffile.TiffFile, layer: _Layer) -> bool:
    """Tell whether 0 is white. ImageJ says so of an inverting look-up table over plain values."""
    is_count = _dtype(layer).kind in "ub" and layer.plane_shape[2:] in ((), (2,))
    return layer.series.keyframe.photometric == _MINISWHITE and is_count and not tiff.is_imagej


def is_array_of_bools(path: Path) -> bool:
    """Tell whether tifffile wrote an array of true and false: it says, unasked, that 0 is white.

    Raises: ImageError.
    """
    try:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages.first
            return (
                page.photometric == _MINISWHITE
                and page.bitspersample == 1
                and page.software.startswith("tifffile")
            )
    except Exception as error:
        raise damaged(path, error) from None


def _from_white(pixels: np.ndarray, white: int) -> np.ndarray:
    """Return values that count from black. Shapes: H×W, or H×W×2 with what is transparent."""
    if pixels.ndim == 3:
        return np.dstack([_from_white(pixels[..., 0], white), pixels[..., 1:]])
    if pixels.dtype.kind == "b":
        return ~pixels
    return np.subtract(np.array(white, pixels.dtype), pixels)


def _rgb_of_cmyk(pixels: np.ndarray, full: int) -> np.ndarray:
    """Return red, green and blue of inks. Shapes: H×W×4 or more in, H×W×3 out, dtype kept."""
    light = full - pixels[..., :4].astype(np.float32)
    return np.rint(light[..., :3] * light[..., 3:4] / full).astype(pixels.dtype)


def read_indices(path: Path, plane: int = 0) -> np.ndarray:
    """Return the values of one plane as shown: palette indices where there is a palette.

    Shapes: H×W or H×W×C, dtype as stored.
    """
    with _Opened(path, path) as tiff:
        layer, index = _find_plane(path, _layers(path, tiff), plane)
        pixels = _read_plane(path, tiff, layer, index)
        shown = _shower(tiff, layer, index, palette=False)
        return shown(pixels) if shown is not None else pixels


class _Opened:
    """A TiffFile whose every failure is an ImageError."""

    def __init__(self, path: Path, file: Path | io.BytesIO) -> None:
        self._path = path
        self._file = file
        self._tiff: tifffile.TiffFile | None = None

    def __enter__(self) -> tifffile.TiffFile:
        try:
            # An OME-TIFF can name other files as parts of itself: those are never opened.
            self._tiff = tifffile.TiffFile(self._file, _multifile=False)
        except Exception as error:
            raise damaged(self._path, error) from None
        return self._tiff

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if self._tiff is not None:
            self._tiff.close()
        if isinstance(error, Exception) and not isinstance(error, ImageError):
            raise damaged(self._path, error) from None


def damaged(path: Path, error: Exception) -> ImageError:
    """Return the sentence for a TIFF that tifffile could not take."""
    if isinstance(error, PermissionError):
        return ImageError(path, "may not be read", how_to_read(path))
    if isinstance(error, MemoryError):
        return ImageError(path, "does not fit into memory", "Use a machine with more memory")
    words = " ".join(str(error).split())[:120] or type(error).__name__
    return ImageError(path, f"is a truncated or damaged TIFF ({words})", "Copy or export it again")


def _layers(path: Path, tiff: tifffile.TiffFile) -> list[_Layer]:
    """Return the series that are images of their own: no overviews, thumbnails or labels."""
    if not len(tiff.pages):
        raise ImageError(path, "is a TIFF without an image", "Copy or export it again")
    if len(tiff.pages) > _MOST_PAGES:
        raise ImageError(path, f"claims {len(tiff.pages):,} pages", "It is damaged")
    layers: list[_Layer] = []
    of_others = [one.keyframe.is_reduced or one.name in ("Label", "Macro") for one in tiff.series]
    for number, series in enumerate(tiff.series):
        axes, shape = series.axes, tuple(series.shape)
        reduced = of_others[number] and (number > 0 or not all(of_others))
        if reduced or "Y" not in axes or "X" not in axes or 0 in shape:
            continue
        others = [n for axis, n in zip(axes, shape, strict=True) if axis not in "YXS"]
        layers.append(_Layer(series=series, axes=axes, shape=shape, planes=math.prod(others)))
    if not layers:
        raise ImageError(path, "is a TIFF without a two-dimensional image")
    for layer in layers:
        _refuse_impossible(path, layer, tiff.filehandle.size)
    return layers


def _refuse_impossible(path: Path, layer: _Layer, file_bytes: int) -> None:
    key = layer.series.keyframe
    coding = _CODINGS.get(int(key.compression), "other")
    bits = key.bitspersample if isinstance(key.bitspersample, int) else max(key.bitspersample)
    item_bytes = bits / 8 if coding == "none" else 1
    refuse_false_promise(path, layer.plane_shape, item_bytes, coding, file_bytes)
    if np.dtype(key.dtype).kind == "c":
        raise ImageError(
            path,
            "holds complex numbers (a Fourier transform), not a micrograph",
            "Export the image",
        )
    if int(key.photometric) in _CIELAB:
        raise ImageError(path, "holds CIE L*a*b* colours", "Save it as RGB or grey")
    if int(key.photometric) == _YCBCR and int(key.compression) in _LOSSLESS:
        raise ImageError(path, "holds YCbCr colours", "Save it as RGB or grey")


def _facts(
    path: Path, tiff: tifffile.TiffFile, layers: list[_Layer], of_plane: tuple[_Layer, int]
) -> ImageFacts:
    """Return the facts of a file; size, dtype and bits are those of one plane."""
    layer, index = of_plane
    told, first = vendor_facts(tiff, layers[0].plane_shape), layers[0].plane_shape
    vendor, shape = told.of_plane(layer.plane_shape, first), _shown_shape(layer, index)
    places = _places_in(layers) if len(layers) > 1 else []
    return ImageFacts(
        path=path,
        format=f"TIFF ({vendor.maker})" if vendor.maker else "TIFF",
        shape=shape,
        dtype="uint8" if len(shape) > len(layer.plane_shape) else _dtype(layer).name,
        planes=sum(layer.planes for layer in layers),
        pixel_nm=vendor.pixel_nm,
        bit_depth=_bits(layer),
        info_bar_rows=vendor.info_bar_rows,
        notes=_notes(layers, vendor),
        pixel_nm_each=tuple(told.of_plane(one.plane_shape, first).pixel_nm for one, _ in places),
    )


def _notes(layers: list[_Layer], vendor: VendorFacts) -> tuple[str, ...]:
    notes = list(vendor.notes)
    first = layers[0]
    if len({layer.plane_shape for layer in layers}) > 1:
        notes.append("its planes differ in size")
    if len(first.series.levels) > 1:
        notes.append(f"a pyramid of {len(first.series.levels)} levels: the finest is used")
    orientation = first.series.keyframe.tags.get(274)
    if orientation is not None and orientation.value not in (0, 1):
        notes.append(f"orientation tag {int(orientation.value)}: pixels are taken as stored")
    if first.series.keyframe.photometric == _CMYK:
        notes.append("inks (CMYK): taken as the red, green and blue that they make")
    return tuple(notes)


def _dtype(layer: _Layer) -> np.dtype[Any]:
    return np.dtype(layer.series.dtype).newbyteorder("=")


def _bits(layer: _Layer) -> int:
    bits = layer.series.keyframe.bitspersample
    return int(bits if isinstance(bits, int) else max(bits))


def _shown_shape(layer: _Layer, index: int) -> tuple[int, ...]:
    key = layer.series.keyframe
    if key.photometric == _CMYK and len(layer.plane_shape) == 3:
        return (*layer.plane_shape[:2], 3)
    colormap = _colormap(layer, index)
    if colormap is None:
        return layer.plane_shape
    grey = palette_is_grey((colormap.T >> 8).astype(np.uint8))
    return layer.plane_shape if grey else (*layer.plane_shape, 3)


def _find_plane(path: Path, layers: list[_Layer], plane: int) -> tuple[_Layer, int]:
    have = sum(layer.planes for layer in layers)
    if not 0 <= plane < have:
        raise ImageError(path, f"has {have} planes, counted from 0, so there is no #{plane}")
    found = _places_in(layers)[plane] if len(layers) > 1 else (layers[0], plane)
    _refuse_lost(path, *found)
    return found


def _places_in(layers: list[_Layer]) -> list[tuple[_Layer, int]]:
    """Return where each plane lies, in order."""
    places = [(layer, index) for layer in layers for index in range(layer.planes)]
    if all(layer.series.kind == "generic" for layer in layers):
        # Pages of several kinds in turn count as they stand in the file, not kind by kind.
        places.sort(key=lambda place: place[0].page(place[1]).index)
    return places


def _refuse_lost(path: Path, layer: _Layer, index: int) -> None:
    """Refuse a page that does not tell where all its strips or tiles lie: they would be black."""
    if layer.series.dataoffset is not None or (page := layer.page(index)) is None:
        return
    wanted = math.prod(layer.series.keyframe.chunked)
    have = min(len(page.dataoffsets), len(page.databytecounts))
    if have < wanted:
        what = f"is damaged: it tells of {have} of the {wanted} parts of its pixels where they lie"
        raise ImageError(path, what, "Copy or export it again")


def _read_plane(path: Path, tiff: tifffile.TiffFile, layer: _Layer, index: int) -> np.ndarray:
    series, axes = layer.series, layer.axes
    if series.dataoffset is not None and tiff.filehandle.is_file:
        pixels = _mapped(path, tiff, layer)
    elif layer.planes == 1:
        pixels = series.asarray()
    else:
        page = layer.page(index)
        if page is None:
            raise ImageError(path, f"plane #{index} is missing from the file", "Copy it again")
        pixels = page.asarray()
        axes = series.keyframe.axes
        index %= layer.page_planes
    plane = _plane_of(pixels, axes, index)
    if isinstance(pixels, np.memmap):
        # A copy: a file that is rewritten while it is mapped would end the process.
        return np.array(plane, plane.dtype.newbyteorder("="), order="C")
    return np.ascontiguousarray(plane.astype(plane.dtype.newbyteorder("="), copy=False))


def _plane_of(pixels: np.ndarray, axes: str, index: int) -> np.ndarray:
    """Return plane number `index` as H×W or H×W×C.

    Shapes: pixels have one axis a letter of `axes`; letters other than Y, X, S count planes.
    """
    others = [place for place, axis in enumerate(axes) if axis not in "YXS"]
    last = [axes.index(axis) for axis in "YXS" if axis in axes]
    ordered = pixels.transpose(others + last)
    if others:
        ordered = ordered[np.unravel_index(index, ordered.shape[: len(others)])]
    return ordered[..., 0] if ordered.ndim == 3 and ordered.shape[2] == 1 else ordered


def _mapped(path: Path, tiff: tifffile.TiffFile, layer: _Layer) -> np.ndarray:
    """Map an uncompressed series: one plane of a large stack costs one plane of memory."""
    dtype = np.dtype(layer.series.dtype).newbyteorder(tiff.byteorder)
    end = layer.series.dataoffset + math.prod(layer.shape) * dtype.itemsize
    size = path.stat().st_size
    if end > size:
        missing = end - size
        raise ImageError(
            path, f"is truncated: {missing:,} of its bytes are missing", "Copy it again"
        )
    return np.memmap(path, dtype, "r", layer.series.dataoffset, layer.shape)


def _show(indices: np.ndarray, colormap: np.ndarray) -> np.ndarray:
    palette = (colormap.T >> 8).astype(np.uint8)  # 16-bit entries; 8-bit indices show 8-bit greys
    if len(palette) <= 256:
        return through_palette(indices.astype(np.uint8), palette)
    # As finely as it is stored, where all entries are grey.
    return (colormap[0] if palette_is_grey(palette) else palette)[indices.astype(np.int64)]
