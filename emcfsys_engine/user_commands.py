"""The commands of a person's own config file: after a job, after an image; without a shell."""

import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from emcfsys_engine.launch import processes

_LONGEST_NOTIFICATION_S = 60.0


class EndedJob(Protocol):
    """What a notice says of a job."""

    @property
    def id(self) -> int: ...
    @property
    def project(self) -> str: ...
    @property
    def run(self) -> str: ...


class Notices:
    """Notices under way: none holds the daemon up."""

    def __init__(self, command: Sequence[str]) -> None:
        self.command = list(command)
        self._running: list[tuple[subprocess.Popen[bytes], float]] = []
        self._lock = threading.Lock()  # told from two threads

    def tell(self, job: EndedJob, state: str, reason: str) -> None:
        """Start the user's command for a job that ended, with the facts in its environment."""
        if not self.command:
            return
        facts = {
            "EMCFSYS_JOB": str(job.id),
            "EMCFSYS_JOB_STATE": state,
            "EMCFSYS_JOB_REASON": reason.replace("\0", ""),
            "EMCFSYS_JOB_PROJECT": job.project,
            "EMCFSYS_JOB_RUN": job.run,
        }
        environment = {
            name: value for name, value in os.environ.items() if name != processes.COOKIE
        }
        try:
            child = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={**environment, **facts},
            )
        except OSError as error:
            print(f"notify.command could not be started: {error}", flush=True)
        else:
            with self._lock:
                self._running.append((child, time.monotonic() + _LONGEST_NOTIFICATION_S))

    def reap(self) -> None:
        """Collect the commands that ended, and end those that take too long."""
        with self._lock:
            self._running = [one for one in self._running if one[0].poll() is None]
            for child, deadline in self._running:
                if time.monotonic() > deadline:
                    os.killpg(child.pid, signal.SIGKILL)

    def close(self) -> None:
        """Let the last commands end by themselves."""
        for child, _ in self._running:
            if child.poll() is None:
                child.returncode = 0  # nobody waits for it any more
        self._running = []


_LONGEST_HOOK_S = 300.0


class Hook:
    """Runs the command image after image in a thread; a slow one never delays a mask."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)
        self._images: queue.Queue[dict[str, str] | None] = queue.Queue()
        self._thread: threading.Thread | None = None
        if self._command:
            self._thread = threading.Thread(target=self._work, name="hook", daemon=True)
            self._thread.start()

    def run(self, *, image: Path, mask: Path | None, unlike: str) -> None:
        """Queue the command for one image."""
        if self._thread is not None:
            self._images.put(
                {
                    "EMCFSYS_IMAGE": str(image),
                    "EMCFSYS_MASK": str(mask or ""),
                    "EMCFSYS_UNLIKE": unlike,
                }
            )

    def close(self) -> None:
        """Let the commands that wait finish, for a while."""
        if self._thread is not None:
            self._images.put(None)
            self._thread.join(_LONGEST_HOOK_S)

    def _work(self) -> None:
        while (names := self._images.get()) is not None:
            try:
                subprocess.run(
                    self._command,
                    env={**os.environ, **names},
                    stdin=subprocess.DEVNULL,
                    timeout=_LONGEST_HOOK_S,
                    check=False,
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                print(f"hook: {self._command[0]}: {error}", flush=True)  # log.txt of the run
