"""What a micrograph is here: pixels, their size in nm, and where they came from."""

import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

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


def sides_words(pixel_nm: tuple[float, float]) -> str:
    """Return a pixel's width and height, or its side where it is square. Units: nm, (y, x)."""
    return " × ".join(dict.fromkeys(f"{side:.4g}" for side in reversed(pixel_nm)))


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

    Shapes: pixels are H×W, or H×W×C when the file itself is in colour; bool, integers or floats,
            as stored or a palette's uint8, in the machine's byte order.
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
    pixel_nm_each: tuple[tuple[float, float] | None, ...] = ()  # of the planes, where they differ

    def pixel_nm_of(self, plane: int | None) -> tuple[float, float] | None:
        """Return the pixel size of one plane."""
        if plane is None or not 0 <= plane < len(self.pixel_nm_each):
            return self.pixel_nm
        return self.pixel_nm_each[plane]


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


_NO_PLANE = -1


class ImageRefs(Sequence[ImageRef]):
    """Images in the order of a listing; each becomes an `ImageRef` when it is asked for."""

    @classmethod
    def of(cls, refs: Iterable[ImageRef]) -> "ImageRefs":
        """Return the same images, kept small."""
        return refs if isinstance(refs, ImageRefs) else cls(refs)

    def __init__(self, refs: Iterable[ImageRef] = ()) -> None:
        self._names: list[str] = []
        self._planes = array("q")
        for ref in refs:
            self.add(str(ref.path), ref.plane)

    def add(self, name: str, plane: int | None) -> None:
        """Take one more image, at the end. `name`: its path."""
        self._names.append(name)
        self._planes.append(_NO_PLANE if plane is None else plane)

    def sort(self) -> None:
        """Sort by names; planes of one file stay in the order in which they came."""
        if all(plane == _NO_PLANE for plane in self._planes):
            self._names.sort()
            return
        order = sorted(range(len(self)), key=self._names.__getitem__)
        self._names = [self._names[number] for number in order]
        self._planes = array("q", (self._planes[number] for number in order))

    def chosen(self, numbers: Iterable[int]) -> "ImageRefs":
        """Return some of these images, by their places in line."""
        found = ImageRefs()
        for number in numbers:
            found._names.append(self._names[number])
            found._planes.append(self._planes[number])
        return found

    def files(self) -> Iterator[tuple[int, str, int | None]]:
        """Yield place in line, name and plane of each image."""
        for number, (name, plane) in enumerate(zip(self._names, self._planes, strict=True)):
            yield number, name, None if plane == _NO_PLANE else plane

    def name_of(self, number: int) -> str:
        """Return the path of one image as text."""
        return self._names[number]

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, index: int) -> ImageRef: ...
    @overload
    def __getitem__(self, index: slice) -> "ImageRefs": ...
    def __getitem__(self, index: int | slice) -> "ImageRef | ImageRefs":
        if isinstance(index, slice):
            return self.chosen(range(len(self))[index])
        plane = self._planes[index]
        return ImageRef(path=Path(self._names[index]), plane=None if plane == _NO_PLANE else plane)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # pyright: ignore[reportAssignmentType] - it grows
