"""The queue's file: made whole, opened, brought up to date; what is no queue of ours is refused."""

import fcntl
import os
import sqlite3
import time
from pathlib import Path

from emcfsys_engine.errors import QueueError
from emcfsys_engine.jobs.folder import network_type

APPLICATION = 0x454D4346  # "EMCF": what sqlite calls the application id
_BUSY_S = 20.0

_VERSION_1 = """
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'paused', 'stopping', 'done',
                                         'failed', 'cancelled', 'interrupted', 'lost')),
    run TEXT NOT NULL,
    project TEXT NOT NULL,
    kind TEXT NOT NULL,
    "group" TEXT NOT NULL DEFAULT '',
    priority INTEGER NOT NULL DEFAULT 0,
    position INTEGER NOT NULL,
    gpus REAL NOT NULL DEFAULT 0,
    cpus INTEGER NOT NULL DEFAULT 0,
    memory_gb REAL NOT NULL DEFAULT 0,
    resume TEXT NOT NULL DEFAULT 'never',
    retries INTEGER NOT NULL DEFAULT 0,
    created REAL NOT NULL,
    started REAL,
    ended REAL,
    reason TEXT NOT NULL DEFAULT '',
    ask TEXT NOT NULL DEFAULT '',
    starts INTEGER NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0,
    wait_s REAL NOT NULL DEFAULT 0,
    token TEXT NOT NULL DEFAULT '',
    events_offset INTEGER NOT NULL DEFAULT 0,
    gpu_ids TEXT NOT NULL DEFAULT ''
);
CREATE INDEX jobs_in_order ON jobs (state, priority DESC, position);
CREATE UNIQUE INDEX one_open_job_a_run ON jobs (run)
    WHERE state IN ('queued', 'running', 'paused', 'stopping');
CREATE TABLE needs (
    job INTEGER NOT NULL REFERENCES jobs (id),
    needs INTEGER NOT NULL REFERENCES jobs (id),
    PRIMARY KEY (job, needs)
) WITHOUT ROWID;
CREATE INDEX needed_by ON needs (needs);
"""
_VERSION_2 = """
ALTER TABLE jobs ADD COLUMN evidence TEXT NOT NULL DEFAULT '';
ALTER TABLE jobs ADD COLUMN umask INTEGER NOT NULL DEFAULT -1;
CREATE TABLE history (
    job INTEGER NOT NULL REFERENCES jobs (id),
    time REAL NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT ''
);
CREATE INDEX history_of ON history (job);
CREATE INDEX jobs_by_place ON jobs (position);
"""
_VERSION_3 = """
ALTER TABLE jobs ADD COLUMN executor TEXT NOT NULL DEFAULT 'local';
ALTER TABLE jobs ADD COLUMN slurm_id TEXT NOT NULL DEFAULT '';
ALTER TABLE jobs ADD COLUMN slurm TEXT NOT NULL DEFAULT '';
ALTER TABLE jobs ADD COLUMN expected REAL;
"""
_STEPS = (_VERSION_1, _VERSION_2, _VERSION_3)  # step n brings a file of version n to version n + 1
VERSION = len(_STEPS)


def open_file(file: Path) -> sqlite3.Connection:
    """Open the queue's file, made or brought up to date where needed.

    A file that cannot be read is left as it is: it is named, and nothing is started in its place.
    Raises: QueueError if it is damaged, no queue of ours, of a newer version, or out of reach.
    """
    try:
        if not file.exists():
            _create(file)
        if file.stat().st_size == 0:
            raise _damaged(file, "is empty")
        connection = _connect(file)
    except sqlite3.OperationalError as error:
        raise QueueError(file, f"cannot be opened: {error}", _remedy(error)) from None
    except sqlite3.DatabaseError as error:
        raise _damaged(file, f"cannot be read: {error}") from None
    except OSError as error:
        what = f"cannot be opened: {error.strerror}"
        raise QueueError(file, what, "Set EMCFSYS_HOME to a folder you can write") from None
    return connection


def check_whole(connection: sqlite3.Connection, file: Path) -> None:
    """Read the whole file through.

    Raises: QueueError if it is damaged.
    """
    try:
        answer = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.DatabaseError as error:
        raise _damaged(file, f"cannot be read: {error}") from None
    if answer != "ok":
        raise _damaged(file, f"is damaged: {answer}")


def explain(file: Path, error: sqlite3.Error) -> QueueError:
    """Return what to tell a person about an error of sqlite."""
    if isinstance(error, sqlite3.OperationalError):
        return QueueError(file, f"cannot be used: {error}", _remedy(error))
    return _damaged(file, f"cannot be read: {error}")


def _create(file: Path) -> None:
    """Make the file beside its place and link it in: its name never stands for half a queue."""
    temporary = file.with_name(f"{file.name}.{os.getpid()}.{os.urandom(4).hex()}")
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        if file.exists():
            return  # another process was faster: its file is as good
        _set_aside_log(file)
        connection = sqlite3.connect(temporary, isolation_level=None)
        try:
            connection.execute(f"PRAGMA application_id = {APPLICATION}")
            _bring_up_to_date(connection, 0)
        finally:
            connection.close()
        os.link(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
        os.close(folder)


def _set_aside_log(file: Path) -> None:
    """Keep the log of a queue that was moved away out of the new one: it would be played back."""
    for suffix in ("-wal", "-shm", "-journal"):
        log = file.with_name(file.name + suffix)
        if log.exists():
            log.replace(file.with_name(f"{file.name}{suffix}.{time.time_ns()}"))


def _connect(file: Path) -> sqlite3.Connection:
    if not os.access(file, os.W_OK) or not os.access(file.parent, os.W_OK):
        return _connect_to_read(file)
    connection = sqlite3.connect(
        file, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
    )
    try:
        _check_kind(connection, file)
        version = _version(connection)
        if version < VERSION:
            _bring_up_to_date(connection, version)
        # A write-ahead log needs memory shared by all its users, which no network share has.
        mode = "DELETE" if network_type(file.parent) else "WAL"
        connection.execute(f"PRAGMA journal_mode = {mode}")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
    except (sqlite3.Error, QueueError):
        connection.close()
        raise
    return connection


def _connect_to_read(file: Path) -> sqlite3.Connection:
    uri = f"{file.as_uri()}?mode=ro"
    for form in (uri, f"{uri}&immutable=1"):
        connection = sqlite3.connect(
            form, uri=True, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
        )
        try:
            _check_kind(connection, file)
        except sqlite3.OperationalError:  # the log's shared memory cannot be made here
            connection.close()
        except (sqlite3.Error, QueueError):
            connection.close()
            raise
        else:
            return connection
    raise QueueError(file, "cannot be read on this read-only disk", "Mount it for writing")


def _check_kind(connection: sqlite3.Connection, file: Path) -> None:
    kind = connection.execute("PRAGMA application_id").fetchone()[0]
    if kind != APPLICATION:
        raise QueueError(file, "is no queue of EMCFsys", "Move it away, or set EMCFSYS_HOME")
    version = _version(connection)
    if version > VERSION:
        what = f"has version {version}, this EMCFsys knows {VERSION}"
        raise QueueError(file, what, "Update emcfsys-tui")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _bring_up_to_date(connection: sqlite3.Connection, version: int) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = max(version, _version(connection))  # another process may have been faster
        for step in _STEPS[version:]:
            for statement in step.split(";\n"):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except sqlite3.Error:
        connection.execute("ROLLBACK")
        raise


def _damaged(file: Path, what: str) -> QueueError:
    remedy = "It was left as it is; move it away to start with an empty queue: the runs stay whole"
    return QueueError(file, what, remedy)


def _remedy(error: sqlite3.OperationalError) -> str:
    text = str(error)
    if "full" in text:
        return "Free some space; nothing was changed"
    if "readonly" in text or "read-only" in text:
        return "Make its folder writable, or set EMCFSYS_HOME to another"
    if "locked" in text:
        return "Another program holds it; try again"
    return "Check the disk it is on"
