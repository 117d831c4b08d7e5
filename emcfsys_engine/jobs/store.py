"""The queue's rows: read as Jobs, moved by guarded transactions; who waits is woken."""

import contextlib
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
from emcfsys_engine.jobs import schema
from emcfsys_engine.jobs.job import Job, JobState, SlurmOrder, sources

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
        self._connection = schema.open_file(self.file)
        self._inode = self.file.stat().st_ino

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
            schema.check_whole(self._current(), self.file)

    def jobs(self, where: str = "1", *values: Any, limit: int = -1) -> list[Job]:
        """Return the jobs that a condition holds for, in the order in which they start.

        Raises: QueueError if the file cannot be read.
        """
        query = f"{_SELECT} WHERE {where} ORDER BY priority DESC, position, id LIMIT ?"
        with self._lock, self._explained():
            connection = self._current()
            rows = connection.execute(query, (*values, limit)).fetchall()
            needs = _needs(connection, [row[0] for row in rows])
            return [_job(row, needs) for row in rows]

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
        if inode != self._inode:
            self._connection.close()
            self._connection = schema.open_file(self.file)
            self._inode = self.file.stat().st_ino
        return self._connection

    @contextlib.contextmanager
    def _explained(self) -> Generator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise schema.explain(self.file, error) from error
        except msgspec.MsgspecError as error:
            what = f"holds a row that cannot be read: {error}"
            raise QueueError(self.file, what, "Move it away: the runs stay whole") from error


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


def _job(row: tuple[Any, ...], needs: dict[int, tuple[int, ...]]) -> Job:
    values = dict(zip(_COLUMNS, row, strict=True))
    for name in _LISTS:
        values[name] = _LIST_DECODER.decode(values[name]) if values[name] else ()
    values["slurm"] = _ORDER_DECODER.decode(values["slurm"]) if values["slurm"] else None
    return Job(**values, after=needs.get(values["id"], ()))
