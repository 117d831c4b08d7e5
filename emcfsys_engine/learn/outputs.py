"""Masks and their companions on the disk: how they are named, and how they are written whole."""

import io
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from emcfsys_engine.errors import InputError
from emcfsys_engine.images.micrograph import ImageRef, Micrograph
from emcfsys_engine.images.normalise import to_8_bit
from emcfsys_engine.model_card import ModelCard


class OutputNames:
    """Where each image's mask goes: the input's sub-folders are mirrored, no two share a name."""

    def __init__(
        self, out: Path, refs: Sequence[ImageRef], inputs: Sequence[str], suffix: str
    ) -> None:
        self._out = out
        self._suffix = suffix
        self._roots = sorted((Path(place) for place in inputs), key=lambda p: -len(p.parts))
        paths = {ref.path for ref in refs}
        self._stems = Counter(self._folder(path) / path.stem for path in paths)

    def mask_of(self, ref: ImageRef) -> Path:
        """Return the mask's file: `sub/x.png`, `sub/x.dm4.png` on a collision, `x.0012.png`."""
        place = self._folder(ref.path) / ref.path.stem
        stem = ref.path.name if self._stems[place] > 1 else ref.path.stem
        plane = "" if ref.plane is None else f".{ref.plane:04d}"
        return place.with_name(f"{stem}{plane}.{self._suffix}")

    def _folder(self, path: Path) -> Path:
        for root in self._roots:
            if root in path.parents:
                return self._out / path.parent.relative_to(root)
        return self._out


def companion(mask_file: Path, kind: str) -> Path:
    """Return the name of a mask's companion: `x.overlay.png`, `x.prob-<class>.png`."""
    return mask_file.with_name(f"{mask_file.stem}.{kind}.png")


def write_outputs(
    mask_file: Path,
    micrograph: Micrograph,
    mask_HW: np.ndarray,
    card: ModelCard,
    *,
    overlay: bool,
    probabilities: np.ndarray | None,
) -> None:
    """Write the companions, then the mask: a mask that is there means that all is there.

    Raises: InputError when the folder cannot be written or the disk is full.
    """
    try:
        mask_file.parent.mkdir(parents=True, exist_ok=True)
        if overlay:
            write_file(
                companion(mask_file, "overlay"), _overlaypng_bytes(micrograph, mask_HW, card)
            )
        if probabilities is not None:
            for name, plane in zip(card.classes, probabilities, strict=True):
                kind = f"prob-{name.replace('/', '_')}"
                write_file(companion(mask_file, kind), png_bytes(plane, None))
        write_file(mask_file, _encoded_mask(mask_file, mask_HW, micrograph.pixel_nm))
    except OSError as error:
        remedy = "Free some space or check the folder's permissions"
        raise InputError(mask_file, f"cannot be written: {error.strerror}", remedy) from None


def write_file(file: Path, content: bytes) -> None:
    """Write a file under a temporary name and rename it; a failure leaves nothing behind."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(file)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def blend(
    grey_HW: np.ndarray, mask_HW: np.ndarray, card: ModelCard, opacity: float = 0.4
) -> np.ndarray:
    """Return the micrograph with its classes laid over in colour; the first class stays grey.

    Shapes: grey is H×W uint8, mask H×W class values; the result is H×W×3 uint8.
    """
    colours = np.zeros((256, 3), np.float32)
    alpha = np.zeros(256, np.float32)
    for index, (value, colour) in enumerate(zip(card.class_values, card.colours, strict=True)):
        colours[value] = colour
        alpha[value] = opacity if index else 0.0
    weight_HW1 = alpha[mask_HW][..., None]
    mixed = grey_HW[..., None] * (1 - weight_HW1) + colours[mask_HW] * weight_HW1
    return mixed.astype(np.uint8)


def _overlaypng_bytes(micrograph: Micrograph, mask_HW: np.ndarray, card: ModelCard) -> bytes:
    grey = to_8_bit(micrograph.pixels, micrograph.info_bar_rows)
    if grey.ndim == 3:
        grey = grey.mean(axis=2).astype(np.uint8)
    return png_bytes(blend(grey, mask_HW, card), micrograph.pixel_nm)


def _encoded_mask(file: Path, mask_HW: np.ndarray, pixel_nm: tuple[float, float] | None) -> bytes:
    if file.suffix == ".png":
        return png_bytes(mask_HW, pixel_nm)
    stream = io.BytesIO()
    options: dict[str, Any] = {"compression": "zlib", "photometric": "minisblack"}
    if pixel_nm is not None:  # pixels a centimetre, (x, y)
        options["resolution"] = (1e7 / pixel_nm[1], 1e7 / pixel_nm[0])
        options["resolutionunit"] = "CENTIMETER"
    tifffile.imwrite(stream, mask_HW, **options)
    return stream.getvalue()


def png_bytes(pixels: np.ndarray, pixel_nm: tuple[float, float] | None = None) -> bytes:
    """Return a PNG; the pixel size stands in pHYs (pixels a metre) and, exactly, as text."""
    stream = io.BytesIO()
    info = PngInfo()
    options: dict[str, Any] = {}
    if pixel_nm is not None:
        info.add_text("pixel_nm", f"{pixel_nm[0]:.9g} {pixel_nm[1]:.9g}")
        per_metre = (round(1e9 / pixel_nm[1]), round(1e9 / pixel_nm[0]))
        if max(per_metre) < 2**32:
            options["dpi"] = (per_metre[0] * 0.0254, per_metre[1] * 0.0254)
    Image.fromarray(pixels).save(stream, "PNG", compress_level=3, pnginfo=info, **options)
    return stream.getvalue()
