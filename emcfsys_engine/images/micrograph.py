"""What a micrograph is here: pixels, their size in nm, and where they came from."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np


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


@dataclass(frozen=True, kw_only=True, order=True)
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
