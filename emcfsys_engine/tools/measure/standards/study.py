"""One standard applied to a folder of masks: field after field, then a table, a page, a report."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import numpy as np
from scipy import ndimage

from emcfsys_engine.annotations.pairing import key_of_file
from emcfsys_engine.errors import InputError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.own_outputs import write_own
from emcfsys_engine.project import UNLABELLED
from emcfsys_engine.text import few
from emcfsys_engine.tools.measure.fields import SAME_SIZE, Field, Fields, Labels, open_fields
from emcfsys_engine.tools.measure.objects import Objects
from emcfsys_engine.tools.measure.results import MeasureSettings
from emcfsys_engine.tools.measure.standards.grain_size import grain_map, grain_sizes, measure_grains
from emcfsys_engine.tools.measure.standards.interval import FieldValue
from emcfsys_engine.tools.measure.standards.particle_sizes import (
    ENOUGH_FIELDS,
    Particles,
    border_weights,
    size_distributions,
)
from emcfsys_engine.tools.measure.standards.phase_fraction import (
    Phase,
    count_points,
    measure_areas,
    phase_fractions,
)
from emcfsys_engine.tools.measure.standards.results import (
    Calibration,
    Gathered,
    StandardReport,
    StandardSettings,
    table_of_rows,
)
from emcfsys_engine.tools.measure.tables import write_table
from emcfsys_engine.tools.report.charts import escaped, page, section, table
from emcfsys_engine.tools.report.sizes import (
    ObjectSizes,
    SizeMap,
    distribution_charts,
    map_files,
    map_pictures,
    small_map,
)

_MOST_MAPS = 4
_FEW_FIELDS = 5  # below, E112 and E562 ask for more
_HEAVY = 10.0  # times that one particle counts
_FAR_APART_G = 1.0
_MUCH_BOUNDARY = 0.25  # of the area: then it is a phase of its own


def need_one_scale(fields: Fields) -> None:
    """Check that every mask has a pixel size in nm, and all the same.

    Raises: InputError naming the file that has none, or two that differ.
    """
    if fields.without_size:
        what = "does not say how large its pixels are, and a standard's numbers are in nm"
        raise InputError(str(fields.without_size[0]), what, "Give --pixel-nm")
    sizes = list(fields.pixel_of.items())
    for mask, size in sizes[1:]:
        first, known = sizes[0]
        if any(abs(a / b - 1) > SAME_SIZE for a, b in zip(size, known, strict=True)):
            mine, other = (f"{y:.4g} × {x:.4g} nm" for y, x in (size, known))
            what = f"has pixels of {mine}, {first} has {other}: these are no fields of one kind"
            raise InputError(str(mask), what, "Measure each magnification by itself")


@dataclass(frozen=True, kw_only=True)
class Looked:
    """What one field says to a standard.

    Shapes: sizes and weights have one float64 a grain. Units: sizes are diameters in nm.
    """

    name: str
    shape: tuple[int, int]
    phases: tuple[Phase, ...] = ()
    values: Mapping[str, FieldValue] | None = field(default_factory=dict)  # None: it is no field
    sizes: np.ndarray | None = None
    weights: np.ndarray | None = None
    map: SizeMap | None = None
    notes: tuple[str, ...] = ()


class Study:
    """Gathers what a standard needs of each field, and reports on all of them."""

    def __init__(self, settings: MeasureSettings, standard: StandardSettings) -> None:
        self.settings = settings
        self.standard = standard
        self.gathered = Gathered(settings=standard)
        self.particles: dict[str, Particles] = {}
        self.grains: list[tuple[np.ndarray, np.ndarray]] = []  # sizes and weights, field by field
        self.maps: list[SizeMap] = []
        self.notes: list[str] = []
        self._num_mapped = 0

    def look(self, one: Field, labels: Labels, number: int) -> Looked:
        """Return what one field says; the same number draws the same lines and points."""
        shape = (one.ids.shape[0], one.ids.shape[1])
        seen = Looked(name=one.name, shape=shape)
        if self.standard.standard == "iso13322":
            return replace(seen, phases=tuple(_phases(one, labels, named=False)))
        rng = np.random.default_rng([self.standard.seed, number])
        if self.standard.standard == "e112":
            grains = self._grains_of(one, labels)
            seen = self._with_sizes(seen, one, grains)
            return replace(seen, values=measure_grains(grains, one.pixel, self.standard.lines, rng))
        phases = _phases(one, labels, named=self.settings.classes is not None)
        if self.standard.standard == "e562":
            values = count_points(one.ids, phases, self.standard.points, rng)
        else:
            values = measure_areas(one.ids, phases)
        notes = ("no labelled pixel was met: it is no field",) if values is None else ()
        return replace(seen, values=values, notes=notes)

    def take(self, seen: Looked, objects: Objects) -> None:
        """Add what one field said."""
        if self.standard.standard == "iso13322":
            for value, name in seen.phases:
                mine = self.particles.setdefault(name, Particles())
                mine.take(objects, objects.class_value == value, seen.shape)
            return
        if seen.values is not None:
            self.gathered.fields.append((seen.name, seen.values))
        if seen.sizes is not None and seen.weights is not None:
            self.grains.append((seen.sizes, seen.weights))
        if seen.map is not None and len(self.maps) < _MOST_MAPS:
            self.maps.append(seen.map)
        self.notes += [f"{seen.name}: {words}" for words in seen.notes]

    def report(self, book: OutputBook, calibration: Calibration | None) -> StandardReport:
        """Write the table and the page, and return what they say."""
        settings, rng = self.standard, np.random.default_rng(self.standard.seed)
        report = StandardReport(standard=settings.standard)
        if settings.standard == "e112":
            report = msgspec.structs.replace(
                report, grain_sizes=grain_sizes(self.gathered, calibration)
            )
        elif settings.standard == "iso13322":
            rows = [
                row
                for name, mine in self.particles.items()
                for row in size_distributions(
                    name, mine, relative_error=settings.relative_error, rng=rng
                )
            ]
            report = msgspec.structs.replace(report, size_distributions=tuple(rows))
        else:
            report = msgspec.structs.replace(
                report, phase_fractions=phase_fractions(self.gathered, calibration)
            )
        files: list[Path] = []
        if report.rows:
            made = table_of_rows(report.rows)
            files.append(write_table(book, settings.standard, made, self.settings.table))
            files += self._write_page(report, book)
        return msgspec.structs.replace(
            report,
            files=tuple(str(file) for file in files),
            num_validation_images=len(calibration.true) if calibration is not None else 0,
            notes=(
                *self.notes,
                *(calibration.notes if calibration is not None else ()),
                *self._warnings(report),
            ),
        )

    def _grains_of(self, field: Field, labels: Labels) -> np.ndarray:
        settings = self.settings
        return grain_map(
            field, labels.objects, split=settings.split, neck=settings.neck, min_px=settings.min_px
        )

    def _with_sizes(self, seen: Looked, one: Field, grains: np.ndarray) -> Looked:
        area_px = np.bincount(np.maximum(grains, 0).ravel())
        size_of = np.sqrt(4 * area_px * (one.pixel[0] * one.pixel[1]) / np.pi)
        if self._num_mapped < _MOST_MAPS:
            self._num_mapped += 1
            seen = replace(seen, map=small_map(one.name, grains, size_of))
        edges = (grains[0], grains[-1], grains[:, 0], grains[:, -1])
        whole = np.ones(area_px.size, bool)
        whole[np.maximum(np.concatenate(edges), 0)] = False
        whole[0] = False
        boxes = ndimage.find_objects(np.maximum(grains, 0))
        kept = [number for number in np.flatnonzero(whole) if area_px[number]]
        extents = [[side.stop - side.start for side in boxes[number - 1]] for number in kept]
        down, right = np.array(extents, np.int64).reshape(-1, 2).T
        weights = border_weights(down, right, seen.shape)
        boundary = float((grains == 0).mean())
        words = (
            f"{100 * boundary:.0f} % of the area is between the grains: E112 "
            "takes it for their boundaries. Name the class that is, with --background"
        )
        notes = (words,) if boundary > _MUCH_BOUNDARY else ()
        return replace(seen, sizes=size_of[kept], weights=weights, notes=notes)

    def _write_page(self, report: StandardReport, book: OutputBook) -> list[Path]:
        charts = distribution_charts(self._sizes())
        words, pictures = map_files(self.maps)
        if not charts and not pictures:
            return []
        first, *rows = report.text.split("\n")
        body = (
            f"<h1>{escaped(first)}</h1>"
            + table([""], [[row] for row in rows])
            + section("Sizes", charts)
            + section("Grains by size", map_pictures(words, self.maps, pictures))
        )
        file = book.out / f"{report.standard}.html"
        files = [write_own(file, page(first, body).encode("utf-8", "replace"), book)]
        for number, content in enumerate(pictures, start=1):
            files.append(write_own(book.out / f"grain-map-{number}.png", content, book))
        for number in range(len(pictures) + 1, _MOST_MAPS + 1):  # of a measurement before
            book.remove(book.out / f"grain-map-{number}.png", of_image=False)
        return files

    def _sizes(self) -> list[ObjectSizes]:
        found = [
            ObjectSizes(
                name=name,
                size=np.concatenate(mine.sizes["equivalent_diameter"]),
                weight=np.concatenate(mine.weights),
            )
            for name, mine in self.particles.items()
        ]
        if self.grains:
            sizes, weights = (np.concatenate(parts) for parts in zip(*self.grains, strict=True))
            found.append(ObjectSizes(name="grains", size=sizes, weight=weights))
        return found

    def _warnings(self, report: StandardReport) -> list[str]:
        if self.standard.standard == "iso13322":
            said = [word for name, mine in self.particles.items() for word in _edge(name, mine)]
            num = max((len(mine.weights) for mine in self.particles.values()), default=0)
            if 1 < num < ENOUGH_FIELDS:
                said.append(
                    f"{num} fields: the intervals know nothing of differences between them; "
                    f"{ENOUGH_FIELDS} or more do"
                )
            return said if self.particles else ["no particles were found: no sizes"]
        num, said = len(self.gathered.fields), list[str]()
        if num == 1:
            said.append("one field: its interval says how much the field varies, not the material")
        elif num < _FEW_FIELDS:
            said.append(f"{num} fields: the standard asks for {_FEW_FIELDS} or more")
        if any(row.g is None for row in report.grain_sizes if not row.mask):
            said.append("no boundary was met or no grain counted: no grain size by that method")
        for phase in dict.fromkeys(row.phase for row in report.phase_fractions):
            rows = [row for row in report.phase_fractions if row.phase == phase and row.mask]
            without = sum(row.fraction == 0 for row in rows)
            if without == len(rows):
                said.append(f"{phase}: no field holds any: nothing says how rare it is")
            if 0 < without < len(rows):
                said.append(
                    f"{phase}: {without} of {len(rows)} fields hold none of it: for something so "
                    "rare the interval holds less often than 95 times of 100. Take larger fields"
                )
        found = {row.method: row.g for row in report.grain_sizes if not row.mask}
        crossed, counted = found.get("lines"), found.get("planimetric")
        if crossed is not None and counted is not None and crossed - counted > _FAR_APART_G:
            said.append(
                f"lines say G {crossed:.2f}, counted grains {counted:.2f}: boundaries with gaps "
                "join grains, which lines feel less"
            )
        return said


def _edge(name: str, particles: Particles) -> list[str]:
    """Return what should be known of the frame's edge."""
    weights = np.concatenate(particles.weights)
    if not weights.size:
        return [f"{name}: none lies whole within a field: no sizes"]
    said: list[str] = []
    if particles.num_cut:
        said.append(
            f"{name}: the frame cuts {particles.num_cut:,}, which are not measured: whole ones "
            "count for them"
        )
    if weights.max() > _HEAVY:
        said.append(
            f"{name}: the largest nearly fill the frame, one counts {weights.max():,.0f} times: "
            "take fields many times larger than the particles"
        )
    return said


def _phases(field: Field, labels: Labels, *, named: bool) -> list[Phase]:
    """Return the phases that a field has, and where people named them also those it lacks."""
    there = set(np.unique(field.ids).tolist())
    return [
        (value, name)
        for value, name in labels.names
        if value in labels.objects and (named or value in there)
    ]


def calibrate(study: Study, predicted: str, true: str, out: Path, base: Path) -> Calibration:
    """Measure validation images twice: as the model labelled them, and as people did.

    Raises: InputError when the two do not pair, fewer than two do, or the standard has no means.
    """
    if study.standard.standard == "iso13322":
        what = "corrects means and fractions, and iso13322 gives percentiles"
        raise InputError("--calibrate", what, "Leave it out, or use e112, e562 or e1245")
    ours = open_fields(predicted, out, study.settings, images=None, base=base)
    theirs = open_fields(true, out, study.settings, images=None, base=base)
    if study.standard.standard == "e112":
        need_one_scale(ours)
    other = {_key(theirs, mask): mask for mask in theirs.items.masks}
    pairs = [
        (mask, other[_key(ours, mask)]) for mask in ours.items.masks if _key(ours, mask) in other
    ]
    if len(pairs) < 2:
        what = f"{len(pairs)} of {len(ours.items.masks)} predictions have a true mask of {true}"
        raise InputError(predicted, what, "Two or more are needed: give both the same names")
    measuring = Study(study.settings, study.standard)
    mine: list[Mapping[str, FieldValue]] = []
    its: list[Mapping[str, FieldValue]] = []
    for number, (guess, truth) in enumerate(pairs):
        first, second = ours.read(guess), theirs.read(truth)
        first = _where_labelled(guess, first, second)
        second = second.of_size(first.pixel)  # labels that people drew often have no scale
        guessed = measuring.look(first, ours.labels, number).values
        drawn = measuring.look(second, theirs.labels, number).values
        if guessed is not None and drawn is not None:
            mine.append(guessed)
            its.append(drawn)
    if len(mine) < 2:
        what = f"{len(mine)} of {len(pairs)} pairs have labelled pixels in both masks"
        raise InputError(true, what, "Two or more are needed: name masks that say something")
    made = [truth.path.name for _, truth in pairs if truth in theirs.items.of_models]
    why = "a correction by them tells how alike models are, not how right"
    of_all = f"{true}: {len(made)} of {len(pairs)} true masks are as a model made them"
    notes = [f"{of_all} ({few(made, 3)}): {why}"] if made else []
    return Calibration(predicted=mine, true=its, notes=notes)


def _where_labelled(mask: ImageRef, predicted: Field, true: Field) -> Field:
    """Return a prediction without what nobody labelled: elsewhere the two cannot be compared.

    Raises: InputError when they differ in size.
    """
    if predicted.ids.shape != true.ids.shape:
        sizes = (f"{one.ids.shape[1]}×{one.ids.shape[0]} px" for one in (predicted, true))
        what = "is {}, its true mask {}".format(*sizes)
        raise InputError(str(mask), what, "Name true masks of the same images")
    ids = np.where(true.ids == UNLABELLED, np.uint8(UNLABELLED), predicted.ids)
    return replace(predicted, ids=ids)


def _key(fields: Fields, mask: ImageRef) -> object:
    return key_of_file(mask.path, fields.items.root, mask.plane)
