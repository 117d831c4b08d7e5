"""A thread that reads again and again, and posts one message a batch."""

import threading
from collections.abc import Callable

from textual.message import Message
from textual.widget import Widget


class Feed:
    """Calls `read` every so often in a thread worker of `owner`; what it returns is posted.

    `read` returns None when nothing changed. While paused nothing is read.
    """

    def __init__(
        self, owner: Widget, read: Callable[[], Message | None], *, every_s: float
    ) -> None:
        self._owner = owner
        self._read = read
        self._every_s = every_s
        self._look_now = threading.Event()
        self._ended = threading.Event()
        self._awake = threading.Event()
        self._awake.set()
        owner.run_worker(self._loop, thread=True, group="feed", exit_on_error=True)

    @property
    def has_ended(self) -> bool:
        """Tell whether nothing more will be read."""
        return self._ended.is_set()

    def look_now(self) -> None:
        """Read at once, without waiting for the next turn."""
        self._look_now.set()

    def pause(self, is_paused: bool) -> None:
        """Read nothing while nobody looks."""
        if is_paused:
            self._awake.clear()
        else:
            self._awake.set()
            self._look_now.set()

    def end(self) -> None:
        """Read no more."""
        self._ended.set()
        self._awake.set()
        self._look_now.set()

    def _loop(self) -> None:
        while not self._ended.is_set():
            self._look_now.clear()
            message = self._read()
            if self._ended.is_set():
                return
            if message is not None:
                self._owner.post_message(message)
            self._look_now.wait(self._every_s)
            self._awake.wait()
