"""Files packed with gzip or bzip2: MRC stacks, and the Phenom's elid; unpacked within bounds."""

import bz2
import gzip
import io
import struct
import zlib
from pathlib import Path

from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.formats import mrc, tiff
from emcfsys_engine.images.micrograph import ImageFacts, Micrograph

_MOST_BYTES_A_BYTE = 200  # honest micrographs pack 1:2, spectra 1:20; bombs 1:1000 and more
_SMALL_BYTES = 64 << 20


def probe(path: Path) -> ImageFacts:
    """Return the facts of the packed file from its unpacked start."""
    start = _unpacked(path, 2048)
    if start[:4] == b"EID2":
        return _elid_facts(path)
    return mrc.facts_of(path, _mrc_header(path, start), f"MRC ({_packing(path)})")


def read(path: Path, plane: int) -> Micrograph:
    """Return one plane of the packed file; it is unpacked up to that plane only."""
    start = _unpacked(path, 2048)
    if start[:4] == b"EID2":
        return _elid_image(path, plane)
    header = _mrc_header(path, start)
    height, width = header.size_ZYX[1:]
    need = header.start + (plane + 1) * height * width * header.dtype.itemsize
    return mrc.read_plane(path, header, plane, io.BytesIO(_unpacked(path, need)))


def _unpacked(path: Path, most_bytes: int) -> bytes:
    """Return the first bytes of what is packed, at most this many.

    Raises: ImageError when it is damaged, or unpacks to far more than an honest file would.
    """
    packed_bytes = path.stat().st_size
    if most_bytes > max(_SMALL_BYTES, packed_bytes * _MOST_BYTES_A_BYTE):
        raise ImageError(
            path,
            f"would unpack {packed_bytes:,} bytes to {most_bytes:,} or more",
            "It is damaged or made to do harm: do not use it",
        )
    opener = bz2.open if _packing(path) == "bzip2" else gzip.open
    try:
        with opener(path, "rb") as file:
            return file.read(most_bytes)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise ImageError(
            path, f"is truncated or damaged and cannot be unpacked ({error})", "Copy it again"
        ) from None


def _most_unpacked_bytes(path: Path) -> int:
    """Return how many bytes an honest file of this size may unpack to."""
    return max(_SMALL_BYTES, path.stat().st_size * _MOST_BYTES_A_BYTE)


def _mrc_header(path: Path, start: bytes) -> mrc.Header:
    if len(start) < 1024 or start[208:211] != b"MAP":
        what = f"is packed with {_packing(path)}, and what is in it is no MRC file"
        raise ImageError(path, what, "Unpack it first")
    # Only the unpacking itself shows whether all pixels are there.
    return mrc.parse_packed(path, start, _most_unpacked_bytes(path))


def _packing(path: Path) -> str:
    with path.open("rb") as file:
        return "bzip2" if file.read(3) == b"BZh" else "gzip"


_ELID_TIFF = b"II*\0"
_SMALLEST_SIDE_PX = 2  # the 1 × 1 pictures are cut-outs at the spots of spectra


def _elid_facts(path: Path) -> ImageFacts:
    """Return the facts of the project's images."""
    images = _elid_images(path)
    first = images[0][0]
    sizes = {facts.shape for facts, _ in images}
    notes = ["images of an X-ray project: its spectra and maps are not used"]
    if len(sizes) > 1:
        notes.append("its planes differ in size")
    return ImageFacts(
        path=path,
        format="Phenom elid",
        shape=first.shape,
        dtype=first.dtype,
        planes=len(images),
        pixel_nm=first.pixel_nm,
        bit_depth=first.bit_depth,
        info_bar_rows=first.info_bar_rows,
        notes=tuple(notes),
    )


def _elid_image(path: Path, plane: int) -> Micrograph:
    """Return one image of the project."""
    images = _elid_images(path)
    if not 0 <= plane < len(images):
        raise ImageError(path, f"has {len(images)} planes, counted from 0, so there is no #{plane}")
    found = tiff.read_inside(path, io.BytesIO(images[plane][1]))
    return Micrograph(
        pixels=found.pixels,
        pixel_nm=found.pixel_nm,
        source=str(path) if len(images) == 1 else f"{path}#{plane}",
        bit_depth=found.bit_depth,
        info_bar_rows=found.info_bar_rows,
    )


def _elid_images(path: Path) -> list[tuple[ImageFacts, bytes]]:
    """Return every TIFF inside that is an image, with its facts.

    A TIFF is preceded by its length; the first stands at a fixed place.
    """
    data = _unpacked(path, _most_unpacked_bytes(path))
    images: list[tuple[ImageFacts, bytes]] = []
    at = data.find(_ELID_TIFF)
    while at >= 4:
        (length,) = struct.unpack("<I", data[at - 4 : at])
        inside = data[at : at + length]
        at = data.find(_ELID_TIFF, at + 1)
        if len(inside) < length or length < 8:
            continue
        try:
            facts = tiff.probe_inside(path, io.BytesIO(inside))
        except ImageError:
            continue  # the same four bytes by chance
        if min(facts.shape[:2]) >= _SMALLEST_SIDE_PX:
            images.append((facts, inside))
    if not images:
        raise ImageError(path, "is an elid project without an image", "Export the image as TIFF")
    return images
