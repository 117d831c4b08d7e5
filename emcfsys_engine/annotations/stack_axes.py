"""How the planes of an image file are counted: channels, slices, frames."""

import contextlib
from pathlib import Path

import tifffile

from emcfsys_engine.annotations.stack_place import StackAxes
from emcfsys_engine.errors import InputError
from emcfsys_engine.images.bounds import quiet_libraries
from emcfsys_engine.images.reader import probe


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
