"""The numbers of a hot folder's images over time: what charts and reports are drawn from."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from statistics import fmean

import msgspec

from emcfsys_engine import any_names
from emcfsys_engine.files import kept_ns
from emcfsys_engine.hotfolder.judged import verdict_by
from emcfsys_engine.hotfolder.review import reading
from emcfsys_engine.hotfolder.tables import has_table
from emcfsys_engine.text import moment
from emcfsys_engine.trends import (
    Limits,
    Shift,
    Signal,
    baseline_limits,
    ewma,
    shifts,
    signals,
)
from emcfsys_engine.verdicts import OF_MICROGRAPHS

MOST = 5000  # newest images that are looked at: a chart has fewer columns
_LEAST = 5  # images of a recipe between those of others, before a change is told
_QUERY = """
SELECT path, mtime_ns, numbers, judged.state, word, recipe, grp
FROM seen INDEXED BY seen_ages JOIN judged USING (path) LEFT JOIN made USING (path)
WHERE judged.digest = seen.digest AND seen.state IN ('done', 'skipped') AND mtime_ns >= ?
ORDER BY mtime_ns DESC LIMIT ?
"""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One image with its numbers."""

    path: str
    time: float  # its file was last written. Units: seconds since 1970
    numbers: dict[str, float]  # of a stack, the means over its planes
    verdict: str
    group: str | None
    recipe: str


@dataclass(frozen=True, kw_only=True)
class Change:
    """Another recipe is followed from an image on."""

    place: int
    before: str
    after: str


@dataclass(frozen=True, kw_only=True)
class Trend:
    """One number over time with its control chart: each recipe's images have limits of their own.

    What another recipe makes is another number: mixed, its limits would be those of neither.
    Numbers of the micrograph itself are of no recipe: a defocus is told, whatever changes with it.
    """

    name: str
    images: tuple[Measured, ...]  # oldest first
    values: tuple[float, ...]
    limits: tuple[Limits, ...]  # of each image: by the first ones, of its recipe where that counts
    signals: tuple[Signal, ...]
    ewma: tuple[float, ...]
    shifts: tuple[Shift, ...]
    changes: tuple[Change, ...]

    def told(self) -> list[tuple[float, str]]:
        """Return each change with its time, oldest first: what became what, from which image on."""
        told: list[tuple[int, str]] = []
        for one in self.shifts:
            moved = "rose" if one.after > one.before else "fell"
            words = f"{self.name} {moved} from {one.before:.4g} to {one.after:.4g}"
            told.append((one.place, words))
        told += [
            (one.place, f"{recipe_words(one.after)} instead of {recipe_words(one.before)}")
            for one in self.changes
        ]
        return [
            (self.images[place].time, self._since(place, words)) for place, words in sorted(told)
        ]

    def _since(self, place: int, words: str) -> str:
        image = self.images[place]
        return f"{words} at {moment(image.time, '%Y-%m-%d %H:%M:%S')}, from {image.path} on"

    def levels(self) -> list[tuple[str, list[tuple[float, float]]]]:
        """Return lower limit, centre and upper limit by name, as lines with a step a recipe."""
        return [
            ("-3 deviations", self._line([one.low for one in self.limits])),
            ("centre", self._line([one.centre for one in self.limits])),
            ("+3 deviations", self._line([one.high for one in self.limits])),
        ]

    def _line(self, heights: Sequence[float]) -> list[tuple[float, float]]:
        line: list[tuple[float, float]] = []
        for height, places in groupby(range(len(heights)), heights.__getitem__):
            stretch = [*places]
            line += [(self.images[end].time, height) for end in (stretch[0], stretch[-1])]
        return line


def read_series(output: Path, *, since: float = 0.0, most: int = MOST) -> list[Measured]:
    """Return the newest images that were judged or could be, oldest first.

    Their order is that of the times of their files: a clock that was set back puts them back, too.
    Raises: InputError for a ledger that cannot be read.
    """
    with reading(output) as db:
        if db is None or not has_table(db, "made"):
            return []  # of an older version: the next watch brings it up to date
        rows = db.execute(_QUERY, (kept_ns(int(since * 1e9)), most)).fetchall()
    found: list[Measured] = []
    for path, mtime_ns, numbers, state, word, recipe, group in reversed(rows):
        try:
            planes = any_names.decode(os.fsencode(numbers), dict[str, dict[str, float]])
        except msgspec.MsgspecError:
            continue  # a damaged line has no numbers
        found.append(
            Measured(
                path=os.fsdecode(path),
                time=mtime_ns / 1e9,
                numbers=_means(planes.values()),
                verdict=verdict_by(state, word),
                group=None if group is None else os.fsdecode(group),
                recipe=recipe or "",
            )
        )
    return found


def _means(planes: Iterable[dict[str, float]]) -> dict[str, float]:
    several = list(planes)
    if len(several) == 1:
        return several[0]
    names = dict.fromkeys(name for one in several for name in one)
    return {name: fmean(one[name] for one in several if name in one) for name in names}


def names_in(images: Sequence[Measured]) -> list[str]:
    """Return the numbers that images have, in the order in which they came."""
    return list(dict.fromkeys(name for one in images for name in one.numbers))


def trend_of(images: Sequence[Measured], name: str) -> Trend | None:
    """Return a number's control chart, by the first images as what is known as good.

    None where fewer than two images have it.
    """
    known = tuple(one for one in images if name in one.numbers)
    values = tuple(one.numbers[name] for one in known)
    if len(values) < 2:
        return None
    limits: dict[int, Limits] = {}
    means: dict[int, float] = {}
    broken: list[Signal] = []
    moved: list[Shift] = []
    for places in _places_by_recipe(known, name):
        own = [values[place] for place in places]
        expected = baseline_limits(own)
        limits |= dict.fromkeys(places, expected)
        means |= zip(places, ewma(own, expected).means, strict=True)
        broken += [replace(one, place=places[one.place]) for one in signals(own, expected)]
        moved += [replace(one, place=places[one.place]) for one in shifts(own)]
    return Trend(
        name=name,
        images=known,
        values=values,
        limits=tuple(limits[place] for place in range(len(known))),
        signals=tuple(sorted(broken, key=lambda one: one.place)),
        ewma=tuple(means[place] for place in range(len(known))),
        shifts=tuple(sorted(moved, key=lambda one: one.place)),
        changes=tuple(_changes(known)),
    )


def _places_by_recipe(images: Sequence[Measured], name: str) -> Iterable[list[int]]:
    if name in OF_MICROGRAPHS:
        return [[*range(len(images))]]
    places: dict[str, list[int]] = {}
    for place, one in enumerate(images):
        places.setdefault(one.recipe, []).append(place)
    return places.values()


def _changes(images: Sequence[Measured]) -> list[Change]:
    """Return where another recipe is followed; single images between others tell none."""
    found: list[Change] = []
    last: str | None = None
    for recipe, places in groupby(range(len(images)), lambda place: images[place].recipe):
        stretch = [*places]
        if len(stretch) < _LEAST and stretch[0] > 0 and stretch[-1] < len(images) - 1:
            continue
        if last is not None and recipe != last:
            found.append(Change(place=stretch[0], before=last, after=recipe))
        last = recipe
    return found


def recipe_words(recipe: str) -> str:
    """Return a recipe as charts name it; "" is none."""
    return f"recipe {recipe[:8]}" if recipe else "no recipe"


def parts_of(images: Sequence[Measured]) -> dict[str, list[Measured]]:
    """Return images by group, then by recipe, in words; where all are of one there is no part."""
    groups: dict[str, list[Measured]] = {}
    recipes: dict[str, list[Measured]] = {}
    for one in images:
        words = "no group" if one.group is None else f"group {one.group}"
        groups.setdefault(words, []).append(one)
        recipes.setdefault(recipe_words(one.recipe), []).append(one)
    several = [parts for parts in (groups, recipes) if len(parts) > 1]
    return {words: members for parts in several for words, members in parts.items()}
