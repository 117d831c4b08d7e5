"""What every tab has: a project, the queue, a command that does the same, and deeds in threads."""

import threading
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from textual.message import Message
from textual.reactive import reactive
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Input

from emcfsys_engine.errors import EmcfError
from emcfsys_engine.text import for_shell
from emcfsys_tui.messages import NoticeFound, RunsChanged, TextFound, Told
from emcfsys_tui.view_models import Deed, Notice, QueueState
from emcfsys_tui.widgets.boxes import Boxed

if TYPE_CHECKING:
    from emcfsys_tui.app import EmcfApp


GONE = "The project is gone: its folder, or project.toml. Bring it back, or q leaves it."


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


_SAVED = "Cancel: for good; what was reached is saved"
ENDS = {
    "train": {
        "stop": "Stop early: what was reached is its result",
        "pause": "Pause: saved; it goes on when you resume it",
        "cancel": _SAVED,
    },
    "predict": {"pause": "Pause: it goes on when you resume it", "cancel": _SAVED},
    "evaluate": {"pause": "Pause: it goes on when you resume it", "cancel": _SAVED},
    "measure": {"pause": "Pause: it goes on when you resume it", "cancel": _SAVED},
    "convert": {"pause": "Pause: it goes on when you resume it", "cancel": _SAVED},
    "watch": {"cancel": "Stop watching: later images wait for the next start"},
}
_UNBEGUN = {
    "pause": "Pause: it keeps its place in the queue",
    "cancel": "Cancel: it does not begin",
}


class Pane(Boxed):
    """One tab of a project."""

    is_shown: reactive[bool] = reactive(False, repaint=False)
    queue_state: reactive[QueueState] = reactive(QueueState(), repaint=False)

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    @property
    def page_app(self) -> "EmcfApp":
        """The application, by its own class."""
        return cast("EmcfApp", self.app)

    @property
    def is_built(self) -> bool:
        """Whether all that is inside stands: a watcher may be called before that."""
        return bool(self.children) and all(child.is_mounted for child in self.children)

    @property
    def command(self) -> str:
        """The engine command that does or shows the same."""
        return f"emcfsys-engine runs {for_shell(self.folder)}"

    def take_focus(self) -> None:
        """Give the keyboard to the part that is used first."""

    def look_now(self) -> None:
        """Read again at once."""

    def go_to_item(self, item: str) -> None:
        """Put the cursor on something another tab points to."""

    def may_change(self) -> bool:
        """Tell whether things may be changed here, and say so when not."""
        return self.page_app.may_change()

    def attempt(self, work: Callable[[], Message | str | None]) -> None:
        """Do something in a thread; its word, or why it could not be done, is told."""
        self.run_worker(partial(self._attempt, work), thread=True, group="deed")

    @property
    def unsaved(self) -> str:
        """What would be lost if the person left now; empty: nothing."""
        return ""

    def confirm(self, question: str, yes: str, work: Callable[[], None]) -> None:
        """Ask first, then do it."""

        def answered(answer: bool | None) -> None:
            if answer:
                work()

        confirm = import_module("emcfsys_tui.screens.dialogs").ConfirmScreen
        self.app.push_screen(confirm(question, yes), answered)

    def ask_how_to_end(
        self, name: str, kind: str, state: str, do: Callable[[str], Callable[[], str]]
    ) -> None:
        """Ask once whether and how something shall end: the same window wherever it is asked.

        `kind`: train, predict, measure or watch; `do` returns the work for stop, pause or cancel.
        """
        wanted = ENDS[kind] if kind == "watch" or state in ("running", "stopping") else _UNBEGUN
        choices = {"": f"Let {name} go on", **wanted}

        def answered(ask: str | None) -> None:
            if ask:
                self.attempt(do(ask))

        pick = import_module("emcfsys_tui.screens.dialogs").PickScreen
        self.app.push_screen(pick(f"{name} is {state}. Shall it end?", choices), answered)

    def on_text_found(self, event: TextFound) -> None:
        """Show a text that was asked for."""
        reader = import_module("emcfsys_tui.screens.dialogs").TextScreen
        self.open_over(reader(event.title, event.text), event.title)

    def on_notice_found(self, event: NoticeFound) -> None:
        """Open the whole message, and do what the person then asks for."""
        notice = event.notice

        def answered(deed: Deed | None) -> None:
            if deed is not None:
                self.act_on(notice, deed)

        reader = import_module("emcfsys_tui.screens.message").MessageScreen
        self.open_over(reader(notice), notice.title, answered)

    def act_on(self, notice: Notice, deed: Deed) -> None:
        """Do what a message offers; each tab knows its own deeds."""

    def open_over(
        self, screen: Screen[Any], title: str, answered: Callable[[Any], None] | None = None
    ) -> None:
        """Open a window over this tab; not over what the person went on to meanwhile."""
        if self.is_shown and self.screen is self.app.screen:
            self.app.push_screen(screen, answered)
        else:
            self.page_app.tell(f"{title}: not opened, you went on meanwhile")

    def _attempt(self, work: Callable[[], Message | str | None]) -> None:
        try:
            found = work()
        except (EmcfError, OSError) as error:
            self.post_message(Told(str(error), "error"))
            return
        if isinstance(found, Message):
            self.post_message(found)
            return
        if found:
            self.post_message(Told(found))
        self.post_message(RunsChanged())


class FedPane(Pane):
    """A tab that reads again and again in a thread, only while somebody looks."""

    _feed: Feed | None = None

    def feed_on(self, read: Callable[[], Message | None], *, every_s: float) -> None:
        """Begin to read."""
        self._feed = Feed(self, read, every_s=every_s)

    def on_unmount(self) -> None:
        """Let the thread end; Textual calls this beside a tab's own `on_unmount`."""
        if self._feed is not None:
            self._feed.end()

    def watch_is_shown(self, is_shown: bool) -> None:
        """Read only while somebody looks."""
        if self._feed is not None:
            self._feed.pause(not is_shown)

    def look_now(self) -> None:
        """Read at once."""
        if self._feed is not None:
            self._feed.look_now()

    def open_filter(self, selector: str) -> None:
        """Let the person type into this box what to show."""
        box = self.query_one(selector, Input)
        box.display = True
        box.focus()

    def close_filter(self, selector: str) -> None:
        """Empty the box, which shows all again, and put it away."""
        box = self.query_one(selector, Input)
        box.value = ""
        box.display = False
        self.take_focus()
