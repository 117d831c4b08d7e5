"""JPEG 2000 (JP2 and bare codestreams), with all bits of a pixel."""

import struct
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np

from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.damaged_files import refuse_false_promise
from emcfsys_engine.images.micrograph import ImageFacts, Micrograph

_BOX_HEAD = struct.Struct(">I4s")
_MOST_BOXES = 1000


@dataclass(frozen=True, kw_only=True)
class _Header:
    shape: tuple[int, ...]
    bits: int
    signed: bool


def probe(path: Path) -> ImageFacts:
    """Return the facts of the picture from its SIZ segment."""
    header = _header(path)
    wide = header.bits > 8
    channels = header.shape[2] if len(header.shape) == 3 else 1
    item_bytes = 2 if wide else 1
    refuse_false_promise(path, header.shape, item_bytes, "otherwise")
    alpha = ("its last channel says what is transparent",) if channels in (2, 4) else ()
    return ImageFacts(
        path=path,
        format="JPEG 2000",
        shape=header.shape,
        dtype=("int" if header.signed else "uint") + str(8 * item_bytes),
        planes=1,
        pixel_nm=None,
        bit_depth=header.bits,
        notes=alpha,
    )


def read(path: Path, plane: int) -> Micrograph:
    """Return the picture's pixels."""
    facts = probe(path)
    if plane != 0:
        raise ImageError(path, f"has one plane, so there is no #{plane}")
    try:
        pixels = np.asarray(imagecodecs.jpeg2k_decode(path.read_bytes()))
    except Exception as error:
        words = " ".join(str(error).split())[:120]
        what = f"is truncated or damaged and cannot be read ({words})"
        raise ImageError(path, what, "Copy or export it again") from None
    pixels = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    if pixels.shape != facts.shape:
        raise ImageError(path, "is damaged: its size differs from its header", "Export it again")
    return Micrograph(
        pixels=pixels,
        pixel_nm=None,
        source=str(path),
        bit_depth=facts.bit_depth,
        info_bar_rows=0,
    )


def _header(path: Path) -> _Header:
    """Return what the main header says.

    Source: ITU-T T.800, A.5.1 (SIZ) and annex I (boxes).
    """
    with path.open("rb") as file:
        start = 0
        if file.read(4) != b"\xff\x4f\xff\x51":
            start = _codestream(path)
        file.seek(start + 4)
        siz = file.read(39)
    if len(siz) < 39:
        raise ImageError(path, "is truncated inside its header", "Copy it again")
    right, bottom, left, top = struct.unpack(">4I", siz[4:20])
    channels, depth = struct.unpack(">HB", siz[36:39])[0], siz[38]
    if channels not in (1, 2, 3, 4) or right <= left or bottom <= top:
        what = f"holds {channels} channels" if right > left else "is damaged: it has no size"
        raise ImageError(path, what, "Export it in grey or in colours")
    bits = (depth & 0x7F) + 1
    if bits > 16:
        raise ImageError(path, f"has {bits} bits a pixel, at most 16 are read", "Export it as TIFF")
    size = (bottom - top, right - left)
    return _Header(
        shape=size if channels == 1 else (*size, channels),
        bits=bits,
        signed=bool(depth & 0x80),
    )


def _codestream(path: Path) -> int:
    """Return where the codestream of a JP2 begins.

    Raises: ImageError where a palette colours it.
    """
    size = path.stat().st_size
    at = 0
    with path.open("rb") as file:
        for _ in range(_MOST_BOXES):
            file.seek(at)
            head = file.read(16)
            if len(head) < 8:
                break
            length, kind = _BOX_HEAD.unpack(head[:8])
            first = at + 8
            if length == 1 and len(head) == 16:
                length, first = struct.unpack(">Q", head[8:])[0], at + 16
            if kind == b"jp2c":
                return first
            if kind == b"jp2h":
                file.seek(first)
                _refuse_other_colours(path, file.read(min(length, 64 << 10)))
            if length < 8 or at + length > size:
                break
            at += length
    raise ImageError(path, "is truncated: the JPEG 2000 has no pixels", "Copy it again")


def _refuse_other_colours(path: Path, header: bytes) -> None:
    colours = header.partition(b"colr\1")[2][2:6]
    if b"pclr" in header or colours == b"\0\0\0\x12":
        what = "is a JPEG 2000 with a palette or in YCC colours, which is not read"
        raise ImageError(path, what, "Export it as PNG")
