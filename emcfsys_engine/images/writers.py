"""Images written from top to bottom, a few rows at a time, and whole or not at all.

A file has its final name only when it is complete and on the disk.
"""

import glob
import os
import queue
import re
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tifffile

from emcfsys_engine.files import begin_new, temporary_of
from emcfsys_engine.images.label_zarr import ZarrWriter
from emcfsys_engine.images.output_names import MASK_SUFFIXES, file_beside, is_ome_zarr, stem_of
from emcfsys_engine.images.own_files import put

# x.overlay.png, x.prob-<class>.png, x.uncertainty.png, x.view.png, which Labelme opens, and
# x.instances.tif.
_CUT = re.compile(r"(.{100,})~[0-9a-f]{8}", re.DOTALL)
_COMPANION = re.compile(
    r"(.+)\.((?:overlay|uncertainty|view|prob-[^/]+)\.png|instances\.tif)", re.DOTALL
)


def companion(mask_file: Path, kind: str) -> Path:
    """Return the name of a mask's companion: `x.overlay.png`, `x.prob-<class>.png`."""
    return mask_file.with_name(file_beside(stem_of(mask_file), f".{kind}.png"))


def is_companion(path: Path) -> bool:
    """Tell whether a file stands beside a mask and is none itself."""
    found = _COMPANION.fullmatch(path.name)
    if found is None:
        return False
    if any(path.with_name(f"{found[1]}{suffix}").exists() for suffix in MASK_SUFFIXES):
        return True
    begun = _CUT.fullmatch(found[1])  # a name that had to be cut: its mask's begins like it
    return begun is not None and any(
        path.name == file_beside(stem_of(file), f".{found[2]}")
        for file in path.parent.glob(f"{glob.escape(begun[1])}*")
        if file.name.endswith(MASK_SUFFIXES)
    )


TIFF_SOFTWARE = "tifffile.py (EMCFsys)"  # its resolution is a pixel's size, not a printer's
_TILE_PX = 256
_IDAT_BYTES = 1 << 20
_LEVEL = 3


class RowWriter(Protocol):
    """Takes rows from top to bottom; `finish` or `abort` ends it."""

    file: Path

    def write(self, rows: np.ndarray) -> None:
        """Add rows below those that are there. Shapes: uint8 h×W, or h×W×3."""
        ...

    def complete(self) -> Path:
        """Complete the file under its temporary name, on the disk, and return that name.

        Raises: OSError when the disk is full.
        """
        ...

    def finish(self) -> None:
        """Complete the file and give it its name, whatever is there.

        Raises: OSError when the disk is full.
        """
        ...

    def abort(self) -> None:
        """Leave nothing behind."""
        ...


def writer_for(
    file: Path,
    size_HW: tuple[int, int],
    pixel_nm: tuple[float, float] | None,
    corner_px: tuple[int, int] = (0, 0),
) -> RowWriter:
    """Return the writer of a file of class values by its name: PNG, TIFF, OME-TIFF, OME-Zarr.

    Units: pixel_nm is (y, x); corner_px is where the mask begins in its image, which OME-Zarr says.
    """
    if is_ome_zarr(file):
        return ZarrWriter(file, size_HW, pixel_nm, corner_px)
    if file.suffix == ".tif":
        return TiffWriter(file, size_HW, pixel_nm)
    return PngWriter(file, size_HW, pixel_nm)


class PngWriter:
    """A PNG, 8 bits, grey or RGB; the pixel size in pHYs and, exactly, as text.

    Source: PNG (ISO/IEC 15948); rows carry filter 0 for masks, which zlib likes best, else 1.
    """

    def __init__(
        self,
        file: Path,
        size_HW: tuple[int, int],
        pixel_nm: tuple[float, float] | None = None,
        *,
        channels: int = 1,
        is_smooth: bool = False,
    ) -> None:
        self.file = file
        self._channels = channels
        self._filter = 1 if is_smooth else 0
        self._packer = zlib.compressobj(_LEVEL)
        self._packed: list[bytes] = []
        self._temporary = temporary_of(file)
        self._stream = begin_new(self._temporary)
        self._stream.write(b"\x89PNG\r\n\x1a\n")
        kind = 0 if channels == 1 else 2
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", size_HW[1], size_HW[0], 8, kind, 0, 0, 0))
        if pixel_nm is not None:
            exact = f"{pixel_nm[0]:.9g} {pixel_nm[1]:.9g}"
            self._chunk(b"tEXt", b"pixel_nm\0" + exact.encode())
            per_metre = (round(1e9 / pixel_nm[1]), round(1e9 / pixel_nm[0]))
            if max(per_metre) < 2**32:
                self._chunk(b"pHYs", struct.pack(">IIB", *per_metre, 1))

    def write(self, rows: np.ndarray) -> None:
        """Add rows.

        Shapes: rows×W uint8, or rows×W×3.
        """
        flat = np.ascontiguousarray(rows, np.uint8).reshape(len(rows), -1)
        lines = np.empty((len(rows), flat.shape[1] + 1), np.uint8)
        lines[:, 0] = self._filter
        lines[:, 1:] = flat
        if self._filter:
            lines[:, 1 + self._channels :] -= flat[:, : -self._channels]
        self._packed.append(self._packer.compress(lines.data))
        if sum(map(len, self._packed)) >= _IDAT_BYTES:
            self._flush()

    def complete(self) -> Path:
        """Complete the file under its temporary name."""
        self._packed.append(self._packer.flush())
        self._flush()
        self._chunk(b"IEND", b"")
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        return self._temporary

    def finish(self) -> None:
        """Complete the file and give it its name."""
        put(self.complete(), self.file, may_replace=True)

    def abort(self) -> None:
        """Leave nothing behind."""
        with suppress(OSError):  # a full disk does not take what was not written yet
            self._stream.close()
        self._temporary.unlink(missing_ok=True)

    def _flush(self) -> None:
        self._chunk(b"IDAT", b"".join(self._packed))
        self._packed.clear()

    def _chunk(self, name: bytes, content: bytes) -> None:
        check = zlib.crc32(content, zlib.crc32(name))
        self._stream.write(struct.pack(">I", len(content)) + name + content)
        self._stream.write(struct.pack(">I", check))


class TiffWriter:
    """A tiled, deflated TIFF (BigTIFF from 2 GiB on), OME-TIFF when it is so named.

    OME-XML carries PhysicalSizeX and PhysicalSizeY in nm; the others the resolution tags.
    """

    def __init__(
        self,
        file: Path,
        size_HW: tuple[int, int],
        pixel_nm: tuple[float, float] | None = None,
        *,
        dtype: type[np.uint8] | type[np.uint32] = np.uint8,
        description: str | None = None,
    ) -> None:
        self._description = description
        self.file = file
        self._size = size_HW
        self._pixel_nm = pixel_nm
        self._dtype = np.dtype(dtype)
        self._temporary = temporary_of(file)
        self._rows: queue.Queue[np.ndarray | None] = queue.Queue(maxsize=2)
        self._failure: BaseException | None = None
        self._stream = begin_new(self._temporary)
        # tifffile wants to pull tiles; rows are pushed here.
        self._thread = threading.Thread(target=self._run, name="tiff", daemon=True)
        self._thread.start()

    def write(self, rows: np.ndarray) -> None:
        """Add rows.

        Shapes: rows×W of the file's type, uint8 or uint32.
        """
        self._put(np.ascontiguousarray(rows, self._dtype))

    def complete(self) -> Path:
        """Complete the file under its temporary name."""
        self._put(None)
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        return self._temporary

    def finish(self) -> None:
        """Complete the file and give it its name."""
        put(self.complete(), self.file, may_replace=True)

    def abort(self) -> None:
        """Leave nothing behind."""
        if self._failure is None and self._thread.is_alive():
            self._failure = OSError("given up")
            self._put(None, quietly=True)
        self._thread.join()
        with suppress(OSError):  # a full disk does not take what was not written yet
            self._stream.close()
        self._temporary.unlink(missing_ok=True)

    def _put(self, rows: np.ndarray | None, *, quietly: bool = False) -> None:
        while self._thread.is_alive():
            try:
                self._rows.put(rows, timeout=0.1)
            except queue.Full:
                continue
            else:
                return
        if self._failure is not None and not quietly:
            raise self._failure

    def _run(self) -> None:
        height, width = self._size
        is_ome = self.file.name.endswith(".ome.tif")
        options: dict[str, Any] = {"metadata": None, "description": self._description}
        if is_ome:
            options["metadata"] = _ome_sizes(self._pixel_nm)
        elif self._pixel_nm is not None:  # pixels a centimetre, (x, y)
            per_cm = (1e7 / self._pixel_nm[1], 1e7 / self._pixel_nm[0])
            if max(per_cm) < 2**32:  # what the tags can say
                options["resolution"] = per_cm
                options["resolutionunit"] = "CENTIMETER"
        try:
            big = height * width * self._dtype.itemsize >= 2 << 30
            with tifffile.TiffWriter(self._stream, bigtiff=big, ome=is_ome) as tiff:
                tiff.write(
                    self._tiles(),
                    shape=(height, width),
                    dtype=self._dtype,
                    software=TIFF_SOFTWARE,
                    tile=(_TILE_PX, _TILE_PX),
                    compression="zlib",
                    photometric="minisblack",
                    maxworkers=1,
                    **options,
                )
        except BaseException as error:  # told to whoever pushes the next rows
            self._failure = error

    def _pushed(self) -> Iterator[np.ndarray]:
        while (rows := self._rows.get()) is not None:
            yield rows

    def _tiles(self) -> Iterator[np.ndarray]:
        height, width = self._size
        blocks = _blocks(self._pushed(), _TILE_PX)
        done = 0
        for block in blocks:
            done += len(block)
            for left in range(0, width, _TILE_PX):
                yield np.ascontiguousarray(block[:, left : left + _TILE_PX])
        if done < height:
            raise self._failure or OSError("not all rows were written")


def _blocks(bands: Iterator[np.ndarray], height: int) -> Iterator[np.ndarray]:
    """Cut bands of any height into blocks of one height; the last may be lower."""
    kept: list[np.ndarray] = []
    held = 0
    for band in bands:
        kept.append(band)
        held += len(band)
        if held < height:
            continue
        whole = np.concatenate(kept)
        start = 0
        for start in range(0, held - height + 1, height):
            yield whole[start : start + height]
        kept, held = [whole[start + height :]], held - start - height
    if held:
        yield np.concatenate(kept)


def _ome_sizes(pixel_nm: tuple[float, float] | None) -> dict[str, Any]:
    sizes: dict[str, Any] = {"axes": "YX"}
    if pixel_nm is not None:
        sizes |= {
            "PhysicalSizeY": pixel_nm[0],
            "PhysicalSizeYUnit": "nm",
            "PhysicalSizeX": pixel_nm[1],
            "PhysicalSizeXUnit": "nm",
        }
    return sizes
