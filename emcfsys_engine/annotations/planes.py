"""Where in a stack a shape lies, and how the planes of a file are counted."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

import tifffile

from emcfsys_engine.errors import InputError
from emcfsys_engine.images.damaged_files import quiet_libraries
from emcfsys_engine.images.reader import probe


@dataclass(frozen=True, kw_only=True)
class StackPlace:
    """A place in a stack, counted from 1; 0 is every one, as in ImageJ.

    `index` counts all planes of the file in a row; the others count along one axis each.
    """

    index: int = 0
    channel: int = 0
    slice: int = 0
    frame: int = 0

    @property
    def words(self) -> str:
        """The place in words: "channel 2, slice 3"."""
        parts = (
            ("plane", self.index),
            ("channel", self.channel),
            ("slice", self.slice),
            ("frame", self.frame),
        )
        return ", ".join(f"{name} {number}" for name, number in parts if number) or "every plane"


@dataclass(frozen=True, kw_only=True)
class StackAxes:
    """How the planes of a file are counted: the slowest axis first.

    Shapes: axes are (letter, length); C, Z and T as in tifffile, any other letter is not asked for.
    """

    axes: tuple[tuple[str, int], ...]
    colours: int = 1  # channels inside each plane

    @property
    def num_planes(self) -> int:
        """How many planes there are."""
        total = 1
        for _, length in self.axes:
            total *= length
        return total

    def has(self, place: StackPlace, plane: int) -> bool:
        """Tell whether a place means this plane, counted from 0."""
        if not self.contains(place):
            return False
        wanted = self._wanted(place)
        rest = plane
        for letter, length in reversed(self.axes):
            rest, here = divmod(rest, length)
            if wanted.get(letter, 0) not in (0, here + 1):
                return False
        return place.index in (0, plane + 1)

    def contains(self, place: StackPlace) -> bool:
        """Tell whether a place lies in the stack at all."""
        lengths = dict(self.axes)
        inside = all(
            number <= lengths.get(letter, 1) for letter, number in self._wanted(place).items()
        )
        return inside and place.index <= self.num_planes

    def _wanted(self, place: StackPlace) -> dict[str, int]:
        """Return letter -> number from 1, 0 for any.

        Of a stack with one long axis whose letter says nothing, slice or frame is that axis.
        """
        named = {"C": place.channel, "Z": place.slice, "T": place.frame}
        letters = {letter for letter, length in self.axes if length > 1}
        if len(letters) == 1 and "C" not in letters:
            # ImageJ calls the axis of a plain stack slices; a file may call it time, or nothing.
            (only,) = letters
            named = {"C": place.channel, only: max(place.slice, place.frame)}
        if "C" not in letters and place.channel <= max(1, self.colours):
            named.pop("C")
        return named


def axes_of(path: Path) -> StackAxes:
    """Return how the planes of an image file are counted; one plane when it cannot be read."""
    try:
        facts = probe(path)
    except InputError:
        return StackAxes(axes=())
    colours = facts.shape[2] if len(facts.shape) > 2 else 1
    if facts.planes > 1 and facts.format.startswith("TIFF"):
        named = _axes_of_tiff(path, facts.planes)
        if named:
            return StackAxes(axes=named, colours=colours)
    return StackAxes(axes=(("I", facts.planes),) if facts.planes > 1 else (), colours=colours)


def _axes_of_tiff(path: Path, planes: int) -> tuple[tuple[str, int], ...]:
    """Return the axes before Y and X of the first series, when they count all planes."""
    with contextlib.suppress(Exception), quiet_libraries(), tifffile.TiffFile(path) as tiff:
        # Whatever tifffile cannot make of a file, the reader has said already.
        series = tiff.series[0]
        found = tuple(
            (letter, length)
            for letter, length in zip(series.axes, series.shape, strict=True)
            if letter not in "YXS"
        )
        if StackAxes(axes=found).num_planes == planes:
            return found
    return ()
