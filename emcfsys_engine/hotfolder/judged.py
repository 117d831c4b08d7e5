"""What a ledger keeps of how images were judged: their numbers, the verdict, a person's word.

A row is of one prediction: a new one of the same file replaces it, and a person's word with it.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec

from emcfsys_engine import any_names
from emcfsys_engine.hotfolder.tables import COUNTED, has_table
from emcfsys_engine.project_tables import Limit
from emcfsys_engine.text import how_many
from emcfsys_engine.verdicts import STATES, verdict_of_planes

# Beside the table of files, whose columns older programs count.
TABLES = """
CREATE TABLE IF NOT EXISTS judged (
    path BLOB PRIMARY KEY,
    digest TEXT NOT NULL,   -- of the file that was predicted: else it is another's verdict
    numbers BLOB NOT NULL,  -- JSON: plane -> name -> number
    state TEXT NOT NULL,    -- pass | review | fail, by the limits alone; empty: there were none
    reasons BLOB NOT NULL,  -- JSON
    word TEXT NOT NULL,     -- of a person: accepted | rejected | corrected; empty: none
    word_reason BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS judged_states ON judged (state, word);
CREATE TABLE IF NOT EXISTS limits (json BLOB NOT NULL);  -- that the verdicts are by
"""
_NUMBERS = dict[str, dict[str, float]]
_VALID = (
    "FROM judged JOIN seen USING (path)"
    " WHERE judged.digest = seen.digest AND seen.state IN ('done', 'skipped')"
)

Word = Literal["accepted", "rejected", "corrected"]
_STATE_OF_WORD: Mapping[str, str] = {"accepted": "pass", "corrected": "pass", "rejected": "fail"}


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """How one prediction was judged."""

    path: str  # of the image, below the watched folder
    digest: str
    numbers: dict[str, dict[str, float]] = {}  # by plane; "" is that of a single image
    state: str = ""
    reasons: tuple[str, ...] = ()
    word: str = ""
    word_reason: str = ""
    mask: str = ""  # below the output folder; only where it is read

    @property
    def verdict(self) -> str:
        """Return what counts: a person's word, else the limits'."""
        return verdict_by(self.state, self.word)


def masks_by_plane(one: Judged) -> dict[str, str]:
    """Return plane -> mask: the ledger names that of the last plane, x.0041.png."""
    planes = sorted((plane for plane in one.numbers if plane), key=int)
    if not planes:
        return {"": one.mask}
    folder, slash, name = one.mask.rpartition("/")
    before, mark, after = name.rpartition(f".{int(planes[-1]):04d}")
    if not mark:
        return dict.fromkeys(planes, one.mask)
    return {plane: f"{folder}{slash}{before}.{int(plane):04d}{after}" for plane in planes}


def verdict_by(state: str, word: str) -> str:
    """Return what counts: a person's word, else the limits'."""
    return _STATE_OF_WORD.get(word, state)


def write_judged(connection: sqlite3.Connection, judged: Iterable[Judged]) -> None:
    """Write how predictions were judged, within the transaction of the caller."""
    connection.executemany(
        "INSERT OR REPLACE INTO judged VALUES (?,?,?,?,?,?,?)",
        [
            (
                os.fsencode(one.path),
                one.digest,
                msgspec.json.encode(one.numbers),
                one.state,
                any_names.encode(one.reasons),
                one.word,
                os.fsencode(one.word_reason),
            )
            for one in judged
        ],
    )


def write_numbers(connection: sqlite3.Connection, judged: Iterable[Judged]) -> None:
    """Write numbers alone: the verdict follows from them, by whatever limits there are then."""
    for one in judged:
        found = verdict_of_planes(one.numbers, limits_of(connection))
        connection.execute(
            "UPDATE judged SET numbers = ?, state = ?, reasons = ? WHERE path = ?",
            (
                msgspec.json.encode(one.numbers),
                found.state if found else "",
                any_names.encode(found.reasons if found else ()),
                os.fsencode(one.path),
            ),
        )


def write_words(connection: sqlite3.Connection, judged: Iterable[Judged]) -> None:
    """Write people's words alone: limits may be other ones since the verdicts were read."""
    connection.executemany(
        "UPDATE judged SET word = ?, word_reason = ? WHERE path = ?",
        [(one.word, os.fsencode(one.word_reason), os.fsencode(one.path)) for one in judged],
    )


def follow_touched(connection: sqlite3.Connection, files: Iterable[tuple[str, str]]) -> None:
    """Let verdicts go with files of which only the digest is another: touched, or left alone.

    `files`: paths with the digest that the ledger is about to note.
    """
    connection.executemany(
        "UPDATE judged SET digest = ?1 WHERE path = ?2"
        " AND digest = (SELECT digest FROM seen WHERE path = ?2)",
        [(digest, os.fsencode(path)) for path, digest in files],
    )


def count_verdicts(connection: sqlite3.Connection) -> dict[str, int]:
    """Return how many images passed, are for review, and failed: by people's words, else limits.

    It is {} of an older ledger, which knows no verdicts.
    """
    if not has_table(connection, "judged"):
        return {}
    counts: dict[str, int] = dict.fromkeys(STATES, 0)
    query = f"SELECT judged.state, word, count(*) {_VALID} GROUP BY 1, 2"
    if has_table(connection, COUNTED):
        query = "SELECT state, word, number FROM verdict_counts"
    for state, word, number in connection.execute(query):
        verdict = _STATE_OF_WORD.get(word, state)
        if verdict in counts:
            counts[verdict] += int(number)
    return counts


def count_unjudged(connection: sqlite3.Connection) -> int:
    """Return how many images have masks and no verdict, by limits or by a person."""
    where = "seen.state = 'done'"
    if not has_table(connection, "seen"):
        return 0  # just being made
    if has_table(connection, "judged"):
        where += (
            " AND NOT EXISTS (SELECT 1 FROM judged WHERE judged.path = seen.path"
            " AND judged.digest = seen.digest AND (judged.state != '' OR word != ''))"
        )
    return int(connection.execute(f"SELECT count(*) FROM seen WHERE {where}").fetchone()[0])


def read_judged(
    connection: sqlite3.Connection, *, states: Iterable[str] = STATES, paths: Iterable[str] = ()
) -> Iterator[Judged]:
    """Yield how images were judged whose verdict is one of `states`, or those of `paths` alone.

    There are none in an older ledger.
    """
    if not has_table(connection, "judged"):
        return
    columns = "SELECT path, judged.digest, numbers, judged.state, reasons, word, word_reason, mask"
    of: list[bytes | str] = [os.fsencode(path) for path in paths]
    where = f"path IN ({_marks(of)})"
    if not of:  # a million rows are not decoded for the few that are wanted
        states = list(states)
        words = [word for word, state in _STATE_OF_WORD.items() if state in states]
        where = f"(word = '' AND judged.state IN ({_marks(states)})) OR word IN ({_marks(words)})"
        of = [*states, *words]
    for row in connection.execute(f"{columns} {_VALID} AND ({where}) ORDER BY path", of):
        try:
            yield _judged(row)
        except (msgspec.MsgspecError, TypeError, ValueError):
            continue  # a damaged line is no verdict


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))


def _judged(row: tuple[bytes | str, ...]) -> Judged:
    path, digest, numbers, state, reasons, word, word_reason, mask = row
    return Judged(
        path=os.fsdecode(path),
        digest=str(digest),
        numbers=any_names.decode(os.fsencode(numbers), _NUMBERS),
        state=str(state),
        reasons=any_names.decode(os.fsencode(reasons), tuple[str, ...]),
        word=str(word),
        word_reason=os.fsdecode(word_reason),
        mask=os.fsdecode(mask),
    )


def limits_of(connection: sqlite3.Connection) -> dict[str, Limit]:
    """Return the limits that the verdicts are by; none where nobody judged yet."""
    row = connection.execute("SELECT json FROM limits").fetchone()
    try:
        return {} if row is None else any_names.decode(row[0], dict[str, Limit])
    except (msgspec.MsgspecError, TypeError):
        return {}


class JudgedAnew(NamedTuple):
    """How many verdicts of the limits are other ones now, and how many there are."""

    changed: int
    number: int

    @property
    def words(self) -> str:
        """Return what a person is told."""
        return f"{self.changed:,} of {how_many(self.number, 'image')} judged otherwise now"


def judge_all(connection: sqlite3.Connection, limits: Mapping[str, Limit]) -> JudgedAnew:
    """Judge every image anew by other limits, within the caller's transaction; predict nothing."""
    changed: list[tuple[str, bytes, bytes]] = []
    number = others = 0
    for one in read_judged(connection, states=("", *STATES)):
        number += 1
        found = verdict_of_planes(one.numbers, limits)
        state, reasons = (found.state, found.reasons) if found else ("", ())
        others += state != one.state
        if (state, reasons) != (one.state, one.reasons):
            changed.append((state, any_names.encode(reasons), os.fsencode(one.path)))
    connection.executemany("UPDATE judged SET state = ?, reasons = ? WHERE path = ?", changed)
    connection.execute("DELETE FROM limits")
    connection.execute("INSERT INTO limits VALUES (?)", (any_names.encode(limits),))
    return JudgedAnew(others, number)
