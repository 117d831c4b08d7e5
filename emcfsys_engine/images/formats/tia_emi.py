"""FEI TIA .emi: the image that stands inside it, with its calibration, also without its .ser.

The format is not published. What is used here holds for all files seen: a tag with the pixels'
type, the byte length, width and height, the pixels, and then the two calibration steps.
"""

import mmap
import re
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.formats.tia import DTYPES, pixel_nm
from emcfsys_engine.images.micrograph import ImageFacts, Micrograph

_PIXELS = re.compile(rb"\x02([\x01-\x08]).\x22\x02\x02(.{12})", re.DOTALL)
_STEPS = re.compile(rb"\x41\x00\x20\x01(.{8}).{8,32}?\x41\x00\x30\x01(.{8})", re.DOTALL)
_STEPS_WITHIN = 512


@dataclass(frozen=True, kw_only=True)
class _Image:
    start: int
    dtype: np.dtype[np.generic]
    size_HW: tuple[int, int]
    pixel_nm: tuple[float, float] | None


def probe(path: Path) -> ImageFacts:
    """Return the facts of the images inside an .emi file."""
    images = _images(path)
    first = images[0]
    notes = ("its planes differ in size",) if len({one.size_HW for one in images}) > 1 else ()
    return ImageFacts(
        path=path,
        format="TIA image",
        shape=first.size_HW,
        dtype=first.dtype.name,
        planes=len(images),
        pixel_nm=first.pixel_nm,
        bit_depth=first.dtype.itemsize * 8,
        notes=notes,
    )


def read(path: Path, plane: int) -> Micrograph:
    """Return one of the images inside an .emi file."""
    images = _images(path)
    if not 0 <= plane < len(images):
        raise ImageError(path, f"has {len(images)} planes, counted from 0, so there is no #{plane}")
    image = images[plane]
    height, width = image.size_HW
    with path.open("rb") as file:
        file.seek(image.start)
        flat = np.frombuffer(file.read(height * width * image.dtype.itemsize), image.dtype)
    return Micrograph(
        pixels=flat.reshape(height, width)[::-1],  # TIA counts rows from the bottom
        pixel_nm=image.pixel_nm,
        source=str(path) if len(images) == 1 else f"{path}#{plane}",
        bit_depth=image.dtype.itemsize * 8,
        info_bar_rows=0,
    )


def _images(path: Path) -> list[_Image]:
    images: list[_Image] = []
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = 0
        while found := _PIXELS.search(data, at):
            at = found.start() + 1
            image = _image(data, found)
            if image is not None:
                images.append(image)
                height, width = image.size_HW
                at = image.start + height * width * image.dtype.itemsize
    if not images:
        what = "holds no image: a spectrum, or only the description of a .ser file, or truncated"
        raise ImageError(path, what, "Use the .ser file beside it, or copy it again")
    return images


def _image(data: mmap.mmap, found: re.Match[bytes]) -> _Image | None:
    length, width, height = struct.unpack("<III", found[2])
    dtype = np.dtype("<" + DTYPES[found[1][0]])
    count = width * height * dtype.itemsize
    if not count or length != count + 8 or found.end() + count > len(data):
        return None
    end = found.end() + count
    steps = _STEPS.search(data, end, min(len(data), end + _STEPS_WITHIN))
    size_nm = None
    if steps:
        (across,), (down,) = (struct.unpack("<d", steps[n]) for n in (1, 2))
        size_nm = pixel_nm((down, across))
    return _Image(start=found.end(), dtype=dtype, size_HW=(height, width), pixel_nm=size_nm)
