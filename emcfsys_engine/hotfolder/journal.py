"""The record of every act on a result: one JSON line each, appended, sealing those before it.

A line ends with `,"hash":"…"}`: the SHA-256 of all of the line before that, which begins with the
hash of the line above. Whoever changes a line must change all that follow, and the head that the
ledger notes; it is evidence of tampering, not a certificate.
Acts wait in the ledger, in one transaction with what they tell of, until their lines are on the
disk: a kill at any moment loses none and writes none twice.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import pwd
import socket
import sqlite3
import time
import uuid
from collections.abc import Generator, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from emcfsys_engine import any_names
from emcfsys_engine.errors import OutputError, printable
from emcfsys_engine.files import named_after, open_own, reading_own, remedy_of
from emcfsys_engine.hotfolder.places import FOLDER
from emcfsys_engine.hotfolder.tables import has_table

TABLES = """
CREATE TABLE IF NOT EXISTS acts (    -- that have no line in the journal yet
    number INTEGER PRIMARY KEY AUTOINCREMENT, line BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS head (hash TEXT NOT NULL);  -- of the journal's last line, as we left it
"""
NAME = "journal.jsonl"
_SEAL = b',"hash":"'
_LOST = b',"act":"lost","time":"'  # within a name its quotes would be escaped
_SEALED_BYTES = len(_SEAL) + 64 + len(b'"}')
_WAIT_S, _TURN_S = 10.0, 0.02  # for others who write: they need milliseconds
_MOST_OF_COMMAND = 80
_MOST_BYTES = 1 << 28  # of the last lines, which are looked through before an append


class Act(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One act on a result, by the watch or by a person."""

    id: str
    # predicted | redone | adopted | measured | accepted | rejected | corrected
    # limits_changed | recipe_changed
    # healed: a torn line was cut off | lost: lines were gone that the ledger knew of
    act: str
    time: str  # of the wall clock, UTC: the order of the lines is the truth, also of a wrong clock
    user: str
    host: str
    image: str = ""  # below the watched folder
    content: str = ""  # digest of the image
    masks: dict[str, str] = {}  # below the output folder, with their digests
    model: str = ""
    run: str = ""
    verdict: str = ""
    reasons: tuple[str, ...] = ()
    reason: str = ""  # in a person's words
    limits: dict[str, Any] = {}
    recipe: str = ""  # its id: by which the masks were made, or which is followed from now on


def act_of(act: str, **facts: Any) -> Act:
    """Return an act of this moment, user and machine."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    host = socket.gethostname()
    return Act(id=uuid.uuid4().hex, act=act, time=now, user=user_name(), host=host, **facts)


def user_name() -> str:
    """Return who runs this process, as the machine knows it; no variable can say otherwise."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


class Journal:
    """The journal of one output folder, held alone."""

    def __init__(self, file: Path, descriptor: int) -> None:
        self.file = file
        self._descriptor = descriptor

    def append(self, acts: Sequence[bytes], noted: str = "") -> str:
        """Append acts that have no line yet, on the disk; return the hash of the last line.

        A torn last line is cut off first, and told by a line of its own; so is it where the head
        that the ledger noted is gone: the next head would hide that lines were removed.
        Raises: OSError, OutputError, and the file is as it was.
        """
        tail, end, torn = self._tail(len(acts))
        known = {_id_of(line) for line in tail}
        new = [act for act in acts if _id_of(act) not in known]
        if noted and not self._has(noted, tail):
            told = f"lines are gone: the ledger knew of one with the hash {noted}"
            new.insert(0, any_names.encode(act_of("lost", reason=told)))
        if torn:
            told = f"a torn last line of {torn} bytes was cut off"
            new.insert(0, any_names.encode(act_of("healed", reason=told)))
        previous = _hash_of(tail[-1]) if tail else ""
        lines: list[bytes] = []
        for act in new:
            line = sealed(previous, act)
            lines.append(line)
            previous = _hash_of(line)
        if lines:
            self._write(b"".join(line + b"\n" for line in lines), end)
        return previous

    def _has(self, noted: str, tail: Sequence[bytes]) -> bool:
        """Tell whether a line has this hash: of a ledger that was put back, one far above."""
        if noted in map(_hash_of, tail):
            return True
        return any(_hash_of(line.removesuffix(b"\n")) == noted for line in _lines(self.file))

    def _write(self, content: bytes, end: int) -> None:
        os.ftruncate(self._descriptor, end)
        os.lseek(self._descriptor, end, os.SEEK_SET)
        try:
            while content:
                content = content[os.write(self._descriptor, content) :]
            os.fsync(self._descriptor)
        except OSError as error:
            os.ftruncate(self._descriptor, end)  # half a line is none
            raise named_after(error, self.file) from None

    def _tail(self, number: int) -> tuple[list[bytes], int, int]:
        """Return the last lines, at least so many, where they end, and the bytes behind."""
        size = os.fstat(self._descriptor).st_size
        start, wanted = size, 1 << 16
        content = b""
        while start > 0 and content.count(b"\n") < number + 2 and len(content) < _MOST_BYTES:
            first = max(0, start - wanted)
            content = os.pread(self._descriptor, start - first, first) + content
            start, wanted = first, 2 * wanted
        cut = content.rfind(b"\n") + 1
        if _is_sealed(content[cut:]):  # an editor, or a kill, took no more than its end
            os.pwrite(self._descriptor, b"\n", size)
            return self._tail(number)
        lines = content[:cut].split(b"\n")[:-1]
        return lines[1:] if start > 0 else lines, size - len(content) + cut, len(content) - cut


@contextlib.contextmanager
def held(output: Path) -> Generator[Journal]:
    """Hold the journal of an output folder: one writer at a time, others wait for a while.

    Raises: OSError as of a disk that is away, also where somebody holds it, or a folder lies there.
    """
    file = output / FOLDER / NAME
    try:
        descriptor = open_own(file, os.O_RDWR | os.O_CREAT, is_shared=True)
    except IsADirectoryError:
        what = "is a folder where the journal is to lie: move it away"
        raise OSError(errno.ENXIO, what, str(file)) from None
    try:
        _lock(descriptor, file)
        yield Journal(file, descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, file: Path) -> None:
    until = time.monotonic() + _WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > until:
                what = f"is held by {holder_of(descriptor)}: waited {_WAIT_S:g} s"
                raise OSError(errno.ETIMEDOUT, what, str(file)) from None
            time.sleep(_TURN_S)
        except OSError:  # some networks lock no files
            return


def holder_of(descriptor: int) -> str:
    """Return who has a file locked, as this machine knows it."""
    inode = f":{os.fstat(descriptor).st_ino}"
    try:
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()  # 1: FLOCK ADVISORY WRITE 123 fd:00:456 0 EOF
            if "FLOCK" in fields and "->" not in fields and fields[-3].endswith(inode):
                words = Path(f"/proc/{fields[-4]}/cmdline").read_bytes().replace(b"\0", b" ")
                name = printable(os.fsdecode(words).strip()[:_MOST_OF_COMMAND])
                return f"process {fields[-4]} ({name})"
    except (OSError, IndexError):
        pass
    return "another process, perhaps on another machine"


def lines_of(output: Path) -> Iterator[bytes]:
    """Yield the sound lines of a journal. Raises: OutputError where it cannot be read."""
    for whole in _lines(output / FOLDER / NAME):
        line = whole.removesuffix(b"\n")
        if _is_sealed(line):
            yield line


def ends_with(output: Path, noted: str) -> bool:
    """Tell whether the line with the hash that a ledger noted is the last; "" where there is none.

    Raises: OutputError where that cannot be seen.
    """
    try:
        with reading_own(output / FOLDER / NAME) as stream:
            size = os.fstat(stream.fileno()).st_size
            end = os.pread(stream.fileno(), _SEALED_BYTES + 1, max(0, size - _SEALED_BYTES - 1))
    except FileNotFoundError:
        return not noted
    except OSError as error:
        raise _unreadable(output / FOLDER / NAME, error) from None
    return (_hash_of(end.removesuffix(b"\n")) if end else "") == noted


def lines_after(output: Path, noted: str) -> Iterator[bytes]:
    """Yield the sound lines after that with the hash `noted`, all for ""; none where it is gone.

    Raises: OutputError where the journal cannot be read.
    """
    lines = lines_of(output)
    if noted:
        any(_hash_of(line) == noted for line in lines)  # goes on behind it
    yield from lines


def sealed(previous: str, act: bytes) -> bytes:
    """Return the line of an act that follows the line with the hash `previous`."""
    body = b'{"previous":"%s",%s' % (previous.encode(), act[1:-1])
    return body + _SEAL + hashlib.sha256(body).hexdigest().encode() + b'"}'


def keep_acts(connection: sqlite3.Connection, acts: Iterable[Act]) -> None:
    """Let acts wait in a ledger, within the transaction of the caller."""
    connection.executemany(
        "INSERT INTO acts (line) VALUES (?)", [(any_names.encode(act),) for act in acts]
    )


def write_kept(connection: sqlite3.Connection, output: Path) -> None:
    """Write the acts that wait; read and forgotten while the journal is held, so never twice.

    Raises: OSError, sqlite3.Error: they go on waiting.
    """
    if connection.execute("SELECT 1 FROM acts LIMIT 1").fetchone() is None:
        return
    with held(output) as journal:
        rows = connection.execute("SELECT number, line FROM acts ORDER BY number").fetchall()
        if not rows:
            return
        head = journal.append([os.fsencode(line) for _, line in rows], noted_head(connection))
        with connection:
            connection.executemany("DELETE FROM acts WHERE number = ?", [row[:1] for row in rows])
            _note_head(connection, head)


def ids_waiting(connection: sqlite3.Connection) -> set[str]:
    """Return the ids of the acts that wait for their lines: a kill may have let some have them."""
    return {_id_of(os.fsencode(line)) for (line,) in connection.execute("SELECT line FROM acts")}


def note_read(connection: sqlite3.Connection, last: bytes) -> None:
    """Note, within the caller's transaction, that a ledger knows all up to this line."""
    _note_head(connection, _hash_of(last))


def _note_head(connection: sqlite3.Connection, head: str) -> None:
    connection.execute("DELETE FROM head")
    connection.execute("INSERT INTO head VALUES (?)", (head,))


def noted_head(connection: sqlite3.Connection) -> str:
    """Return the hash of the journal's last line as a ledger notes it; "" where it has none."""
    if not has_table(connection, "head"):
        return ""
    row = connection.execute("SELECT hash FROM head").fetchone()
    return str(row[0]) if row else ""


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What a look through a whole journal found."""

    lines: int  # that are whole and sound, from the first on
    head: str  # hash of the last of them
    fault: str = ""  # of the first line that is not as it was written; empty: there is none
    torn_bytes: int = 0  # of a last line that a kill left; the next append cuts them off


def verify(output: Path, noted: str = "") -> Verified:
    """Look through a journal: the whole chain, or the first line that was changed.

    `noted`: the head that the ledger noted, which must be in the chain: else lines are gone.
    A chain that is whole, and tells of lines that are gone, is at fault for ever.
    Raises: OutputError where it cannot be read.
    """
    previous, number, fault, has_noted, torn, lost = "", 0, "", not noted, 0, ""
    for whole in _lines(output / FOLDER / NAME):
        line = whole.removesuffix(b"\n")
        if line == whole and not _is_sealed(line):
            torn = len(line)
            break
        if why := _why_unsound(line, previous):
            fault = f"line {number + 1} {why}"
            break
        previous, number = _hash_of(line), number + 1
        has_noted = has_noted or previous == noted
        if _LOST in line and not lost:
            lost = f"line {number} tells that lines before it are gone"
    if not fault and not has_noted:
        fault = f"lines after line {number} are gone: the ledger knows of a later one"
    return Verified(lines=number, head=previous, fault=fault or lost, torn_bytes=torn)


def _lines(file: Path) -> Iterator[bytes]:
    try:
        with reading_own(file) as stream:
            yield from stream
    except FileNotFoundError:
        return
    except OSError as error:
        raise _unreadable(file, error) from None


def _unreadable(file: Path, error: OSError) -> OutputError:
    what = f"cannot be read: {error.strerror}"
    return OutputError(file, what, remedy_of(error), errno=error.errno or 0)


def _is_sealed(line: bytes) -> bool:
    body, seal = line[:-_SEALED_BYTES], line[-_SEALED_BYTES:]
    return seal == _SEAL + hashlib.sha256(body).hexdigest().encode() + b'"}'


def _why_unsound(line: bytes, previous: str) -> str:
    if not _is_sealed(line):
        return "was changed: its hash is another"
    if not line.startswith(b'{"previous":"%s",' % previous.encode()):
        return "does not follow the line above: lines were removed, added or moved"
    return ""


def _hash_of(line: bytes) -> str:
    """Return the hash that a line ends with; of what is no line of ours, that of its bytes."""
    seal = line[-_SEALED_BYTES:]
    if seal.startswith(_SEAL) and seal.endswith(b'"}'):
        return seal[len(_SEAL) : -2].decode("ascii", "replace")
    return hashlib.sha256(line).hexdigest()


def _id_of(line: bytes) -> str:
    try:
        return str(any_names.decode(line, dict[str, Any])["id"])
    except (msgspec.MsgspecError, KeyError):
        return ""
