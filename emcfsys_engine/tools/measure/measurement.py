"""What is asked of a measurement, and what comes back."""

from typing import Literal

import msgspec

from emcfsys_engine.tools.measure.objects import Split
from emcfsys_engine.tools.measure.tables import TableFormat, Unit
from emcfsys_engine.tools.measure.watershed import NECK

HistogramOf = Literal["diameter", "area", "feret", "circularity", "neighbour", "none"]


class MeasureSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How masks are measured. Units: pixel_nm is (y, x); min_px counts pixels."""

    classes: dict[str, int] | None = None  # name -> value; None: as the masks' values say
    background: str | None = None  # the class without objects; None: the lowest value; "none"
    pixel_nm: tuple[float, float] | None = None  # goes before what the files say
    fallback_nm: float | None = None  # where the files say nothing
    split: Split = "none"
    neck: float = NECK
    min_px: int = 1
    exclude_border: bool = False
    table: TableFormat = "csv"
    histogram: HistogramOf = "diameter"


class ClassSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One class over all images. Units: diameters and areas in the measurement's unit."""

    name: str
    value: int
    num_objects: int
    area_fraction: float | None  # of all labelled area together
    area: float
    mean_diameter: float | None = None
    sd_diameter: float | None = None
    median_diameter: float | None = None
    mean_neighbour: float | None = None


class NotMeasured(msgspec.Struct, frozen=True, kw_only=True):
    """A mask that could not be measured."""

    file: str
    why: str


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured and where it was written."""

    unit: Unit
    num_masks: int
    num_objects: int
    objects_file: str  # empty when no mask could be measured
    images_file: str
    histograms: tuple[str, ...]
    classes: tuple[ClassSummary, ...]
    failed: tuple[NotMeasured, ...]
    notes: tuple[str, ...]

    @property
    def text(self) -> str:
        """A table of the classes for a terminal."""
        length = max([5, *(len(one.name) for one in self.classes)])
        head = f"{'class':<{length}}  {'objects':>8}  {'area %':>7}  "
        lines = [head + f"{'diameter mean ± SD, median':>30} ({self.unit})"]
        for one in self.classes:
            share = "–" if one.area_fraction is None else f"{100 * one.area_fraction:.2f}"
            spread = "–"
            if one.mean_diameter is not None:
                median = one.median_diameter or 0.0
                spread = f"{one.mean_diameter:.4g} ± {one.sd_diameter or 0.0:.3g}, {median:.4g}"
            lines.append(f"{one.name:<{length}}  {one.num_objects:>8,}  {share:>7}  {spread:>30}")
        lines.append(f"{self.num_objects:,} objects in {self.num_masks:,} masks")
        return "\n".join(lines)
