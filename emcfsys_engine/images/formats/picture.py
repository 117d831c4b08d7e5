"""PNG, JPEG and BMP: the pixels as stored, 16 bits kept, and PNG's pixel size in metres."""

import io
import struct
from collections.abc import Sequence
from pathlib import Path

import imagecodecs
import numpy as np
from PIL import Image, ImageOps

from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.damaged_files import refuse_false_promise
from emcfsys_engine.images.micrograph import ImageFacts, Micrograph
from emcfsys_engine.text import how_to_read

Image.MAX_IMAGE_PIXELS = None  # damaged_files refuses false promises; 20k × 20k is honest

_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PNG_PALETTE = 3
_ORIENTATION = 0x0112  # in Exif notes
_SIDEWAYS = (5, 6, 7, 8)  # orientations that exchange height and width
_NOTES = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")
_MOST_NOTE_BYTES = 4 << 20
_MOST_CHUNKS = 1_000_000
_PNG_HEADER_BYTES = 33
_ONE_PIXEL_PNG = imagecodecs.png_encode(np.zeros((1, 1), np.uint8))
_STRIP_ROWS = 32
_MOST_READS = 100_000  # of a header: honest ones take hundreds


def probe(path: Path) -> ImageFacts:
    """Return the facts of a PNG, JPEG or BMP from its header."""
    if _is_png(path):
        return _probe_png(path)
    try:
        with _Header(path) as file, Image.open(file) as picture:
            width, height = picture.size
            name = {"MPO": "JPEG"}.get(picture.format or "", picture.format or "picture")
            channels = len(picture.getbands())
            flat = picture.getpalette("RGB") if picture.mode == "P" else None
            if flat and not palette_is_grey(np.array(flat, np.uint8).reshape(-1, 3)):
                channels = 3
            turned = name == "JPEG" and is_on_its_side(picture.getexif())
    except Exception as error:
        raise unreadable(path, error) from None
    refuse_false_promise(
        path, (height, width, channels), 1, "jpeg" if name == "JPEG" else "packbits"
    )
    size = (width, height) if turned else (height, width)
    return ImageFacts(
        path=path,
        format=name,
        shape=size if channels == 1 else (*size, 3),
        dtype="uint8",
        planes=1,
        pixel_nm=None,
        bit_depth=8,
    )


class _Header(io.BufferedReader):
    """A file whose header ends some time: Pillow looks for a JPEG's next part byte by byte."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._num_reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Read on.

        Raises: OSError where a header has no end.
        """
        self._num_reads += 1
        if self._num_reads > _MOST_READS:
            raise OSError("its header has no end")
        return super().read(size)


def read(path: Path, plane: int) -> Micrograph:
    """Return the picture's pixels; a palette is turned into what it shows."""
    facts = probe(path)
    if plane != 0:
        raise ImageError(path, f"has one plane, so there is no #{plane}")
    pixels = read_indices(path, facts)
    palette = _palette(path, facts.format)
    if palette is not None:
        pixels = through_palette(pixels, palette)
    return Micrograph(
        pixels=pixels,
        pixel_nm=facts.pixel_nm,
        source=str(path),
        bit_depth=facts.bit_depth,
        info_bar_rows=0,
    )


def read_indices(path: Path, facts: ImageFacts | None = None) -> np.ndarray:
    """Return the stored values: palette indices where there is a palette, else the pixels.

    Shapes: H×W or H×W×C, uint8, or uint16 of a PNG of 16 bits.
    """
    facts = facts or probe(path)
    try:
        if facts.format != "PNG":
            return _read_with_pillow(path)
        width, height, depth, kind = _png_header(path)
        if kind == _PNG_PALETTE:
            return turned_upright(_read_with_pillow(path), _png_turn(path))
        pixels = np.asarray(imagecodecs.png_decode(path.read_bytes()))
    except ImageError:
        raise
    except Exception as error:
        raise unreadable(path, error) from None
    if depth < 8:  # libpng stretches 1, 2 and 4 bits over 0–255: take that back
        pixels = (pixels.astype(np.uint16) * (2**depth - 1) // 255).astype(np.uint8)
    if pixels.shape[:2] != (height, width):
        raise ImageError(path, "is damaged: its size differs from its header", "Export it again")
    pixels = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    return turned_upright(pixels, _png_turn(path))


def _palette(path: Path, name: str) -> np.ndarray | None:
    """Return the colours that a picture's stored values stand for; None where they are its greys.

    Shapes: at most 256×3.
    """
    if name == "PNG":
        return _png_palette(path) if _png_header(path)[3] == _PNG_PALETTE else None
    with Image.open(path) as picture:
        flat = picture.getpalette("RGB") if picture.mode == "P" else None
    return None if flat is None else np.array(flat, np.uint8).reshape(-1, 3)


def clear_entries(path: Path) -> np.ndarray | None:
    """Return which entries of a picture's palette are transparent; None where none is.

    Shapes: bool, 256.
    """
    with Image.open(path) as picture:
        said = picture.info.get("transparency") if picture.mode == "P" else None
    clear = np.zeros(256, bool)
    if isinstance(said, bytes):
        clear[: len(said)] = np.frombuffer(said[:256], np.uint8) == 0
    elif isinstance(said, int) and 0 <= said < 256:
        clear[said] = True
    return clear if clear.any() else None


def through_palette(indices: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Return the colours a palette gives; one channel when they are grey.

    Shapes: indices H×W and palette at most 256×3, uint8; H×W or H×W×3 uint8 out.
    """
    full = np.zeros((256, 3), palette.dtype)
    full[: len(palette)] = palette[:256]
    if not palette_is_grey(palette):
        return full[indices]
    # Where some entries are coloured pens over a ramp, the ramp is the image.
    is_all_grey = (palette == palette[:, :1]).all()
    return full[:, 0][indices] if is_all_grey else indices


def palette_is_grey(palette: np.ndarray) -> bool:
    """Tell whether a palette shows grey values.

    Zeiss keeps 26 of 256 entries for the pens of its overlays: such an image is grey all the same.
    Shapes: palette is N×3 uint8.
    """
    is_grey = (palette == palette[:, :1]).all(axis=1)
    ramp = (palette[:, 0] == np.arange(len(palette))) & is_grey
    return bool(is_grey.all()) or (len(palette) == 256 and bool(ramp.mean() > 0.8))


def _read_with_pillow(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        is_jpeg = picture.format in ("JPEG", "MPO")  # a camera's: JPEGs, of which the first counts
        if is_jpeg:
            _refuse_early_end(path)
        if is_jpeg and picture.mode in ("L", "RGB"):
            turn = int(picture.getexif().get(_ORIENTATION, 1))
            return turned_upright(imagecodecs.jpeg8_decode(path.read_bytes()), turn)
        picture.load()
        if is_jpeg:
            ImageOps.exif_transpose(picture, in_place=True)
        return array_of(picture)


def _refuse_early_end(path: Path) -> None:
    """Decoders fill a JPEG that ends early with grey, and say nothing.

    Source: ITU T.81, annex B: segments with their lengths up to the scan, in which 0xFF stands for
    itself only before 0x00; end of image is 0xFFD9.
    """
    data = path.read_bytes()
    at = 2
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] != b"\xda" and at < len(data):
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    if data.find(b"\xff\xd9", at) < 0:
        raise ImageError(path, "is truncated: the JPEG ends early", "Copy or export it again")


def is_on_its_side(notes: Image.Exif) -> bool:
    """Tell whether a picture is stored with height and width exchanged."""
    return notes.get(_ORIENTATION, 1) in _SIDEWAYS


def turned_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return the pixels as they are meant to be seen, from how their first row and column lie.

    Source: orientation tag 274 of TIFF 6.0 and Exif. 1 and what is no orientation change nothing.
    Shapes: H×W or H×W×C of any dtype, which is kept; 5 to 8 exchange H and W.
    """
    if orientation in _SIDEWAYS:
        pixels = np.swapaxes(pixels, 0, 1)
    upside_down = orientation in (3, 4, 7, 8)
    mirrored = orientation in (2, 3, 6, 7)
    pixels = pixels[::-1] if upside_down else pixels
    pixels = pixels[:, ::-1] if mirrored else pixels
    return np.ascontiguousarray(pixels)


def array_of(picture: Image.Image, kept: Sequence[str] = ("L", "P", "1", "RGB")) -> np.ndarray:
    """Return a picture's pixels strip by strip: Pillow's own way holds them three times at once.

    Modes that are not `kept` become RGB.
    Shapes: H×W or H×W×C uint8.
    """
    width, height = picture.size
    channels = len(picture.getbands()) if picture.mode in kept else 3
    pixels = np.empty((height, width) if channels == 1 else (height, width, channels), np.uint8)
    for top in range(0, height, _STRIP_ROWS):
        bottom = min(height, top + _STRIP_ROWS)
        strip = picture.crop((0, top, width, bottom))
        pixels[top:bottom] = np.asarray(strip if strip.mode in kept else strip.convert("RGB"))
    return pixels


def _probe_png(path: Path) -> ImageFacts:
    width, height, depth, kind = _png_header(path)
    channels = _PNG_CHANNELS.get(kind, 0)
    if not channels or depth not in (1, 2, 4, 8, 16):
        raise ImageError(path, "is a damaged PNG: its header makes no sense", "Export it again")
    refuse_false_promise(path, (height, width, channels), max(depth, 8) / 8, "deflate")
    if kind == _PNG_PALETTE:
        palette = _png_palette(path)
        channels = 1 if palette_is_grey(palette) else 3
    pixel_nm = _png_pixel_nm(path)
    if _png_turn(path) in _SIDEWAYS:
        width, height = height, width
        pixel_nm = pixel_nm and (pixel_nm[1], pixel_nm[0])
    return ImageFacts(
        path=path,
        format="PNG",
        shape=(height, width) if channels == 1 else (height, width, channels),
        dtype="uint16" if depth == 16 else "uint8",
        planes=1,
        pixel_nm=pixel_nm,
        bit_depth=depth,
    )


def _is_png(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x89PNG"


def _png_header(path: Path) -> tuple[int, int, int, int]:
    """Return width, height, bit depth and colour type."""
    with path.open("rb") as file:
        start = file.read(26)
    if len(start) < 26 or start[12:16] != b"IHDR":
        raise ImageError(path, "is truncated: the PNG ends in its header", "Copy it again")
    width, height, depth, kind = struct.unpack(">IIBB", start[16:26])
    return width, height, depth, kind


def _png_chunk(path: Path, wanted: bytes) -> bytes:
    """Return the first chunk of this kind that stands before the pixels; empty when none does."""
    with path.open("rb") as file:
        file.seek(8)
        for _ in range(200):
            head = file.read(8)
            if len(head) < 8 or head[4:] in (b"IDAT", b"IEND"):
                return b""
            length = int.from_bytes(head[:4], "big")
            if head[4:] == wanted:
                return file.read(min(length, 4096))
            file.seek(length + 4, 1)
    return b""


def _png_turn(path: Path) -> int:
    """Return how the picture is to be turned, as Labelme, CVAT and the like turn it; 1: not."""
    notes = _png_notes(path)
    if not notes:
        return 1
    small = _ONE_PIXEL_PNG[:_PNG_HEADER_BYTES] + notes + _ONE_PIXEL_PNG[_PNG_HEADER_BYTES:]
    try:
        with Image.open(io.BytesIO(small)) as picture:
            return int(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # of damaged notes Pillow raises this and that; the pixels are whole
        return 1


def _png_notes(path: Path) -> bytes:
    """Return the chunks in which an orientation may stand, before the pixels or behind them."""
    notes = b""
    with path.open("rb") as file:
        file.seek(8)
        for _ in range(_MOST_CHUNKS):
            head = file.read(8)
            length = int.from_bytes(head[:4], "big") + 4  # with its checksum
            if len(head) < 8 or head[4:] == b"IEND":
                break
            if head[4:] in _NOTES and len(notes) + length <= _MOST_NOTE_BYTES:
                notes += head + file.read(length)
            else:
                file.seek(length, 1)
    return notes


def _png_palette(path: Path) -> np.ndarray:
    flat = np.frombuffer(_png_chunk(path, b"PLTE")[:768], np.uint8)
    return flat[: len(flat) // 3 * 3].reshape(-1, 3)


def _png_pixel_nm(path: Path) -> tuple[float, float] | None:
    """Return the pixel size where it is one of a microscope; printers' dots are none."""
    chunk = _png_chunk(path, b"pHYs")
    if len(chunk) < 9 or chunk[8] != 1:
        return None
    across, down = struct.unpack(">II", chunk[:8])
    # 72–2400 dpi is 2,835–94,488 pixels a metre: that is a page. Below 10 µm it is a specimen.
    if min(across, down) < 100_000:
        return None
    return 1e9 / down, 1e9 / across


def unreadable(path: Path, error: Exception) -> ImageError:
    """Return the one line for what a decoder stumbled over."""
    if isinstance(error, PermissionError):
        return ImageError(path, "may not be read", how_to_read(path))
    if isinstance(error, MemoryError):
        return ImageError(path, "does not fit into memory", "Use a machine with more memory")
    words = " ".join(str(error).split())[:120] or type(error).__name__
    kind = "truncated" if "trunc" in words.lower() or "EOF" in words else "damaged"
    return ImageError(path, f"is {kind} and cannot be read ({words})", "Copy or export it again")
