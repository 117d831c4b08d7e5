"""The commands of a person's own config file: after a job, after an image; without a shell."""

import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from emcfsys_engine.hotfolder.groups import Group
from emcfsys_engine.hotfolder.ledger import Due
from emcfsys_engine.launch import processes
from emcfsys_engine.launch.start import SAFE_PATH

_LONGEST_NOTIFICATION_S = 60.0


class EndedJob(Protocol):
    """What a notice says of a job."""

    @property
    def id(self) -> int: ...
    @property
    def project(self) -> str: ...
    @property
    def run(self) -> str: ...


def _without(environment: Mapping[str, str], *names: str) -> dict[str, str]:
    """Return variables without those that we set for ourselves."""
    return {name: value for name, value in environment.items() if name not in names}


def _kill_all_of(child: "subprocess.Popen[bytes]") -> None:
    """Kill a command that takes too long with all that it began, its group; where we may.

    What runs as another user, as by sudo, is left to itself.
    """
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)


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
        try:
            child = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={**_without(os.environ, processes.COOKIE, *SAFE_PATH), **facts},
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
                    _kill_all_of(child)

    def close(self) -> None:
        """Let the last commands end by themselves."""
        for child, _ in self._running:
            if child.poll() is None:
                child.returncode = 0  # nobody waits for it any more
        self._running = []


_LONGEST_HOOK_S = 300.0
_LONGEST_END_S = 5.0  # what has not run by then is due at the next start


class Hook:
    """Runs the command image after image, or group after group, in a thread: no mask is delayed.

    `root` and `output` are the folders that what is due is named below.
    """

    def __init__(self, command: Sequence[str], root: Path, output: Path) -> None:
        self._command = list(command)
        self._root, self._output = root, output
        self._waiting: queue.Queue[Due | Group | None] = queue.Queue()
        self._has_run: queue.Queue[Due] = queue.Queue()
        self._is_ending = False
        self._thread: threading.Thread | None = None
        if self._command:
            self._thread = threading.Thread(target=self._work, name="hook", daemon=True)
            self._thread.start()

    @property
    def is_wanted(self) -> bool:
        """Tell whether there is a command at all."""
        return bool(self._command)

    def run(self, due: Due | Group) -> None:
        """Queue the command for one image, or for a group that is judged otherwise than before."""
        if self._thread is not None:
            self._waiting.put(due)

    def that_have_run(self) -> list[Due]:
        """Return for which images the command has run since this was asked last."""
        found: list[Due] = []
        with suppress(queue.Empty):
            while True:
                found.append(self._has_run.get_nowait())
        return found

    def close(self, *, all_of_them: bool) -> None:
        """End: after all commands that wait, or only after the one that runs, for a while."""
        if self._thread is not None:
            self._is_ending = not all_of_them
            self._waiting.put(None)
            self._thread.join(_LONGEST_HOOK_S if all_of_them else _LONGEST_END_S)

    def _work(self) -> None:
        while (due := self._waiting.get()) is not None and not self._is_ending:
            try:
                self._run({**_without(os.environ, *SAFE_PATH), **self._facts(due)})
            except (OSError, ValueError, subprocess.TimeoutExpired) as error:
                print(f"hook: {self._command[0]}: {error}", flush=True)  # log.txt of the run
            if isinstance(due, Due):
                self._has_run.put(due)

    def _facts(self, due: Due | Group) -> dict[str, str]:
        reasons = {"EMCFSYS_VERDICT_REASONS": "; ".join(due.reasons)}
        if isinstance(due, Group):
            return reasons | {
                "EMCFSYS_GROUP": due.name,
                "EMCFSYS_VERDICT": due.state,
                "EMCFSYS_VERDICT_BEFORE": due.announced or "",
            }
        return reasons | {
            "EMCFSYS_IMAGE": str(self._root / due.path),
            "EMCFSYS_MASK": str(self._output / due.mask) if due.mask else "",
            "EMCFSYS_UNLIKE": due.unlike,
            "EMCFSYS_VERDICT": due.verdict,
        }

    def _run(self, environment: Mapping[str, str]) -> None:
        """Run the command in a session of its own: what it does to its group, as `kill 0`, is its.

        Raises: OSError, ValueError if it cannot be started; TimeoutExpired once it was killed.
        """
        child = subprocess.Popen(
            self._command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True
        )
        try:
            child.wait(_LONGEST_HOOK_S)
        except subprocess.TimeoutExpired:
            _kill_all_of(child)
            with suppress(subprocess.TimeoutExpired):
                child.wait(_LONGEST_END_S)
            raise
