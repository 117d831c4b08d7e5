"""The user's own command for each finished image: argv without a shell, names as variables."""

import os
import queue
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

_LONGEST_S = 300.0


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
            self._thread.join(_LONGEST_S)

    def _work(self) -> None:
        while (names := self._images.get()) is not None:
            try:
                subprocess.run(
                    self._command,
                    env={**os.environ, **names},
                    stdin=subprocess.DEVNULL,
                    timeout=_LONGEST_S,
                    check=False,
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                print(f"hook: {self._command[0]}: {error}", flush=True)  # log.txt of the run
