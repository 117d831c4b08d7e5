"""Which files of a watched folder were seen: one SQLite file, the truth that events only hint at.

A file is known by its path below the watched folder, its size and time of change, and a digest of
its head and tail: a file that was only touched is not a new one.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import socket
import sqlite3
import time
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

from emcfsys_engine.errors import InputError, WatchedError
from emcfsys_engine.files import DiskFullError, file_system_of, is_network

_MARK = "retry"


def ask_retry(output: Path) -> int:
    """Leave word for the watch that runs, or for the next one; return how many images failed.

    The images themselves are never touched.
    Raises: InputError if none failed, or if the mark cannot be written.
    """
    failed = sum(entry.state == "failed" for entry in read_ledger(output))
    if not failed:
        raise InputError(output, "holds no failed image")
    try:
        (output / FOLDER / _MARK).touch()
    except OSError as error:
        what = f"cannot be written: {error.strerror}"
        raise InputError(output / FOLDER, what, "Check its permissions") from None
    return failed


def was_asked(output: Path) -> bool:
    """Tell whether a retry was asked for, and take the mark away."""
    try:
        (output / FOLDER / _MARK).unlink()
    except FileNotFoundError:
        return False
    return True


SCHEMA = 1
FOLDER = ".emcfsys"
_DIGEST_BYTES = 65_536
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
        self.folder = output / FOLDER
        self.file = self.folder / "ledger.sqlite"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self.folder / "watch.lock", owner)
        except OSError as error:
            what = f"cannot be written: {error.strerror}"
            raise InputError(self.folder, what, "Check permissions and space") from None
        self._connection = _open(self.file)

    def entries(self) -> dict[str, Entry]:
        """Return everything known, by path."""
        with _explained(self.file):
            return {entry.path: entry for entry in _read(self._connection, "")}

    def record(self, entries: Iterable[Entry]) -> None:
        """Write what became of files, all or none; it is on the disk when this returns."""
        now = time.time()
        rows = [
            (
                os.fsencode(entry.path),
                entry.size,
                entry.mtime_ns,
                entry.digest,
                entry.state,
                entry.mask,
                entry.version,
                entry.attempts,
                entry.reason,
                entry.model,
                now,
            )
            for entry in entries
        ]
        with _explained(self.file), self._connection:
            self._connection.executemany(
                "INSERT OR REPLACE INTO seen VALUES (?,?,?,?,?,?,?,?,?,?,?)", rows
            )

    def close(self) -> None:
        """Close the file and let another watcher have it."""
        self._connection.close()
        os.close(self._lock)


def read_ledger(output: Path) -> list[Entry]:
    """Return the entries of a ledger without taking it; none where there is no ledger."""
    file = output / FOLDER / "ledger.sqlite"
    if not file.exists():
        return []
    with (
        _explained(file),
        contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as db,
    ):
        return list(_read(db, "ORDER BY time DESC"))


def watcher_of(output: Path) -> str | None:
    """Tell who watches into an output folder now, or None."""
    found = _holder(output)
    return found[0] if found else None


def watching_run(output: Path) -> Path | None:
    """Return the folder of the run that watches into an output folder now, if it is known."""
    found = _holder(output)
    return Path(found[1]) if found and found[1] else None


def _holder(output: Path) -> tuple[str, str] | None:
    try:
        descriptor = os.open(output / FOLDER / "watch.lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _owner(descriptor)
    finally:
        os.close(descriptor)
    return None


def digest_of(file: Path, size: int) -> str:
    """Return a digest of a file's size, head and tail: enough to tell a rewrite from a touch."""
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    with file.open("rb") as stream:
        digest.update(stream.read(_DIGEST_BYTES))
        if size > _DIGEST_BYTES:
            stream.seek(max(_DIGEST_BYTES, size - _DIGEST_BYTES))
            digest.update(stream.read(_DIGEST_BYTES))
    return digest.hexdigest()


def _read(connection: sqlite3.Connection, order: str) -> Iterator[Entry]:
    for row in connection.execute(f"SELECT * FROM seen {order}"):
        yield Entry(
            path=os.fsdecode(row[0]),
            size=row[1],
            mtime_ns=row[2],
            digest=row[3],
            state=row[4],
            mask=row[5],
            version=row[6],
            attempts=row[7],
            reason=row[8],
            model=row[9],
            time=row[10],
        )


def _lock(file: Path, owner: str) -> int:
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        other, run = _owner(descriptor)
        os.close(descriptor)
        what = f"is watched already, by {other}"
        remedy = "Stop that watch, or use another output"
        raise WatchedError(file.parent.parent, what, remedy, run=run) from None
    record = {"owner": owner, "pid": os.getpid(), "host": socket.gethostname()}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(record).encode(), 0)
    return descriptor


def _owner(descriptor: int) -> tuple[str, str]:
    """Return who has a lock, in words, and its run folder; it is empty where that is unknown."""
    try:
        record = json.loads(os.pread(descriptor, 4096, 0))
        told = f"{record['owner']} (process {record['pid']} on {record['host']})"
        return told, str(record["owner"])
    except (ValueError, KeyError, TypeError):
        return "another process", ""


def _open(file: Path) -> sqlite3.Connection:
    with _explained(file):
        connection = sqlite3.connect(file, timeout=10)
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
        return connection


@contextlib.contextmanager
def _explained(file: Path) -> Generator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            raise DiskFullError(file) from None
        raise InputError(file, f"cannot be used: {error}", "Check permissions and space") from None
    except sqlite3.DatabaseError as error:
        remedy = "Move it away to begin anew: images will be segmented again"
        raise InputError(file, f"is damaged: {error}", remedy) from None
