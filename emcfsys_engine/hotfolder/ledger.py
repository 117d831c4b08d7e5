"""Which files of a watched folder were seen: one SQLite file, the truth that events only hint at.

A file is known by its path below the watched folder, its size and time of change, and a digest of
its content: a file that was only touched is not a new one.
"""

import contextlib
import errno
import os
import sqlite3
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from emcfsys_engine.errors import InputError, OutputError, WatchedError, printable
from emcfsys_engine.files import free_name, identity_of, remedy_of
from emcfsys_engine.hotfolder import group_files, groups, journal, judged, kept_words
from emcfsys_engine.hotfolder.journal import Act, act_of
from emcfsys_engine.hotfolder.judged import Judged
from emcfsys_engine.hotfolder.ledger_file import (
    DamagedLedgerError,
    connect,
    connect_to_read,
    decoded,
    explained,
    ledger_file,
    ledger_in,
)
from emcfsys_engine.hotfolder.places import FOLDER, close_all, is_same, lock_file, lock_folder
from emcfsys_engine.hotfolder.recipe import Recipe
from emcfsys_engine.hotfolder.tables import has_table
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.project import Project
from emcfsys_engine.project_tables import Limit

_COLUMNS = (
    "size", "mtime_ns", "digest", "state", "mask", "version", "attempts", "reason", "model", "time",
)  # fmt: skip


class Due(msgspec.Struct, frozen=True, kw_only=True):
    """A command of the user's that is to run for one image."""

    path: str  # below the watched folder
    mask: str
    unlike: str = ""
    verdict: str = ""  # pass | review | fail; empty without limits
    reasons: tuple[str, ...] = ()


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one file."""

    path: str  # below the watched folder; undecodable bytes are surrogates
    size: int
    mtime_ns: int
    digest: str = ""
    state: Literal["done", "trying", "failed", "skipped"] = "done"
    mask: str = ""
    version: int = 1
    attempts: int = 0
    reason: str = ""
    model: str = ""
    time: float = 0.0
    ctime_ns: int = 0  # its permissions changed since, if it is another; 0: unknown

    @property
    def stamp(self) -> tuple[int, int]:
        """Size and time of change: what a scan compares."""
        return self.size, self.mtime_ns


class Ledger:
    """The seen files of one output folder; one watcher at a time.

    Raises: WatchedError if another watcher has it; InputError if the file is damaged or of a newer
    version.
    """

    def __init__(self, output: Path, *, owner: str) -> None:
        self.output = output
        self.folder = output / FOLDER
        self.file = ledger_file(output)
        self._owner = owner
        self._locks: list[int] = []
        self.told = ""  # of a ledger that was damaged
        self._has_news = True  # of groups, since an earlier process
        self.recipe = ""  # by whose settings images are made now, and
        self.group = ""  # the expression that tells what group they are of
        try:
            self._open()
        except BaseException:  # such as a full disk: the next try is not kept out by this one
            close_all(self._locks)
            raise

    def _open(self) -> None:
        locks: list[int] = []
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = self.folder / "watch.lock"
            # Those that are held already are kept: nobody locks a file twice, not even its owner.
            held = [one for one in self._locks if is_same(one, file)]
            locks.append(held[0] if held else lock_file(file, self._owner))
            # The folder itself, too: its own file can be removed and made anew.
            held = [one for one in self._locks if is_same(one, self.output)]
            locks.append(held[0] if held else lock_folder(self.output, file))
        except OSError as error:
            close_all({*locks} - {*self._locks})
            what = f"cannot be written: {error.strerror}"
            raise OutputError(self.folder, what, remedy_of(error), errno=error.errno or 0) from None
        except WatchedError:
            close_all({*locks} - {*self._locks})
            raise
        close_all({*self._locks} - {*locks})
        self._locks = locks
        self._connection = self._opened()
        self._place = (identity_of(self.output), identity_of(self.file))
        self.id = _id_of(self._connection, self.file)
        self.device = self._place[0][0] if self._place[0] else 0

    def _opened(self) -> sqlite3.Connection:
        """Open the file; a damaged one is put aside, as masks that are there are known anyway.

        Words of people come back from the journal, also where the file was removed, or an older
        one put in its place; no image is known before they did.
        """
        try:
            connection = connect(self.file)
            with explained(self.file):
                list(_read(connection, ""))
                (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
                if found != "ok":  # in any table: else each start would end at its first image
                    raise sqlite3.DatabaseError(found.splitlines()[-1])
        except OutputError:
            raise
        except DamagedLedgerError as error:
            aside = _put_aside(self.file)
            connection = connect(self.file)
            self.told = f"{error} It is kept as {aside.name}: masks that are there are adopted. "
        with explained(self.file):
            is_new = connection.execute("SELECT 1 FROM seen LIMIT 1").fetchone() is None
            try:
                words = kept_words.take_from_journal(connection, self.output)
            except OutputError:  # one that knows images notes no later line before it was read
                if is_new:
                    raise
                words = 0
        if words:
            self.told += f"{words} words of people are taken from the journal."
        self.told = self.told.strip()
        return connection

    @property
    def is_in_place(self) -> bool:
        """Tell whether the ledger still lies where it was opened: its disk is not gone."""
        return (identity_of(self.output), identity_of(self.file)) == self._place

    def make_again(self, known: dict[str, Entry], root: Path) -> None:
        """Open the ledger where it is now, and write what is `known` where it knows nothing.

        An image that it does not know, and whose mask does not lie there, is forgotten: a copy of
        yesterday's masks may lie there now, and it would never get one.
        Raises: WatchedError if another watch has taken the folder; InputError, also for a ledger
        of other images than those of `root`.
        """
        before = self._connection
        self._open()
        there = self.entries()
        if there:
            self.refuse_other_images(root)
        with contextlib.suppress(sqlite3.Error):
            if not there:  # of a file that was removed all can be read while it is open
                before.backup(self._connection)
            before.close()
        self.id = _id_of(self._connection, self.file)
        there = there or self.entries()
        unknown = (entry for entry in known.values() if entry.path not in there)
        self.record([entry for entry in unknown if not entry.mask or self._has_mask(entry)])
        known.clear()
        known.update(self.entries())

    def _has_mask(self, entry: Entry) -> bool:
        return os.path.lexists(self.output / entry.mask)

    def entries(self) -> dict[str, Entry]:
        """Return everything known, by path."""
        with explained(self.file):
            rows = self._connection.execute("SELECT path, ctime_ns FROM changed")
            changed = {path: at for path, at in rows if isinstance(at, int)}
            return {
                entry.path: msgspec.structs.replace(
                    entry, ctime_ns=changed.get(os.fsencode(entry.path), 0)
                )
                for entry in _read(self._connection, "")
            }

    def other_root(self, root: Path) -> Path | None:
        """Return the folder whose images are known here, if it is another than the one to watch.

        It is the same by its path, or wherever it was moved to; else this one is noted.
        """
        where, place = os.fsencode(root), "{}:{}".format(*(identity_of(root) or (0, 0)))
        with explained(self.file), self._connection:
            row = self._connection.execute("SELECT root, place FROM watched").fetchone()
            knows_any = self._connection.execute("SELECT 1 FROM seen LIMIT 1").fetchone()
            if row is not None and knows_any and row[0] != where and row[1] != place:
                return Path(os.fsdecode(row[0]))
            self._connection.execute("DELETE FROM watched")
            self._connection.execute(
                "INSERT INTO watched (root, place) VALUES (?, ?)", (where, place)
            )
        return None

    def refuse_other_images(self, root: Path) -> None:
        """Check that the masks here are of the folder to watch; else nothing more is written here.

        Raises: InputError.
        """
        if (other := self.other_root(root)) is None:
            return
        self.close()
        what = f"has the masks of another watched folder ({other}): names would meet"
        remedy = f"Choose another output; if that folder was copied here, remove {self.file}"
        raise InputError(self.output, what, remedy)

    def due(self) -> list[Due]:
        """Return the commands of the user's that have not run yet."""
        with explained(self.file):
            rows = self._connection.execute("SELECT path, mask, is_unlike FROM due").fetchall()
            return [
                self._with_verdict(
                    Due(path=os.fsdecode(path), mask=os.fsdecode(mask), unlike=str(unlike))
                )
                for path, mask, unlike in rows
                if isinstance(path, bytes | str) and isinstance(mask, bytes | str)
            ]

    def _with_verdict(self, due: Due) -> Due:
        found = next(judged.read_judged(self._connection, paths=[due.path]), None)
        if found is None:
            return due
        return msgspec.structs.replace(due, verdict=found.state, reasons=found.reasons)

    def judge_by(self, limits: Mapping[str, Limit]) -> judged.JudgedAnew | None:
        """Judge all that is known by these limits; None if it was judged by them already."""
        with explained(self.file), self._connection:
            if judged.limits_of(self._connection) == limits:
                return None
            found = judged.judge_all(self._connection, limits)
            groups.touch_all(self._connection)
            as_json = msgspec.to_builtins(limits)
            journal.keep_acts(
                self._connection, [act_of("limits_changed", limits=as_json, reason=found.words)]
            )
            return found

    def regroup(self, project: Project) -> bool:
        """Go by a project's groups and their limits from now on; False if it did already."""
        self.group = project.group
        with explained(self.file), self._connection:
            return groups.regroup(self._connection, project.group, project.group_limits)

    def follow(self, project: Project, recipe: Recipe | None) -> groups.Touched:
        """Go by a project's groups and a recipe from now on; return what that touches.

        Images that were made by another recipe are to be predicted or measured anew where the two
        differ in that; what limits alone touch is judged anew by `judge_by`.
        """
        self.regroup(project)
        self.recipe = recipe.id if recipe else ""
        with explained(self.file), self._connection:
            self._connection.execute("BEGIN IMMEDIATE")  # a word that is said just now is newer
            again = kept_words.known_again(self._connection)
            self._give_back(again)
            groups.touch(self._connection, [path for path, _ in again])
            touched = groups.follow_recipe(self._connection, recipe)
            if touched.told:
                act = act_of("recipe_changed", recipe=self.recipe, reason=touched.told)
                journal.keep_acts(self._connection, [act])
            return touched

    def tell_groups(self, project: Project, book: OutputBook) -> list[groups.Group]:
        """Judge the groups anew whose images changed, and write their files; former ones' go.

        Return those whose verdict is another one than was announced last.
        Raises: OSError, OutputError: they are written later.
        """
        with explained(self.file):
            with self._connection:
                old = groups.reckon(self._connection)
            for group in groups.former_groups(self._connection):
                group_files.remove(group, book)
            with self._connection:
                groups.forget_former(self._connection)
            for group, num_changes in old:
                group_files.write(self._connection, group, project, book)
                with self._connection:
                    groups.told(self._connection, group.name, num_changes)
            if not old and not self._has_news:
                return []
            self._has_news = False
            return [group for group in groups.read_groups(self._connection) if group.is_news]

    def announced(self, group: groups.Group) -> None:
        """Note that a group's verdict was told."""
        with explained(self.file), self._connection:
            groups.announced(self._connection, group)

    def measured(self, images: Sequence[Judged], acts: Sequence[Act]) -> None:
        """Note the numbers of images that were measured anew from the masks they have."""
        with explained(self.file), self._connection:
            judged.write_numbers(self._connection, images)
            groups.note(self._connection, [one.path for one in images], self.recipe, self.group)
            journal.keep_acts(self._connection, acts)

    def corrected(self) -> dict[str, str]:
        """Return the images that people corrected and nobody measured since: image -> act."""
        with explained(self.file):
            return kept_words.waiting_for_measure(self._connection)

    def follow_corrections(
        self, images: Sequence[Judged], acts: Sequence[Act], words: Mapping[str, str]
    ) -> None:
        """Note the numbers of masks that people corrected; by whose recipe they were made stays.

        `words`: image -> the act that they follow.
        """
        with explained(self.file), self._connection:
            judged.write_numbers(self._connection, images)
            groups.touch(self._connection, [one.path for one in images])
            kept_words.measured(self._connection, words)
            journal.keep_acts(self._connection, acts)

    def judged(self, paths: Sequence[str]) -> list[Judged]:
        """Return how some images were judged."""
        with explained(self.file):
            return list(judged.read_judged(self._connection, paths=paths))

    def write_journal(self) -> None:
        """Write the acts that have no line in the journal yet.

        Raises: OSError, OutputError: they wait.
        """
        with explained(self.file):
            journal.write_kept(self._connection, self.output)

    def has_run(self, due: Iterable[Due]) -> None:
        """Take note of commands that have run."""
        with explained(self.file), self._connection:
            self._connection.executemany(
                "DELETE FROM due WHERE path = ?", [(os.fsencode(one.path),) for one in due]
            )

    def record(
        self,
        entries: Iterable[Entry],
        due: Iterable[Due] = (),
        verdicts: Iterable[Judged] = (),
        acts: Iterable[Act] = (),
    ) -> None:
        """Write what became of files, all or none; it is on the disk when this returns.

        Raises: OSError where the ledger is no longer where it was opened.
        """
        if not self.is_in_place:
            raise OSError(errno.ESTALE, "the ledger's folder is gone", str(self.folder))
        entries, now = list(entries), time.time()
        rows = [
            (
                os.fsencode(entry.path),
                entry.size,
                entry.mtime_ns,
                entry.digest,
                entry.state,
                _storable(entry.mask),
                entry.version,
                entry.attempts,
                _storable(entry.reason),
                _storable(entry.model),
                now,
            )
            for entry in entries
        ]
        verdicts = list(verdicts)
        anew = {one.path for one in verdicts}
        kept = [one for one in entries if one.state in ("done", "skipped") and one.path not in anew]
        with explained(self.file), self._connection:
            judged.follow_touched(self._connection, [(one.path, one.digest) for one in kept])
            judged.write_judged(self._connection, verdicts)
            groups.note(self._connection, anew, self.recipe, self.group)
            kept_words.forget_to_measure(self._connection, anew)
            journal.keep_acts(self._connection, acts)
            self._connection.executemany(
                "INSERT OR REPLACE INTO seen VALUES (?,?,?,?,?,?,?,?,?,?,?)", rows
            )
            done = [(one.path, one.digest) for one in entries if one.state == "done"]
            self._give_back(done)
            self._connection.executemany(
                "INSERT OR REPLACE INTO changed VALUES (?,?)",
                [(os.fsencode(one.path), one.ctime_ns) for one in entries if one.ctime_ns],
            )
            self._connection.executemany(
                "INSERT OR REPLACE INTO due VALUES (?,?,?)",
                [
                    (os.fsencode(one.path), os.fsencode(one.mask), printable(one.unlike))
                    for one in due
                ],
            )

    def _give_back(self, done: Sequence[tuple[str, str]]) -> None:
        by_word = kept_words.give_back(self._connection, self.output, done)
        groups.note(self._connection, by_word, "", self.group)

    def close(self) -> None:
        """Close the file and let another watcher have it."""
        with contextlib.suppress(sqlite3.Error):  # its disk may be gone
            self._connection.close()
        close_all(self._locks)
        self._locks = []


def read_ledger(output: Path) -> list[Entry]:
    """Return the entries of a ledger without taking it; none where there is no ledger."""
    file = ledger_in(output)
    if file is None:
        return []
    with explained(file), contextlib.closing(connect_to_read(file)) as db:
        db.text_factory = decoded
        if not has_table(db, "seen"):
            return []  # empty, or just being made
        return list(_read(db, "ORDER BY time DESC"))


def id_of_ledger(output: Path) -> str:
    """Return by what a ledger is known again; "" where there is none, or it cannot be read."""
    file = ledger_file(output)
    try:
        with contextlib.closing(connect_to_read(file)) as db:
            return str(db.execute("SELECT id FROM ledger").fetchone()[0])
    except (sqlite3.Error, TypeError, OSError):
        return ""


def _read(connection: sqlite3.Connection, order: str) -> Iterator[Entry]:
    for row in connection.execute(f"SELECT * FROM seen {order}"):
        try:
            yield msgspec.convert(
                {
                    "path": os.fsdecode(row[0]),
                    **dict(zip(_COLUMNS, map(_as_text, row[1:]), strict=False)),
                },
                Entry,
            )
        except (TypeError, ValueError):  # a damaged line: its image is looked at again
            continue


def _storable(text: str) -> str | bytes:
    """Names that are no UTF-8 are kept as their bytes: SQLite takes no lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape")
    return text


def _as_text(value: object) -> object:
    return os.fsdecode(value) if isinstance(value, bytes) else value


def _put_aside(file: Path) -> Path:
    """Rename a damaged ledger with what SQLite keeps beside it."""
    aside = free_name(file.parent, "ledger.damaged-{}.sqlite")
    for ending in ("-wal", "-shm", "-journal", ""):
        with contextlib.suppress(FileNotFoundError):
            Path(f"{file}{ending}").rename(f"{aside}{ending}")
    return aside


def _id_of(connection: sqlite3.Connection, file: Path) -> str:
    with explained(file), connection:
        found = connection.execute("SELECT id FROM ledger").fetchone()
        if found is None:
            found = (uuid.uuid4().hex,)
            connection.execute("INSERT INTO ledger VALUES (?)", found)
    return str(found[0])
