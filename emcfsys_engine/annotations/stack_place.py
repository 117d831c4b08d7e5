"""On which planes of a stack a shape lies, as ImageJ and QuPath say it."""

from dataclasses import dataclass


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

    @property
    def row_number(self) -> int:
        """The plane in a plain stack, counted from 1; 0 is every one."""
        return self.index or self.slice or self.frame


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
