"""Lengths as microscopes write them, in nm; anything that is no length is refused."""

import math

_NM = {
    "m": 1e9,
    "meter": 1e9,
    "metre": 1e9,
    "cm": 1e7,
    "mm": 1e6,
    "millimeter": 1e6,
    "um": 1e3,
    "micron": 1e3,
    "microns": 1e3,
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
    if word == "A":
        return 0.1
    return _NM.get(word if word in ("m", "mm") else word.lower().removesuffix("."))


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
