"""What a micrograph is here: pixels, their size in nm, and where they came from."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_NM = {
    "m": 1e9,
    "meter": 1e9,
    "metre": 1e9,
    "cm": 1e7,
    "mm": 1e6,
    "millimeter": 1e6,
    "millimetre": 1e6,
    "centimeter": 1e7,
    "centimetre": 1e7,
    "um": 1e3,
    "micron": 1e3,
    "micrometer": 1e3,
    "micrometre": 1e3,
    "nm": 1.0,
    "nanometer": 1.0,
    "nanometre": 1.0,
    "a": 0.1,
    "ang": 0.1,
    "angstrom": 0.1,
    "pm": 1e-3,
    "picometer": 1e-3,
    "fm": 1e-6,
}
_LARGEST_NM = 1e9  # a pixel of a metre is no micrograph's
_SMALLEST_NM = 1e-5


def nm_per(unit: str) -> float | None:
    """Return how many nm one of this unit is; None for 1/nm, eV, pixels and other non-lengths."""
    word = unit.strip().strip("[]").replace("n_m", "nm").replace("u_m", "um")
    word = word.replace("µ", "u").replace("μ", "u").replace("Å", "A").replace("Å", "A")
    word = word.replace("ö", "o")
    if word == "A":
        return 0.1
    if word not in ("m", "mm"):
        word = word.lower().removesuffix(".")
    return _NM.get(word, _NM.get(word.removesuffix("s")) if len(word) > 3 else None)


def square_nm(down: object, across: object, unit: str) -> tuple[float, float] | None:
    """Return (y, x) in nm, or None where it cannot be a pixel's size. One side alone is both."""
    per = nm_per(unit)
    if per is None or not isinstance(across, (int, float)):
        return None
    other = down if isinstance(down, (int, float)) else across
    sides = (abs(float(other)) * per, abs(float(across)) * per)
    if all(math.isfinite(s) and _SMALLEST_NM < s < _LARGEST_NM for s in sides):
        return sides
    return None


@dataclass(frozen=True, kw_only=True)
class Micrograph:
    """One plane of a file, as the microscope wrote it.

    Shapes: pixels are H×W, or H×W×C when the file itself is in colour.
    Units:  pixel_nm is (y, x); None when the file does not say, never a guess.
    """

    pixels: np.ndarray
    pixel_nm: tuple[float, float] | None
    source: str  # "file.mrc#12" for a plane of a stack
    bit_depth: int  # bits a pixel may use: 12 for a 12-bit camera in a 16-bit file
    info_bar_rows: int  # rows at the bottom painted by the microscope; 0 when there are none


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """What the headers of a file say about its planes, without reading pixels.

    Shapes: shape is that of one plane, (H, W) or (H, W, C).
    Units:  pixel_nm is (y, x).
    """

    path: Path
    format: str  # "TIFF (FEI)", "MRC", "PNG" …
    shape: tuple[int, ...]
    dtype: str
    planes: int
    pixel_nm: tuple[float, float] | None
    bit_depth: int
    info_bar_rows: int = 0  # only what the header knows; read_micrograph also looks at the pixels
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, order=True, slots=True)
class ImageRef:
    """One image: a file, or one plane of a stack. Planes count from 0."""

    path: Path
    plane: int | None = None

    def __str__(self) -> str:
        return str(self.path) if self.plane is None else f"{self.path}#{self.plane}"

    @property
    def name(self) -> str:
        """The file's name with its plane: `file.mrc#12`."""
        return self.path.name if self.plane is None else f"{self.path.name}#{self.plane}"
