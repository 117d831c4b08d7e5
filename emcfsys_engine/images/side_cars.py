"""Text files that microscopes write beside an image, with its scale: Hitachi, JEOL, TESCAN."""

import os
import re
from pathlib import Path

from emcfsys_engine.images.micrograph import nm_per, square_nm
from emcfsys_engine.suffixes import SIDE_CAR_SUFFIXES

_MOST_BYTES = 1 << 16
_PICTURES = frozenset({".tif", ".tiff", ".bmp", ".png", ".jpg", ".jpeg"})
_Size = tuple[float, float] | None
_GROUPED = re.compile(r"[1-9]\d{0,2}(?:,\d{3})+")
_LENGTH = re.compile(r"([\d.,]+)\s*([a-zA-Zµμ]+)")


def pixel_nm_beside(path: Path, size_HW: tuple[int, int]) -> tuple[float, float] | None:
    """Return the pixel size that a text file beside a picture states; None where none does.

    `size_HW`: of the picture, in pixels; a table of another size is not of this picture.
    Units: nm, (y, x).
    """
    if path.suffix.lower() not in _PICTURES:
        return None
    for text in map(_text_of, _places(path)):
        keys = _keys_of(text)
        for read in (_hitachi, _jeol, _tescan):
            if (found := read(text, keys, size_HW)) is not None:
                return found
    return None


def pictures_of(side_car: str) -> list[str]:
    """Return the pictures that a text file may lie beside, by their paths."""
    stem, suffix = os.path.splitext(side_car)  # noqa: PTH122 - of any bytes, for each of 100,000
    if suffix.lower() not in SIDE_CAR_SUFFIXES:
        return []
    endings = [one for ending in sorted(_PICTURES) for one in (ending, ending.upper())]
    found = [stem + ending for ending in endings]
    if suffix == ".hdr":
        found += [
            f"{stem[: -len(ending)]}{ending}"
            for ending in endings
            if stem.endswith(f"-{ending[1:]}")
        ]
    return found


def _places(path: Path) -> list[Path]:
    """TESCAN writes image.hdr or image-tif.hdr, the others image.txt."""
    hyphened = path.with_name(f"{path.stem}-{path.suffix[1:]}.hdr")
    return [path.with_suffix(".txt"), path.with_suffix(".hdr"), hyphened]


def _text_of(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            data = stream.read(_MOST_BYTES)
    except OSError:
        return ""
    coding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    return data.decode(coding, "replace")


def _keys_of(text: str) -> dict[str, str]:
    """Return the lines of a table, key=value or, as JEOL has them, "$$KEY value"."""
    keys: dict[str, str] = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if not equals and line.startswith("$"):
            key, _, value = line.partition(" ")
        keys.setdefault(key.strip(), value.strip())
    return keys


def _hitachi(text: str, keys: dict[str, str], size_HW: tuple[int, int]) -> _Size:
    if "[SemImageFile]" not in text or not _is_of(keys.get("DataSize", ""), size_HW):
        return None
    side = _number(keys.get("PixelSize", ""))
    return square_nm(side, side, "nm") if side else None


def _jeol(text: str, keys: dict[str, str], size_HW: tuple[int, int]) -> _Size:
    if "$CM_FORMAT" not in keys or not _is_of(keys.get("$CM_FULL_SIZE", ""), size_HW):
        return None
    bar_px = _number(keys.get("$$SM_MICRON_BAR", ""))
    marker = _LENGTH.match(keys.get("$$SM_MICRON_MARKER", ""))
    if marker is not None and _GROUPED.fullmatch(marker[1]):
        return None  # a thousand, or one and no decimals: never a guess
    per, length = (nm_per(marker[2]), _number(marker[1])) if marker else (None, None)
    if not bar_px or not length or per is None:
        return None
    return square_nm(length * per / bar_px, length * per / bar_px, "nm")


def _tescan(text: str, keys: dict[str, str], size_HW: tuple[int, int]) -> _Size:
    across, down = _number(keys.get("PixelSizeX", "")), _number(keys.get("PixelSizeY", ""))
    return (
        square_nm(down, across, "m") if across and ("[MAIN]" in text or "[SEM]" in text) else None
    )


def _is_of(words: str, size_HW: tuple[int, int]) -> bool:
    """Tell whether "1280x960" or "1280 960" is the size of the picture; one not said may be."""
    numbers = [int(number) for number in re.findall(r"\d+", words)]
    return len(numbers) < 2 or (numbers[1], numbers[0]) == size_HW


def _number(words: str) -> float | None:
    """Return a number, with a decimal comma as well; None where it is none."""
    try:
        return float(words.replace(",", "."))
    except ValueError:
        return None
