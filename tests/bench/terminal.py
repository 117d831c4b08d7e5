"""A program on a real pty: what it writes, when, and what it costs."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from tests.waiting import PATIENCE_S

_TOKEN = re.compile(
    r"\x1b\[(?:(?P<row>\d+);(?P<column>\d+))?H|\x1b\[(?P<ahead>\d*)C|\x1b\[[\d;?<>=]*[ -/]*[@-~]"
    r"|\x1b[\]P_].*?(?:\x1b\\|\x07)|\x1b.|[\x00-\x1f]|(?P<letter>.)",
    re.DOTALL,
)


class Terminal:
    """Runs a program in a terminal of its own and reads what it draws."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        size: tuple[int, int] = (80, 24),
    ) -> None:
        self._master, slave = pty.openpty()
        self.resize(*size)
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
        self.started = time.perf_counter()
        self.child = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            # A terminal's shell hears of a hang-up, also where nohup started us.
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
            env={**os.environ, "TERM": "xterm-256color", "COLORTERM": "", **environment},
        )
        os.close(slave)
        self.num_bytes = 0
        self.text = ""
        self._cells: dict[tuple[int, int], str] = {}
        self._place = (1, 1)

    def resize(self, columns: int, lines: int) -> None:
        """Give the terminal another size."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def read_for(self, seconds: float) -> bytes:
        """Return what is drawn within this time."""
        return self._read(time.perf_counter() + seconds, None)

    def wait_for(self, pattern: str, *, limit_s: float = PATIENCE_S) -> float:
        """Wait until the pattern is drawn; return the seconds since the program's start."""
        self._read(time.perf_counter() + limit_s, re.compile(pattern))
        if not re.search(pattern, self.text):
            raise TimeoutError(f"{pattern!r} was not drawn in {limit_s} s: {self.text[-300:]!r}")
        return time.perf_counter() - self.started

    def wait_until_shown(self, pattern: str, *, limit_s: float = PATIENCE_S) -> float:
        """Wait until a line of the screen has the pattern, whatever parts of it were there before.

        Return the seconds since the program's start.
        """
        until = time.perf_counter() + limit_s
        while not any(re.search(pattern, line) for line in self.lines()):
            if time.perf_counter() > until:
                shown = "\n".join(self.lines())
                raise TimeoutError(f"{pattern!r} was not shown in {limit_s} s: {shown}")
            self._read(min(until, time.perf_counter() + 0.02), None)
        return time.perf_counter() - self.started

    def lines(self) -> list[str]:
        """Return what stands on the screen."""
        if not self._cells:
            return []
        wide = max(column for _, column in self._cells)
        return [
            "".join(self._cells.get((row, column), " ") for column in range(1, wide + 1))
            for row in range(1, max(row for row, _ in self._cells) + 1)
        ]

    def _draw(self, text: str) -> None:
        """Keep the screen's characters: places, jumps ahead and text are all that is written."""
        for match in _TOKEN.finditer(text):
            row, column = self._place
            if match["row"] is not None or match[0].endswith("H"):
                self._place = int(match["row"] or 1), int(match["column"] or 1)
            elif match["ahead"] is not None:
                self._place = row, column + int(match["ahead"] or 1)
            elif match["letter"]:
                self._cells[row, column] = match["letter"]
                self._place = row, column + 1

    def press(self, keys: str) -> None:
        """Type keys; what was drawn before is forgotten."""
        self.text = ""
        os.write(self._master, keys.encode())

    def answer_s(self, keys: str, *, limit_s: float = 5) -> float:
        """Return the seconds from a key to the first thing that is drawn after it."""
        self.read_for(0.02)
        before = time.perf_counter()
        self.press(keys)
        ready, _, _ = select.select([self._master], [], [], limit_s)
        if not ready:
            raise TimeoutError(f"nothing was drawn after {keys!r}")
        return time.perf_counter() - before

    def cpu_s(self) -> float:
        """Return the processor time that the program itself took so far."""
        times = psutil.Process(self.child.pid).cpu_times()
        return times.user + times.system

    def hang_up(self) -> None:
        """Be gone, without a signal: as where the shell keeps SIGHUP from its programs."""
        os.close(self._master)

    def close(self) -> None:
        """End the program."""
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGKILL)
        self.child.wait()
        os.close(self._master)

    def _read(self, until: float, pattern: re.Pattern[str] | None) -> bytes:
        found = b""
        while (left := until - time.perf_counter()) > 0:
            ready, _, _ = select.select([self._master], [], [], left)
            if not ready:
                break
            try:
                block = os.read(self._master, 1 << 16)
            except OSError:  # the program is gone
                break
            found += block
            self.num_bytes += len(block)
            text = block.decode("utf-8", "replace")
            self.text += text
            self._draw(text)
            if pattern is not None and pattern.search(self.text):
                break
        return found


def project_environment(home: Path) -> dict[str, str]:
    """Return an environment in which nothing of the user is read or written."""
    root = str(Path(__file__).resolve().parents[2])
    return {
        "EMCFSYS_HOME": str(home / "state"),
        "XDG_CONFIG_HOME": str(home / "config"),
        "XDG_CACHE_HOME": str(home / "cache"),
        "PYTHONPATH": root,
    }
