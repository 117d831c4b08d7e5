"""Phenom Element Identification (.elid): the images of a project, not its spectra."""

import io
import struct
from pathlib import Path

from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.formats import tiff
from emcfsys_engine.images.formats.compressed import most_unpacked_bytes, unpacked
from emcfsys_engine.images.micrograph import ImageFacts, Micrograph

_TIFF = b"II*\0"
_SMALLEST_SIDE_PX = 2  # the 1 × 1 pictures are cut-outs at the spots of spectra


def probe(path: Path) -> ImageFacts:
    """Return the facts of the project's images."""
    images = _images(path)
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


def read(path: Path, plane: int) -> Micrograph:
    """Return one image of the project."""
    images = _images(path)
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


def _images(path: Path) -> list[tuple[ImageFacts, bytes]]:
    """Return every TIFF inside that is an image, with its facts.

    A TIFF is preceded by its length; the first stands at a fixed place.
    """
    data = unpacked(path, most_unpacked_bytes(path))
    images: list[tuple[ImageFacts, bytes]] = []
    at = data.find(_TIFF)
    while at >= 4:
        (length,) = struct.unpack("<I", data[at - 4 : at])
        inside = data[at : at + length]
        at = data.find(_TIFF, at + 1)
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
