"""Fewer changes of colour along a line of cells: they are what a picture costs on a slow line.

A half-block of the two colours that the terminal holds costs 3 bytes, one of two others 23. Greys
of a noisy micrograph differ from cell to cell by what nobody sees. Here each cell takes the greys
that cost least: bytes, and the squared error times a price that falls until the picture fits.
"""

from collections.abc import Iterator, Sequence, Set
from typing import NamedTuple, Self

import numpy as np

_BYTES_A_CELL = 5.0
_FEW_BYTES = 4800  # that any picture may cost: with the rest of a key in Data less than 6 kB
_PRICES = (0.1, 0.04, 0.02, 0.012, 0.008, 0.004, 0.003)  # with the last it is still a micrograph
_TOLERANCE = 64  # of 256 greys: an edge stays an edge
_SAMPLE = 4  # the price is found on every fourth line of cells
_STATES = 3  # so many ways to write a line are followed
_AHEAD = 4  # cells whose mean grey may stand for all of them
_LEVELS = 24  # greys that a terminal has
_CHANGED = (0, 11, 20)  # bytes of SGR for no, one or two other colours
_COLOURED = 256  # and above: colours, which stay as they are


class _Way(NamedTuple):
    """One way to write the cells of a line so far."""

    cost: float = 0.0  # bytes and the price of errors
    num_bytes: int = 0
    fore: int = -1
    back: int = -1
    cell: tuple[int, int] = (0, 0)  # the last one: its upper and its lower half
    before: Self | None = None


def calmed(grey_HW: np.ndarray, colour_HW: np.ndarray | None = None) -> np.ndarray:
    """Return the greys of a picture in half-blocks, calm enough for about five bytes a cell.

    Shapes: uint8 H×W, H even; `colour_HW` has a number for each colour that lies over it, else 0.
    """
    steps_HW = np.rint(grey_HW * ((_LEVELS - 1) / 255))
    wanted_HW = np.rint(steps_HW * (255 / (_LEVELS - 1))).astype(int)
    if colour_HW is not None:
        wanted_HW = np.where(colour_HW > 0, _COLOURED + colour_HW.astype(int), wanted_HW)
    lines = list(zip(wanted_HW[::2].tolist(), wanted_HW[1::2].tolist(), strict=False))
    sample = lines[_SAMPLE // 2 :: _SAMPLE] or lines
    num_cells = grey_HW.shape[1] * max(1, len(lines))
    most_bytes = max(_BYTES_A_CELL * num_cells, _FEW_BYTES) * len(sample) / max(1, len(lines))

    def num_bytes(price: float) -> int:
        return sum(_cheapest(*line, price).num_bytes for line in sample)

    price = next((one for one in _PRICES[:-1] if num_bytes(one) <= most_bytes), _PRICES[-1])
    made_HW = wanted_HW
    for number, line in enumerate(lines):
        made_HW[2 * number : 2 * number + 2] = _halves(_cheapest(*line, price))
    return np.where(made_HW < _COLOURED, made_HW, grey_HW).astype(np.uint8)


def _cheapest(upper: Sequence[int], lower: Sequence[int], price: float) -> _Way:
    """Return the cheapest way to write a line of cells that is found."""
    ways = [_Way()]
    for place, (top, bottom) in enumerate(zip(upper, lower, strict=True)):
        best: dict[tuple[int, int], _Way] = {}
        means = {_mean_grey(line[place : place + _AHEAD]) for line in (upper, lower)}
        for way in ways:
            for longer in _longer(way, top, bottom, means, price):
                known = best.get(longer[2:4])
                if known is None or longer[0] < known[0]:
                    best[longer[2:4]] = longer
        ways = sorted(best.values(), key=lambda way: way[0])[:_STATES]
    return ways[0]


def _mean_grey(values: Sequence[int]) -> int:
    """Return the terminal's grey that is nearest to the mean of these; -1 where there is none."""
    greys = [value for value in values if value < _COLOURED]
    if not greys:
        return -1
    step = 255 / (_LEVELS - 1)
    return round(round(sum(greys) / len(greys) / step) * step)


def _longer(way: _Way, top: int, bottom: int, means: Set[int], price: float) -> Iterator[_Way]:
    """Return the ways to write one cell more."""
    fore, back = way.fore, way.back
    known = {fore, back, *means}
    for a, a_error in _choices(top, known):
        for b, b_error in _choices(bottom, known):
            blank = ((fore, a, 1), (a, back, 3))  # an empty cell, a full one
            halves = ((a, b, 3), (b, a, 3))  # the upper half-block, the lower one
            for new_fore, new_back, num_bytes in blank if a == b else halves:
                num_bytes += _CHANGED[(new_fore != fore) + (new_back != back)]
                cost = way.cost + num_bytes + price * (a_error + b_error)
                yield _Way(cost, way.num_bytes + num_bytes, new_fore, new_back, (a, b), way)


def _choices(wanted: int, known: Set[int]) -> list[tuple[int, int]]:
    """Return the colours that a half of a cell may take, with their squared errors."""
    found = [(wanted, 0)]
    if wanted < _COLOURED:
        for one in known:
            error = abs(one - wanted)
            if 0 <= one < _COLOURED and 0 < error <= _TOLERANCE:
                found.append((one, error * error))
    return found


def _halves(way: _Way) -> tuple[list[int], list[int]]:
    """Return the upper and the lower halves of a line's cells."""
    cells: list[tuple[int, int]] = []
    while way.before is not None:
        cells.append(way.cell)
        way = way.before
    return [upper for upper, _ in reversed(cells)], [lower for _, lower in reversed(cells)]
