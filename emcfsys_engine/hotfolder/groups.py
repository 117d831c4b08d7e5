"""By which recipe each image's mask was made, of which group it is, and how groups are judged."""

import os
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import msgspec

from emcfsys_engine import any_names
from emcfsys_engine.hotfolder.judged import Judged, read_judged
from emcfsys_engine.hotfolder.recipe import Recipe, differences, what_is_touched
from emcfsys_engine.hotfolder.tables import has_table
from emcfsys_engine.project_tables import Limit
from emcfsys_engine.text import how_many
from emcfsys_engine.verdicts import STATES, verdict_of

TABLES = """
CREATE TABLE IF NOT EXISTS made (
    path BLOB PRIMARY KEY,
    recipe TEXT NOT NULL,  -- its id; empty: none
    grp BLOB               -- its group's name; NULL: of none
);
CREATE INDEX IF NOT EXISTS made_recipes ON made (recipe);
CREATE INDEX IF NOT EXISTS made_groups ON made (grp);
CREATE TABLE IF NOT EXISTS recipes (  -- in the order in which they were followed
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, settings BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS grouping (expression BLOB NOT NULL, limits BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS groups (
    name BLOB PRIMARY KEY,
    told BLOB NOT NULL,     -- JSON: how it was judged last
    num_changes INTEGER NOT NULL -- of its images since it was told; 0: it is as told
);
CREATE TABLE IF NOT EXISTS former_groups (name BLOB PRIMARY KEY);  -- whose files are there yet
"""


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """How the images of one group were judged together."""

    name: str
    numbers: dict[str, float] = {}  # images, fail_share, NUMBER_mean, NUMBER_median …
    verdicts: dict[str, int] = {}  # of its images; "": not judged
    state: str = ""  # pass | review | fail; empty: there are no limits for groups
    reasons: tuple[str, ...] = ()
    announced: str | None = None  # the state that events and hooks told; None: of older ledgers

    @property
    def is_news(self) -> bool:
        """Whether it is judged otherwise than was told last."""
        return self.announced is not None and self.announced != self.state


@dataclass(frozen=True, kw_only=True)
class Touched:
    """What another recipe asks for."""

    told: str = ""  # in words; empty: it is the same as before
    predict: tuple[str, ...] = ()  # images whose masks are of other settings
    measure: tuple[str, ...] = ()  # images whose masks stay, and that are measured anew

    @property
    def words(self) -> str:
        """Return what a person is told."""
        again = how_many(len(self.predict), "image is", "images are")
        counts = f"{again} predicted anew, {len(self.measure):,} measured anew"
        return f"{self.told}: {counts}"


def group_of(path: str, expression: str) -> str | None:
    """Return the group of an image by its path below the watched folder; None: of none."""
    if not expression:
        return None
    if expression == "folder":
        return os.path.dirname(path) or "."  # noqa: PTH120 - of any bytes
    found = re.search(expression, path)
    if found is None:
        return None
    return (found[1] if found.re.groups else found[0]) or None


def note(
    connection: sqlite3.Connection, paths: Iterable[str], recipe: str, expression: str
) -> None:
    """Note that images were made now, within the caller's transaction."""
    rows = [(path, group_of(path, expression)) for path in paths]
    connection.executemany(
        "INSERT OR REPLACE INTO made VALUES (?,?,?)",
        [(os.fsencode(path), recipe, _name(group)) for path, group in rows],
    )
    _mark_old(connection, {group for _, group in rows if group is not None})


def touch(connection: sqlite3.Connection, paths: Iterable[str]) -> None:
    """Note that images are judged otherwise: their groups are, too."""
    connection.executemany(
        "UPDATE groups SET num_changes = num_changes + 1"
        " WHERE name = (SELECT grp FROM made WHERE path = ?)",
        [(os.fsencode(path),) for path in paths],
    )


def touch_all(connection: sqlite3.Connection) -> None:
    """Note that all images are judged anew."""
    connection.execute("UPDATE groups SET num_changes = num_changes + 1")


def _mark_old(connection: sqlite3.Connection, groups: Iterable[str]) -> None:
    connection.executemany(
        "INSERT INTO groups VALUES (?, '{}', 1)"
        " ON CONFLICT (name) DO UPDATE SET num_changes = num_changes + 1",
        [(_name(group),) for group in groups],
    )


def _name(group: str | None) -> bytes | None:
    return None if group is None else os.fsencode(group)


def regroup(connection: sqlite3.Connection, expression: str, limits: Mapping[str, Limit]) -> bool:
    """Deal all images to the groups of another expression, or judge them by other limits.

    False if both are as they were.
    """
    wanted = (os.fsencode(expression), any_names.encode(dict(limits)))
    known = connection.execute("SELECT expression, limits FROM grouping").fetchone()
    if known is not None and (known[0], known[1]) == wanted:
        return False
    if known is None or known[0] != wanted[0]:
        paths = connection.execute(
            "SELECT path, coalesce(recipe, '') FROM judged LEFT JOIN made USING (path)"
        ).fetchall()
        connection.execute("INSERT OR IGNORE INTO former_groups SELECT name FROM groups")
        connection.execute("DELETE FROM groups")
        for path, recipe in paths:
            note(connection, [os.fsdecode(path)], recipe, expression)
    touch_all(connection)
    connection.execute("DELETE FROM grouping")
    connection.execute("INSERT INTO grouping VALUES (?, ?)", wanted)
    return True


def reckon(connection: sqlite3.Connection) -> list[tuple[Group, int]]:
    """Judge the groups whose images changed; return them, with what `told` is to be given."""
    row = connection.execute("SELECT limits FROM grouping").fetchone()
    limits: dict[str, Limit] = any_names.decode(row[0], dict[str, Limit]) if row else {}
    query = "SELECT name, num_changes, told FROM groups WHERE num_changes > 0 ORDER BY name"
    rows = connection.execute(query).fetchall()
    found = [
        (_reckoned(connection, os.fsdecode(name), limits, _announced(told)), seen)
        for name, seen, told in rows
    ]
    connection.executemany(
        "UPDATE groups SET told = ? WHERE name = ?",
        [(any_names.encode(one), _name(one.name)) for one, _ in found],
    )
    return found


def _announced(told: bytes | str) -> str:
    """Return which verdict of a group everybody knows; that of an older ledger was not told."""
    try:
        before = any_names.decode(os.fsencode(told), Group)
    except msgspec.MsgspecError:
        return ""  # its first images just came
    return before.state if before.announced is None else before.announced


def announced(connection: sqlite3.Connection, group: Group) -> None:
    """Note that events and hooks have told how a group is judged."""
    now = msgspec.structs.replace(group, announced=group.state)
    connection.execute(
        "UPDATE groups SET told = ? WHERE name = ?", (any_names.encode(now), _name(group.name))
    )


def told(connection: sqlite3.Connection, group: str, num_changes: int) -> None:
    """Note that everybody knows of a group; not if its images changed meanwhile."""
    query = "UPDATE groups SET num_changes = 0 WHERE name = ? AND num_changes = ?"
    connection.execute(query, (_name(group), num_changes))


def former_groups(connection: sqlite3.Connection) -> list[str]:
    """Return the groups of another expression that are none now: their files tell of nothing."""
    query = "SELECT name FROM former_groups EXCEPT SELECT name FROM groups"
    return [os.fsdecode(name) for (name,) in connection.execute(query)]


def forget_former(connection: sqlite3.Connection) -> None:
    """Note that no file of a former group is there any more."""
    connection.execute("DELETE FROM former_groups")


def images_of(connection: sqlite3.Connection, group: str) -> Iterator[Judged]:
    """Yield the images of a group that have masks, in the order of their names."""
    query = "SELECT path FROM made WHERE grp = ? ORDER BY path"
    paths = [os.fsdecode(path) for (path,) in connection.execute(query, (_name(group),))]
    for first in range(0, len(paths), 500):  # SQLite takes only so many at once
        yield from read_judged(connection, paths=paths[first : first + 500])


def _reckoned(
    connection: sqlite3.Connection, name: str, limits: Mapping[str, Limit], announced: str
) -> Group:
    values: dict[str, list[float]] = {}
    verdicts: dict[str, int] = {}
    for image in images_of(connection, name):
        verdicts[image.verdict] = verdicts.get(image.verdict, 0) + 1
        for numbers in image.numbers.values():
            for key, value in numbers.items():
                values.setdefault(key, []).append(value)
    total = sum(verdicts.values())
    numbers: dict[str, float] = {"images": float(total)}
    if total:
        numbers |= {f"{state}_share": verdicts.get(state, 0) / total for state in STATES[1:]}
    for key, found in sorted(values.items()):
        numbers |= {f"{key}_mean": fmean(found), f"{key}_median": median(found)}
    said = verdict_of(numbers, limits) if limits else None
    return Group(
        name=name,
        numbers=numbers,
        verdicts=verdicts,
        state=said.state if said else "",
        reasons=said.reasons if said else (),
        announced=announced,
    )


def read_groups(connection: sqlite3.Connection) -> list[Group]:
    """Return how the groups were judged last, by name; none of an older ledger."""
    if not has_table(connection, "groups"):
        return []
    found: list[Group] = []
    for name, told in connection.execute("SELECT name, told FROM groups ORDER BY name"):
        try:
            found.append(any_names.decode(os.fsencode(told), Group))
        except msgspec.MsgspecError:
            found.append(Group(name=os.fsdecode(name)))  # its first images just came
    return found


def follow_recipe(connection: sqlite3.Connection, recipe: Recipe | None) -> Touched:
    """Note which recipe is followed from now on, and tell what it touches.

    What was made without one, or by one before that differs in limits alone, stays as it is.
    """
    last = connection.execute("SELECT id FROM recipes ORDER BY number DESC LIMIT 1").fetchone()
    before, now = str(last[0]) if last else "", recipe.id if recipe else ""
    settings = _settings_of(recipe) if recipe else {}
    if before != now:
        row = (now, any_names.encode(settings))
        connection.execute("INSERT INTO recipes (id, settings) VALUES (?, ?)", row)
    if recipe is None:
        return Touched(told=f"without a recipe; before, {before} was followed" if before else "")
    predict: list[str] = []
    measure: list[str] = []
    told = ""
    for (other,) in connection.execute("SELECT DISTINCT recipe FROM made").fetchall():
        if other in ("", now):
            continue
        keys = [key for key, *_ in differences(_settings_by(connection, other), settings)]
        what = what_is_touched(keys)
        if not what:
            move = "UPDATE made SET recipe = ? WHERE recipe = ?"
            connection.execute(move, (now, other))
            continue
        query = "SELECT path FROM made WHERE recipe = ? ORDER BY path"
        paths = [os.fsdecode(path) for (path,) in connection.execute(query, (other,))]
        (predict if what == "predict" else measure).extend(paths)
    if before != now:
        told = f"recipe {now} is followed"
        if before:
            changed = differences(_settings_by(connection, before), settings)
            words = ", ".join(f"{key} {one!r} -> {two!r}" for key, one, two in changed[:20])
            told += f", before it {before}; changed: {words or 'nothing that decides'}"
    return Touched(told=told, predict=tuple(predict), measure=tuple(measure))


def _settings_of(recipe: Recipe) -> dict[str, Any]:
    return {"model": recipe.model_digest, **recipe.settings()}


def _settings_by(connection: sqlite3.Connection, recipe: str) -> dict[str, Any]:
    query = "SELECT settings FROM recipes WHERE id = ? LIMIT 1"
    row = connection.execute(query, (recipe,)).fetchone()
    return any_names.decode(os.fsencode(row[0]), dict[str, Any]) if row else {"model": ""}


def recipe_followed(connection: sqlite3.Connection) -> str:
    """Return the id of the recipe that is followed, or was last; "" where there was none."""
    if not has_table(connection, "recipes"):
        return ""
    row = connection.execute("SELECT id FROM recipes ORDER BY number DESC LIMIT 1").fetchone()
    return str(row[0]) if row else ""


def recipes_of(connection: sqlite3.Connection, group: str) -> dict[str, str]:
    """Return by which recipe each image of a group was made; "" by none."""
    rows = connection.execute("SELECT path, recipe FROM made WHERE grp = ?", (_name(group),))
    return {os.fsdecode(path): str(recipe) for path, recipe in rows}


def settings_followed(connection: sqlite3.Connection) -> tuple[str, dict[str, Any]]:
    """Return the id of the recipe that is followed, and what it says; ("", {}) without one."""
    name = recipe_followed(connection)
    return (name, _settings_by(connection, name)) if name else ("", {})
