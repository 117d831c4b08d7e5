"""The numbers of a hot folder's images over time: what charts and reports are drawn from."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import msgspec

from emcfsys_engine import any_names
from emcfsys_engine.hotfolder.judged import verdict_by
from emcfsys_engine.hotfolder.made import has_groups
from emcfsys_engine.hotfolder.review import reading
from emcfsys_engine.text import moment
from emcfsys_engine.trends import (
    Ewma,
    Limits,
    Shift,
    Signal,
    baseline_limits,
    ewma,
    shifts,
    signals,
)

MOST = 5000  # newest images that are looked at: a chart has fewer columns
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
class Trend:
    """One number over time with its control chart, of the images of one group and recipe."""

    name: str
    images: tuple[Measured, ...]  # oldest first
    values: tuple[float, ...]
    limits: Limits
    signals: tuple[Signal, ...]
    ewma: Ewma
    shifts: tuple[Shift, ...]

    def told(self) -> list[str]:
        """Return each shift in words: from what to what, when, and from which image on."""
        return [
            f"{self.name} {'rose' if one.after > one.before else 'fell'} from {one.before:.4g} to"
            f" {one.after:.4g} at {moment(self.images[one.place].time, '%Y-%m-%d %H:%M:%S')},"
            f" from {self.images[one.place].path} on"
            for one in self.shifts
        ]


def read_series(output: Path, *, since: float = 0.0, most: int = MOST) -> list[Measured]:
    """Return the newest images that were judged or could be, oldest first.

    Their order is that of the times of their files: a clock that was set back puts them back, too.
    Raises: InputError for a ledger that cannot be read.
    """
    with reading(output) as db:
        if db is None or not has_groups(db):
            return []  # of an older version: the next watch brings it up to date
        rows = db.execute(_QUERY, (int(since * 1e9), most)).fetchall()
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
    limits = baseline_limits(values)
    return Trend(
        name=name,
        images=known,
        values=values,
        limits=limits,
        signals=tuple(signals(values, limits)),
        ewma=ewma(values, limits),
        shifts=tuple(shifts(values)),
    )


def parts_of(images: Sequence[Measured]) -> dict[tuple[str | None, str], list[Measured]]:
    """Return images by group and recipe, each a series of its own."""
    parts: dict[tuple[str | None, str], list[Measured]] = {}
    for one in images:
        parts.setdefault((one.group, one.recipe), []).append(one)
    return parts
