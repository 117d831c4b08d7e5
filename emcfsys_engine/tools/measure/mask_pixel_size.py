"""How large a mask's pixels are: from its image, or from what EMCFsys wrote into the mask."""

import math
from pathlib import Path

import tifffile
from PIL import Image

from emcfsys_engine.errors import InputError
from emcfsys_engine.images.quiet import quiet_libraries
from emcfsys_engine.images.reader import probe

_CENTIMETRE = 3
_NM_PER_CM = 1e7
_LARGEST_NM = 10_000.0  # larger pixels are dots of a printer or a scanner


def pixel_nm_of(mask: Path, image: Path | None) -> tuple[float, float] | None:
    """Return the pixel size: the image's, else the mask's own; None when neither says.

    Units:  nm, (y, x).
    Raises: ImageError when a file cannot be read.
    """
    if image is not None:
        size = probe(image).pixel_nm
        if size is not None:
            return size
    return _written_size(mask) or probe(mask).pixel_nm


def _written_size(mask: Path) -> tuple[float, float] | None:
    """Return the size that `predict` wrote: exactly, as a PNG's text, or as a TIFF's resolution."""
    try:
        with quiet_libraries():
            if mask.suffix.lower() == ".png":
                return _png_text(mask)
            if mask.suffix.lower() in (".tif", ".tiff"):
                return _tiff_resolution(mask)
    except (OSError, ValueError, SyntaxError, tifffile.TiffFileError):
        return None  # a damaged file is named when its pixels are read
    return None


def _png_text(mask: Path) -> tuple[float, float] | None:
    with Image.open(mask) as picture:
        words = str(picture.info.get("pixel_nm", "")).split()
    if len(words) != 2:
        return None
    return _checked(float(words[0]), float(words[1]))


def _tiff_resolution(mask: Path) -> tuple[float, float] | None:
    """Return the resolution in pixels a centimetre of a TIFF written by tifffile, as ours are."""
    with tifffile.TiffFile(mask) as tiff:
        tags = tiff.pages.first.tags
        unit, maker = tags.get("ResolutionUnit"), tags.get("Software")
        if unit is None or int(unit.value) != _CENTIMETRE or maker is None:
            return None
        if not str(maker.value).startswith("tifffile"):
            return None
        sizes: list[float] = []
        for name in ("YResolution", "XResolution"):
            over, under = tags[name].value if name in tags else (0, 1)
            sizes.append(_NM_PER_CM * under / over if over else math.inf)
    return _checked(sizes[0], sizes[1])


def _checked(down: float, across: float) -> tuple[float, float] | None:
    good = all(math.isfinite(size) and 0 < size < _LARGEST_NM for size in (down, across))
    return (down, across) if good else None


def parse_pixel_nm(text: str) -> tuple[float, float]:
    """Return (y, x) from "12.5" or, where rows and columns differ, "12.5,10".

    Raises: InputError for anything else.
    """
    try:
        numbers = [float(word) for word in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or not all(math.isfinite(n) and n > 0 for n in numbers):
        remedy = "Write nanometres: 12.5, or height,width as 12.5,10"
        raise InputError("--pixel-nm", f"{text!r} is no pixel size", remedy)
    return numbers[0], numbers[-1]
