"""The SQLite file of a ledger: where it lies, its tables, and what its faults are called."""

import contextlib
import errno
import os
import sqlite3
from collections.abc import Generator
from functools import cache
from pathlib import Path

from emcfsys_engine.errors import InputError, OutputError
from emcfsys_engine.files import (
    DiskFullError,
    file_system_of,
    is_network,
    open_own,
    remedy_of,
    uri_to_read,
)
from emcfsys_engine.hotfolder import groups, journal, judged, kept_words, tables
from emcfsys_engine.hotfolder.places import FOLDER

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
CREATE TABLE IF NOT EXISTS seen (
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

# Beside the table that every version knows: an older program goes on with the ledger.
_MORE = f"""
CREATE TABLE IF NOT EXISTS changed (path BLOB PRIMARY KEY, ctime_ns INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS due (    -- the user's command for an image, until it has run
    path BLOB PRIMARY KEY, mask BLOB NOT NULL, is_unlike TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS ledger (id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS watched (root BLOB NOT NULL, place TEXT NOT NULL);
{judged.TABLES}
{groups.TABLES}
{kept_words.TABLES}
{journal.TABLES}"""


class DamagedLedgerError(InputError):
    """A ledger that cannot be read, on a disk that can."""


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


def connect_to_read(file: Path) -> sqlite3.Connection:
    """Open a ledger to look at it, also where we may write nothing, not even its log's memory."""
    uri = uri_to_read(file)
    connection = sqlite3.connect(uri, uri=True)
    try:
        connection.execute("SELECT 1 FROM sqlite_master")
    except sqlite3.OperationalError:
        connection.close()
        if os.access(file.parent, os.W_OK, effective_ids=True):
            raise
        return sqlite3.connect(f"{uri}&immutable=1", uri=True)
    return connection


def connect(file: Path) -> sqlite3.Connection:
    """Open a ledger to write into it, and give it the tables it lacks.

    Raises: InputError, OutputError.
    """
    _refuse_others(file)
    with explained(file):
        with contextlib.suppress(OSError):  # SQLite's own would not follow the umask of a group
            os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666))
        connection = sqlite3.connect(file, timeout=10)
        connection.text_factory = decoded
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
                connection.execute("BEGIN IMMEDIATE")  # Python's own would leave DDL out of it
                connection.execute(_TABLE)
                connection.execute(f"PRAGMA user_version={SCHEMA}")
        _refuse_other_columns(file, connection)
        _complete(connection)
        return connection


def _complete(connection: sqlite3.Connection) -> None:
    connection.executescript(_MORE)
    tables.keep_counts(connection)
    kept_words.keep_to_measure(connection)


def _refuse_other_columns(file: Path, connection: sqlite3.Connection) -> None:
    """Check that what is there is as we write it: else the first image would end each watch.

    Raises: InputError.
    """
    for table, wanted in _our_columns().items():
        found = _columns_of(connection, table)
        if found and found != wanted:
            others = ", ".join(sorted({*found} ^ {*wanted})) or "their order"
            what = f"its table {table} has other columns than this program knows: {others}"
            remedy = (
                "Update emcfsys-tui; or move the file away: the next watch begins a new one,"
                " and keeps the masks and people's words"
            )
            raise InputError(file, what, remedy)


@cache
def _our_columns() -> dict[str, list[str]]:
    """Return the columns of each table of a new ledger."""
    with contextlib.closing(sqlite3.connect(":memory:")) as ours:
        ours.execute(_TABLE)
        _complete(ours)
        tables = ours.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        return {table: _columns_of(ours, table) for (table,) in tables}


def _columns_of(connection: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')]


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
        if code == sqlite3.SQLITE_IOERR:
            remedy = "See with dmesg whether the disk is well, then go on"
        what = f"cannot be used: {error}"
        raise OutputError(file, what, remedy, errno=_ERRNO.get(code, 0)) from None
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        remedy = "The next watch begins a new one, and keeps the masks"
        raise DamagedLedgerError(file, f"is damaged: {error}", remedy) from None


def decoded(content: bytes) -> str:
    """Return a text of the file: one bad byte spoils its own row, not every answer."""
    return content.decode("utf-8", "surrogateescape")
