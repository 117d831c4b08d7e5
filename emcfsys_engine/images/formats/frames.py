"""GIF, WebP, AVIF, QOI and Sun raster, by Pillow: pictures of one frame, or of several.

Of the other kinds that Pillow opens, EPS and WMF start programs, SGI and PSD lose bits of 16, and
a PCX that ends early passes for a whole one.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, ImageSequence

from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.damaged_files import refuse_false_promise
from emcfsys_engine.images.formats.picture import (
    array_of,
    is_on_its_side,
    palette_is_grey,
    through_palette,
    unreadable,
)
from emcfsys_engine.images.micrograph import ImageFacts, Micrograph

_KINDS = ("GIF", "WEBP", "AVIF", "QOI", "SUN")
_KEPT = ("L", "P", "1", "LA", "RGB", "RGBA")
_MOST_FRAMES = 100_000


def probe(path: Path) -> ImageFacts:
    """Return the facts of the picture; each frame of a moving one is a plane."""
    try:
        with Image.open(path, formats=_KINDS) as picture:
            name = picture.format or "picture"
            width, height = picture.size
            refuse_false_promise(path, (height, width, 3), 1, "otherwise")
            planes = min(int(getattr(picture, "n_frames", 1)), _MOST_FRAMES)
            channels = _channels(picture, planes)
            if planes == 1 and is_on_its_side(picture.getexif()):
                width, height = height, width
    except ImageError:
        raise
    except Exception as error:
        raise unreadable(path, error) from None
    if name == "GIF":
        _refuse_early_end(path)
    return ImageFacts(
        path=path,
        format={"WEBP": "WebP", "SUN": "Sun raster"}.get(name, name),
        shape=(height, width) if channels == 1 else (height, width, channels),
        dtype="uint8",
        planes=planes,
        pixel_nm=None,
        bit_depth=8,
        notes=("its last channel says what is transparent",) if channels in (2, 4) else (),
    )


def read(path: Path, plane: int) -> Micrograph:
    """Return a frame as viewers show it: a palette's colours, all that lies below drawn."""
    facts = probe(path)
    if not 0 <= plane < facts.planes:
        what = f"has {facts.planes} planes, counted from 0, so there is no #{plane}"
        raise ImageError(path, what)
    pixels, palette = _read(path, facts, plane)
    if palette is not None:
        pixels = through_palette(pixels, palette)
    return Micrograph(
        pixels=pixels,
        pixel_nm=None,
        source=str(path) if facts.planes == 1 else f"{path}#{plane}",
        bit_depth=8,
        info_bar_rows=0,
    )


def read_indices(path: Path, plane: int = 0) -> np.ndarray:
    """Return the stored values: palette indices where there is a palette, else the pixels.

    Shapes: H×W or H×W×C uint8.
    """
    return _read(path, probe(path), plane)[0]


def _read(path: Path, facts: ImageFacts, plane: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Return values, and the colours they stand for; None where they are the greys or colours.

    Shapes: H×W or H×W×C, at most 256×3.
    """
    try:
        with Image.open(path, formats=_KINDS) as picture:
            if facts.planes > 1:
                frames = ImageSequence.Iterator(picture)
                frames[plane].load()
                return array_of(picture.convert("RGB"), _KEPT), None
            picture.load()
            ImageOps.exif_transpose(picture, in_place=True)
            flat = picture.getpalette("RGB") if picture.mode == "P" else None
            palette = None if flat is None else np.array(flat, np.uint8).reshape(-1, 3)
            return array_of(picture, _KEPT), palette
    except Exception as error:
        raise unreadable(path, error) from None


def _channels(picture: Image.Image, planes: int) -> int:
    if planes > 1:
        return 3  # a frame is drawn over the others, in colours of its own
    if picture.mode != "P":
        return len(picture.getbands()) if picture.mode in _KEPT else 3
    flat = picture.getpalette("RGB") or []
    return 1 if palette_is_grey(np.array(flat, np.uint8).reshape(-1, 3)) else 3


def _refuse_early_end(path: Path) -> None:
    """A GIF that ends early between two frames is a shorter film to Pillow; its last byte tells."""
    with path.open("rb") as file:
        file.seek(-min(64, path.stat().st_size), 2)
        if not file.read().rstrip(b"\0").endswith(b";"):
            raise ImageError(path, "is truncated: the GIF ends early", "Copy or export it again")
