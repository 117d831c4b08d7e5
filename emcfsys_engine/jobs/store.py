"""The queue's rows: read as Jobs, moved by guarded transactions; who waits is woken."""

import contextlib
import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from emcfsys_engine.errors import QueueError
from emcfsys_engine.files import identity_of, uri_to_read
from emcfsys_engine.jobs.job import OPEN, Job, JobState, SlurmOrder, sources
from emcfsys_engine.jobs.state_folder import network_type

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
_VERSION_4 = """
ALTER TABLE jobs ADD COLUMN run_created REAL NOT NULL DEFAULT 0;
"""
# Step n brings a file of version n to version n + 1.
_STEPS = (_VERSION_1, _VERSION_2, _VERSION_3, _VERSION_4)
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
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # also sqlite's own words of it
        raise _damaged(file, f"cannot be read: {error}") from None
    except OSError as error:
        what = f"cannot be opened: {error.strerror}"
        raise QueueError(file, what, "Set EMCFSYS_HOME to a folder you can write") from None
    return connection


def open_jobs_in(file: Path) -> list[tuple[int, str]]:
    """Return number and run of each open job in another host's queue, of whatever version.

    Raises: QueueError where it cannot be read.
    """
    states = ", ".join("?" * len(OPEN))
    query = f"SELECT id, run FROM jobs WHERE state IN ({states})"
    try:
        with contextlib.closing(sqlite3.connect(uri_to_read(file), uri=True)) as found:
            found.text_factory = _text
            return [(int(number), str(run)) for number, run in found.execute(query, [*OPEN])]
    except (sqlite3.Error, ValueError) as error:
        raise QueueError(file, f"cannot be read: {error}", "See its host") from None


def check_whole(connection: sqlite3.Connection, file: Path) -> None:
    """Read the whole file through.

    Raises: QueueError if it is damaged.
    """
    try:
        answer = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
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
    connection.text_factory = _text
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
    uri = uri_to_read(file)
    for form in (uri, f"{uri}&immutable=1"):
        connection = sqlite3.connect(
            form, uri=True, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
        )
        connection.text_factory = _text
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


def _text(content: bytes) -> str:
    """Return a text of the file: one bad byte spoils its own row, not every answer."""
    return content.decode("utf-8", "surrogateescape")


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


_COLUMNS = tuple(field.name for field in msgspec.structs.fields(Job) if field.name != "after")
_SELECT = "SELECT " + ", ".join(f'"{name}"' for name in _COLUMNS) + " FROM jobs"
_FEW = 200  # jobs whose needs are looked up one by one rather than all
_LISTS = ("gpu_ids", "evidence")
_JSON = (*_LISTS, "slurm")
_LIST_DECODER = msgspec.json.Decoder(tuple[str, ...])
_ORDER_DECODER = msgspec.json.Decoder(SlurmOrder)


class Store:
    """One open queue file; safe to share between threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "queue.sqlite"
        self.wake_file = folder / "wake"  # a pipe the daemon listens at
        self._lock = threading.RLock()
        self._connection = open_file(self.file)
        self._inode = self.file.stat().st_ino
        self._place = identity_of(folder)  # of the disk that it is on

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    @contextlib.contextmanager
    def reading(self) -> Generator[sqlite3.Connection]:
        """Lend the connection for a look.

        Raises: QueueError if the file cannot be read.
        """
        with self._lock, self._explained():
            yield self._current()

    @contextlib.contextmanager
    def transaction(self) -> Generator[sqlite3.Connection]:
        """Run statements of which all or none happen, then wake the daemon; may be nested.

        Raises: QueueError if the file cannot be written; nothing has changed then.
        """
        with self._lock, self._explained():
            connection = self._current()
            if connection.in_transaction:
                yield connection
                return
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        self.wake()

    def set_patience(self, seconds: float) -> None:
        """Wait that long, and no longer, while another process writes."""
        with self._lock, self._explained():
            self._current().execute(f"PRAGMA busy_timeout = {round(1000 * seconds)}")

    def version(self) -> tuple[int, int]:
        """Return a mark that changes whenever another process changed the queue."""
        with self._lock, self._explained():
            connection = self._current()
            return self._inode, int(connection.execute("PRAGMA data_version").fetchone()[0])

    def check_whole(self) -> None:
        """Read the whole file through.

        Raises: QueueError if it is damaged.
        """
        with self._lock:
            check_whole(self._current(), self.file)

    def jobs(self, where: str = "1", *values: Any, limit: int = -1) -> list[Job]:
        """Return the jobs that a condition holds for, in the order in which they start.

        Raises: QueueError if the file cannot be read.
        """
        query = f"{_SELECT} WHERE {where} ORDER BY priority DESC, position, id LIMIT ?"
        with self._lock, self._explained():
            connection = self._current()
            rows = connection.execute(query, (*values, limit)).fetchall()
            needs = _needs(connection, [row[0] for row in rows])
            found = [_job(row, needs) for row in rows]
        return [job for job in found if job is not None]

    def damaged(self) -> list[int]:
        """Return the numbers of the jobs whose rows cannot be read: nothing is done with them.

        Raises: QueueError if the file cannot be read.
        """
        with self._lock, self._explained():
            rows = self._current().execute(_SELECT).fetchall()
            return [row[0] for row in rows if _job(row, {}) is None]

    def job(self, job_id: int) -> Job:
        """Return one job.

        Raises: QueueError if there is none with this number.
        """
        found = self.jobs("id = ?", job_id)
        if not found:
            raise QueueError(
                f"job {job_id}", "there is no such job", "emcfsys-engine jobs lists them"
            )
        return found[0]

    def wake(self) -> None:
        """Tell the daemon that there is something to do; nothing happens when none runs."""
        with contextlib.suppress(OSError):  # no daemon, or its pipe is full: it looks by itself too
            descriptor = os.open(self.wake_file, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                os.write(descriptor, b"!")
            finally:
                os.close(descriptor)

    def _current(self) -> sqlite3.Connection:
        """Return the connection, opened anew when somebody moved the file away."""
        if self._connection.in_transaction:
            return self._connection
        try:
            inode = self.file.stat().st_ino
        except FileNotFoundError:
            inode = -1
            if identity_of(self.folder) != self._place:  # what is there is an empty mount point
                remedy = "It is waited for; mount it again"
                raise QueueError(self.folder, "is away: its disk is not there", remedy) from None
        except OSError as error:
            remedy = "It is waited for"
            raise QueueError(self.file, f"cannot be read: {error.strerror}", remedy) from None
        if inode != self._inode:
            opened = open_file(self.file)  # the old one is good until another is
            self._connection.close()
            self._connection, self._inode = opened, self.file.stat().st_ino
            self._place = identity_of(self.folder)
        return self._connection

    @contextlib.contextmanager
    def _explained(self) -> Generator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise explain(self.file, error) from error
        except UnicodeDecodeError as error:
            raise _damaged(self.file, f"cannot be read: {error}") from error
        except OverflowError:
            what = "cannot hold a number that large: no job has it"
            raise QueueError(self.file, what, "Name a smaller one") from None


def move(
    connection: sqlite3.Connection,
    job_id: int,
    to: JobState,
    *,
    token: str | None = None,
    columns: Mapping[str, Any] = MappingProxyType({}),
) -> bool:
    """Move a job to another state if that is legal from where it is; False when it is not.

    `token`: only while this start is the job's newest.
    """
    legal = sources(to)
    values = {"state": to, **{name: _stored(name, value) for name, value in columns.items()}}
    changes = ", ".join(f'"{name}" = ?' for name in values)
    marks = ", ".join("?" * len(legal))
    query = f"UPDATE jobs SET {changes} WHERE id = ? AND state IN ({marks})"
    parameters = [*values.values(), job_id, *legal]
    if token is not None:
        query += " AND token = ?"
        parameters.append(token)
    moved = connection.execute(query, parameters).rowcount == 1
    if moved:
        note(connection, job_id, to, str(columns.get("reason", "")))
    return moved


def note(connection: sqlite3.Connection, job_id: int, state: JobState, reason: str) -> None:
    """Add a line to a job's history."""
    query = "INSERT INTO history (job, time, state, reason) VALUES (?, ?, ?, ?)"
    connection.execute(query, (job_id, time.time(), state, reason))


def _stored(name: str, value: Any) -> Any:
    return msgspec.json.encode(value).decode() if name in _JSON else value


def _needs(connection: sqlite3.Connection, ids: Sequence[int]) -> dict[int, tuple[int, ...]]:
    needs: dict[int, tuple[int, ...]] = {}
    few = len(ids) <= _FEW
    condition = f"WHERE job IN ({', '.join('?' * len(ids))})" if few else ""
    query = f"SELECT job, needs FROM needs {condition} ORDER BY job, needs"
    for job_id, needed in connection.execute(query, ids if few else ()):
        needs[job_id] = (*needs.get(job_id, ()), needed)
    return needs


def _job(row: tuple[Any, ...], needs: dict[int, tuple[int, ...]]) -> Job | None:
    """Return the job of a row; None for a row that a bad byte made nonsense."""
    values = dict(zip(_COLUMNS, row, strict=True))
    values["after"] = needs.get(values["id"], ())
    try:
        for name in _LISTS:
            values[name] = _LIST_DECODER.decode(values[name]) if values[name] else ()
        values["slurm"] = _ORDER_DECODER.decode(values["slurm"]) if values["slurm"] else None
        job = msgspec.convert(values, Job)
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError):
        return None
    return job if Path(job.run).is_absolute() and "\0" not in job.run else None
