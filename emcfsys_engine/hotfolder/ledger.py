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
from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from emcfsys_engine.errors import InputError, OutputError, WatchedError, printable
from emcfsys_engine.files import (
    DiskFullError,
    file_system_of,
    identity_of,
    is_network,
    open_own,
    remedy_of,
)
from emcfsys_engine.hotfolder import journal, judged
from emcfsys_engine.hotfolder.journal import Act, act_of
from emcfsys_engine.hotfolder.judged import Judged
from emcfsys_engine.hotfolder.watcher import FOLDER, close_all, is_same, lock_file, lock_folder
from emcfsys_engine.project_tables import Limit

SCHEMA = 1
_ERRNO = {  # what SQLite makes of errors of the disk
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_CANTOPEN: errno.ENOENT,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_BUSY: errno.EIO,
    sqlite3.SQLITE_LOCKED: errno.EIO,
    sqlite3.SQLITE_PERM: errno.EACCES,
}
_TABLE = """
CREATE TABLE seen (
    path BLOB PRIMARY KEY,     -- below the watched folder, as the file system spells it
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    digest TEXT NOT NULL,
    state TEXT NOT NULL,       -- done | trying | failed | skipped
    mask TEXT NOT NULL,        -- below the output folder
    version INTEGER NOT NULL,  -- of the mask: 1 for the first
    attempts INTEGER NOT NULL,
    reason TEXT NOT NULL,
    model TEXT NOT NULL,
    time REAL NOT NULL         -- wall clock, for people only
) WITHOUT ROWID
"""

_COLUMNS = (
    "size", "mtime_ns", "digest", "state", "mask", "version", "attempts", "reason", "model", "time",
)  # fmt: skip
# Beside the table that every version knows: an older program goes on with the ledger.
_MORE = f"""
CREATE TABLE IF NOT EXISTS changed (path BLOB PRIMARY KEY, ctime_ns INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS due (    -- the user's command for an image, until it has run
    path BLOB PRIMARY KEY, mask BLOB NOT NULL, is_unlike TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS ledger (id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS watched (root BLOB NOT NULL, place TEXT NOT NULL);
{judged.TABLES}
{journal.TABLES}"""


class DamagedLedgerError(InputError):
    """A ledger that cannot be read, on a disk that can."""


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
        self._open()

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
        """Open the file; a damaged one is put aside, as masks that are there are known anyway."""
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
            self.told = f"{error} It is kept as {aside.name}: masks that are there are adopted."
            return connect(self.file)
        return connection

    @property
    def is_in_place(self) -> bool:
        """Tell whether the ledger still lies where it was opened: its disk is not gone."""
        return (identity_of(self.output), identity_of(self.file)) == self._place

    def make_again(self, entries: Iterable[Entry]) -> None:
        """Open the ledger where it is now, and write what is known where it knows nothing.

        Raises: WatchedError if another watch has taken the folder; InputError.
        """
        before = self._connection
        self._open()
        there = self.entries()
        with contextlib.suppress(sqlite3.Error):
            if not there:  # of a file that was removed all can be read while it is open
                before.backup(self._connection)
            before.close()
        self.id = _id_of(self._connection, self.file)
        there = there or self.entries()
        self.record([entry for entry in entries if entry.path not in there])

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
            self._connection.execute("INSERT INTO watched VALUES (?, ?)", (where, place))
        return None

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

    def judge_by(self, limits: Mapping[str, Limit]) -> tuple[int, int] | None:
        """Judge all that is known by these limits; None if it was judged by them already.

        Return how many verdicts changed, and how many there are.
        """
        with explained(self.file), self._connection:
            if judged.limits_of(self._connection) == limits:
                return None
            counts = judged.judge_all(self._connection, limits)
            told = "{} of {} images are judged otherwise".format(*counts)
            as_json = msgspec.to_builtins(limits)
            journal.keep_acts(
                self._connection, [act_of("limits_changed", limits=as_json, reason=told)]
            )
            return counts

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
            journal.keep_acts(self._connection, acts)
            self._connection.executemany(
                "INSERT OR REPLACE INTO seen VALUES (?,?,?,?,?,?,?,?,?,?,?)", rows
            )
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

    def close(self) -> None:
        """Close the file and let another watcher have it."""
        with contextlib.suppress(sqlite3.Error):  # its disk may be gone
            self._connection.close()
        close_all(self._locks)
        self._locks = []


def ledger_file(output: Path) -> Path:
    """Return where the ledger of an output folder lies, or would lie."""
    return output / FOLDER / "ledger.sqlite"


def ledger_in(output: Path) -> Path | None:
    """Return the ledger of an output folder, if it has one: a file, as SQLite waits for a pipe.

    Raises: InputError where we may not even look.
    """
    file = ledger_file(output)
    try:
        return file if file.is_file() else None
    except OSError as error:
        what = f"cannot be read: {error.strerror}"
        raise InputError(file, what, "Ask the owner of its folder for the right to read") from None


def read_ledger(output: Path) -> list[Entry]:
    """Return the entries of a ledger without taking it; none where there is no ledger."""
    file = ledger_in(output)
    if file is None:
        return []
    with explained(file), contextlib.closing(connect_to_read(file)) as db:
        db.text_factory = _decoded
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'seen'").fetchone():
            return []  # empty, or just being made
        return list(_read(db, "ORDER BY time DESC"))


def connect_to_read(file: Path) -> sqlite3.Connection:
    """Open a ledger to look at it, also where we may write nothing, not even its log's memory."""
    uri = f"{file.absolute().as_uri()}?mode=ro"
    connection = sqlite3.connect(uri, uri=True)
    try:
        connection.execute("SELECT 1 FROM sqlite_master")
    except sqlite3.OperationalError:
        connection.close()
        if os.access(file.parent, os.W_OK, effective_ids=True):
            raise
        return sqlite3.connect(f"{uri}&immutable=1", uri=True)
    return connection


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


def _decoded(content: bytes) -> str:
    """Return a text of the file: one bad byte spoils its own row, not every answer."""
    return content.decode("utf-8", "surrogateescape")


def _as_text(value: object) -> object:
    return os.fsdecode(value) if isinstance(value, bytes) else value


def _put_aside(file: Path) -> Path:
    """Rename a damaged ledger with what SQLite keeps beside it."""
    number = 1
    while (aside := file.with_name(f"ledger.damaged-{number}.sqlite")).exists():
        number += 1
    for ending in ("-wal", "-shm", "-journal", ""):
        with contextlib.suppress(FileNotFoundError):
            Path(f"{file}{ending}").rename(f"{aside}{ending}")
    return aside


def connect(file: Path) -> sqlite3.Connection:
    """Open a ledger to write into it, and give it the tables it lacks.

    Raises: InputError, OutputError.
    """
    _refuse_others(file)
    with explained(file):
        connection = sqlite3.connect(file, timeout=10)
        connection.text_factory = _decoded
        # WAL needs shared memory between processes, which a network does not give.
        mode = "DELETE" if is_network(file_system_of(file)) else "WAL"
        connection.execute(f"PRAGMA journal_mode={mode}")
        connection.execute("PRAGMA synchronous=FULL")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA:
            what = f"has version {version}, this program knows {SCHEMA}"
            raise InputError(file, what, "Update emcfsys-tui")
        if version == 0:
            with connection:
                connection.execute(_TABLE)
                connection.execute(f"PRAGMA user_version={SCHEMA}")
        connection.executescript(_MORE)
        return connection


def _refuse_others(file: Path) -> None:
    """Check that SQLite will write into files of ours: it follows links, and waits for pipes.

    Raises: OutputError.
    """
    for ending in ("", "-wal", "-shm", "-journal"):
        place = Path(f"{file}{ending}")
        try:
            os.close(open_own(place, os.O_RDWR, is_shared=True))
        except FileNotFoundError:
            continue
        except OSError as error:
            what = f"cannot be used: {error.strerror}"
            raise OutputError(place, what, remedy_of(error), errno=error.errno or 0) from None


def _id_of(connection: sqlite3.Connection, file: Path) -> str:
    with explained(file), connection:
        found = connection.execute("SELECT id FROM ledger").fetchone()
        if found is None:
            found = (uuid.uuid4().hex,)
            connection.execute("INSERT INTO ledger VALUES (?)", found)
    return str(found[0])


@contextlib.contextmanager
def explained(file: Path) -> Generator[None]:
    """Tell errors of SQLite as what they are of.

    Raises: DiskFullError, OutputError, DamagedLedgerError.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            raise DiskFullError(file) from None
        code = error.sqlite_errorcode & 0xFF
        remedy = "Check the permissions of its folder"
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            remedy = "Close what else has it open"
        what = f"cannot be used: {error}"
        raise OutputError(file, what, remedy, errno=_ERRNO.get(code, 0)) from None
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        remedy = "The next watch begins a new one, and keeps the masks"
        raise DamagedLedgerError(file, f"is damaged: {error}", remedy) from None
