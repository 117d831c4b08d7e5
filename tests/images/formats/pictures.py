"""One picture of every kind that Pillow or another decoder reads, by its name."""

import io
import struct
from pathlib import Path

import imagecodecs
import numpy as np
from PIL import Image

GREY = np.random.default_rng(5).integers(0, 255, (40, 51), np.uint8)


COLOURS = np.random.default_rng(6).integers(0, 255, (40, 51, 3), np.uint8)


def by_pillow(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def sun_raster(pixels: np.ndarray) -> bytes:
    height, width = pixels.shape
    head = (0x59A66A95, width, height, 8, height * (width + width % 2), 1, 0, 0)
    return struct.pack(">8I", *head) + np.pad(pixels, ((0, 0), (0, width % 2))).tobytes()


def text_pgm(pixels: np.ndarray) -> bytes:
    rows = "\n".join(" ".join(map(str, row)) for row in pixels)
    return f"P2\n# by hand\n51 40\n255\n{rows}\n".encode()


FILES: dict[str, bytes] = {
    "grey.gif": by_pillow(GREY, "GIF"),
    "colours.gif": by_pillow(COLOURS, "GIF"),
    "colours.webp": by_pillow(COLOURS, "WEBP", lossless=True),
    "lossy.webp": by_pillow(COLOURS, "WEBP", quality=80),
    "grey.avif": by_pillow(GREY, "AVIF"),
    "grey.jp2": by_pillow(GREY, "JPEG2000"),
    "colours.jp2": by_pillow(COLOURS, "JPEG2000"),
    "grey.j2k": imagecodecs.jpeg2k_encode(GREY, level=0, codecformat="j2k"),
    "grey.pgm": by_pillow(GREY, "PPM"),
    "text.pgm": text_pgm(GREY),
    "colours.ppm": by_pillow(COLOURS, "PPM"),
    "bits.pbm": by_pillow(GREY > 99, "PPM"),
    "floats.pfm": by_pillow(GREY.astype(np.float32) / 7, "PPM"),
    "colours.qoi": imagecodecs.qoi_encode(COLOURS),
    "grey.ras": sun_raster(GREY),
}


def put(folder: Path, name: str) -> Path:
    file = folder / name
    file.write_bytes(FILES[name])
    return file


def film(kind: str, frames: int = 4, **options: object) -> bytes:
    pictures = [Image.fromarray(np.roll(COLOURS, 3 * n, axis=1)) for n in range(frames)]
    stream = io.BytesIO()
    pictures[0].save(stream, kind, save_all=True, append_images=pictures[1:], **options)
    return stream.getvalue()
