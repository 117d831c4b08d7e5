"""The application: screens, themes, the palette, toasts, and a clean end."""

import asyncio
import gc
import os
import platform
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from rich.console import RenderableType
from textual.app import SuspendNotSupported, SystemCommand
from textual.binding import Binding, BindingType
from textual.css.query import NoMatches
from textual.screen import Screen

from emcfsys_engine import __version__
from emcfsys_engine.errors import EmcfError
from emcfsys_engine.jobs.state_folder import prepare, state_folder
from emcfsys_tui.key_order import OrderedKeysApp
from emcfsys_tui.lean_output import LeanDriver
from emcfsys_tui.messages import ProjectChosen, Told
from emcfsys_tui.settings import (
    COLOUR_BLIND,
    DARK,
    GRAPHICS,
    LEAST_COLUMNS,
    LEAST_LINES,
    THEMES,
    Memory,
    Settings,
    class_colours,
    curve_colours,
    key_faults,
    quiet,
    readable_words,
    remember,
    remembered,
    with_recent,
)
from emcfsys_tui.text import one_line, safe_lines
from emcfsys_tui.widgets.canvas import Colour

if TYPE_CHECKING:
    from emcfsys_tui.widgets.picture_view import PictureLayer


def save_report(error: BaseException, where: str = "") -> Path | None:
    """Write what happened into the state folder; None where nothing can be written."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    text = "\n".join(
        [
            f"EMCFsys {__version__}, Python {platform.python_version()}, {platform.platform()}",
            f"{stamp} {where}".rstrip(),
            "",
            "".join(traceback.format_exception(error)),
        ]
    )
    try:
        file = prepare(state_folder()) / f"crash-{stamp}.txt"
        file.write_text(text, "utf-8", "backslashreplace")
    except (OSError, EmcfError):
        return None
    return file


_HANG_UP_S = 2.0  # between two looks whether the terminal is still there
_MOST_THREADS = 64  # begun when they are needed
_REST_S = 1.0  # without a key: the time to look for what nothing refers to any longer
_MANY_COLLECTIONS = 10  # of the young, Python's own number before it looks through the old
_TOO_MANY_COLLECTIONS = 1000  # so long somebody may type without a rest
Severity = Literal["information", "warning", "error"]


class EmcfApp(OrderedKeysApp):
    """Everything a person does with EMCFsys, in one terminal."""

    CSS_PATH = "app.tcss"
    TITLE = "EMCFsys"
    ENABLE_COMMAND_PALETTE = True
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+q", "leave", "Quit", show=False, id="app.quit_too", priority=True),
        Binding("ctrl+c", "leave", "Quit", show=False, id="app.quit_by_c"),
        quiet(
            "ctrl+l",
            "draw_anew",
            "Draw all anew",
            "app.draw_anew",
            "Draw the whole screen again, after another program wrote over it",
        ),
    ]

    def __init__(
        self,
        folder: Path | None = None,
        *,
        read_only: bool = False,
        settings: Settings | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings or Settings()
        self.read_only = read_only
        self._is_asking_to_leave = False
        self.memory = remembered()
        self._layer: PictureLayer | None = None
        self.crash_file: Path | None = None
        self.crashed: BaseException | None = None
        last = self.memory.place
        if folder is None and last and Path(last, "project.toml").is_file():
            folder = Path(last)
        self._folder = folder
        self.animation_level = "none"
        for theme in THEMES:
            self.register_theme(theme)
        wanted = self.settings.theme or self.memory.theme or self._theme_of_terminal()
        known = wanted if wanted in self.available_themes else DARK
        self.set_reactive(EmcfApp.theme, known)  # before the first style is made of it
        self.stylesheet.set_variables(self.get_css_variables())
        self.HORIZONTAL_BREAKPOINTS = [(0, "-tiny"), (LEAST_COLUMNS, "-narrow"), (110, "-wide")]
        self.VERTICAL_BREAKPOINTS = [(0, "-flat"), (LEAST_LINES, "-low"), (34, "-tall")]

    @property
    def colours(self) -> tuple[Colour, ...]:
        """Six colours for curves."""
        paper = self.theme_variables.get("background", "")
        return curve_colours(self.theme, paper, dark=self.current_theme.dark)

    @property
    def letters_every(self) -> int:
        """Every so manieth cell of a class shows its letter in pictures; 0: colours tell it."""
        if self.no_color or self.current_theme.ansi or self.console.color_system == "standard":
            return 1
        return 3 if self.theme in COLOUR_BLIND else 0

    def class_colours(self, num_classes: int) -> tuple[Colour, ...]:
        """The colours of classes in curves and tables, in the order of the classes."""
        paper = self.theme_variables.get("background", "")
        return class_colours(self.theme, paper, num_classes)

    def _display(self, screen: Screen[Any], renderable: RenderableType | None) -> None:
        """Draw, then lay the pictures in the terminal's own pixels over their half-blocks."""
        super()._display(screen, renderable)
        driver = self._driver
        if self._layer is None or renderable is None or self._batch_count or driver is None:
            return
        words = self._layer.words(self, renderable) if self._running and not self._closed else ""
        if words:
            driver.write(words)

    def get_theme_variable_defaults(self) -> dict[str, str]:
        """Give every theme a quiet text colour and a cursor: solid ones, for every terminal."""
        theme = self.current_theme
        if theme.ansi:
            return {"dim": "ansi_bright_black", "cursor": "ansi_blue"}
        return {
            "dim": "#8b949e" if theme.dark else "#5f6872",
            "cursor": "#1f3a5f" if theme.dark else "#d3e4f8",
        }

    def get_css_variables(self) -> dict[str, str]:
        """Make every colour of words readable where this theme's own is not."""
        variables = super().get_css_variables()
        if not self.current_theme.ansi:
            variables |= readable_words(variables)
        self.theme_variables = variables
        return variables

    def get_default_screen(self) -> Screen[None]:
        """Open what was asked for, else the last place, else the list of projects."""
        if self._folder is not None and not (self._folder / "project.toml").is_file():
            return import_module("emcfsys_tui.screens.projects").ProjectsScreen(self._folder)
        return self._screen_of(self._folder)

    def on_load(self) -> None:
        """Listen to who ends us, before the terminal is taken: it shall be given back."""
        loop = asyncio.get_running_loop()
        # Every feed keeps one: two cores' six, the default, left none for the last tab and deeds.
        loop.set_default_executor(ThreadPoolExecutor(_MOST_THREADS))
        if not self.is_headless:
            loop.add_signal_handler(signal.SIGTERM, self.call_later, self._leave, True)
            loop.add_signal_handler(signal.SIGHUP, self._hang_up)

    def on_mount(self) -> None:
        """Listen to the person's own keys, and say what is wrong with the settings."""
        self.set_keymap(self.settings.keys)
        if self.settings.pictures in GRAPHICS:
            self._layer = import_module("emcfsys_tui.widgets.picture_view").PictureLayer()
            if isinstance(self._driver, LeanDriver):  # a graphic lies over cells, and ends by them
                self._driver.cells = None
        if not self.is_headless:
            self.set_interval(_HANG_UP_S, self._look_at_terminal)
            self.set_interval(_REST_S, self.collect_at_rest)
        for fault in self.settings.faults:
            self.tell(fault, "warning")
        if self.settings.keys:
            self.run_worker(self._look_for_unknown_keys, thread=True)

    def on_resize(self) -> None:
        """A terminal of another size has moved its cells."""
        if isinstance(self._driver, LeanDriver):
            self._driver.forget()

    def action_draw_anew(self) -> None:
        """Draw the whole screen, whatever the terminal shows."""
        self.on_resize()
        self.screen.refresh(layout=True)

    def _look_for_unknown_keys(self) -> None:
        """Say which names of keys in interface.toml are none: after the first paint."""
        for fault in key_faults(self.settings.keys):
            self.call_from_thread(self.tell, fault, "warning")

    def _look_at_terminal(self) -> None:
        """A terminal that is gone gives an end of file for ever: Textual would read it for ever."""
        terminal = select.poll()
        terminal.register(sys.__stdin__ or 0, 0)
        if terminal.poll(0):
            self._hang_up()

    def collect_at_rest(self) -> None:
        """Look through the old objects, which takes as long as two keys, while nobody types."""
        waiting = gc.get_count()[2]
        is_resting = time.monotonic() - self.typed_at > _REST_S
        if waiting > (_MANY_COLLECTIONS if is_resting else _TOO_MANY_COLLECTIONS):
            gc.collect()

    def _hang_up(self) -> None:
        """Leave at once; there is no terminal to be left tidy."""
        remember(self.memory_with_theme())
        self.on_unmount()
        os._exit(128 + signal.SIGHUP)

    def on_unmount(self) -> None:
        """End what only looks: leaving waits for nothing."""
        import_module("emcfsys_tui.engine.runs").end_looking()

    def action_command_palette(self) -> None:
        """Open the palette of all commands."""
        palette = import_module("emcfsys_tui.screens.palette").Palette
        if not palette.is_open(self):
            self.push_screen(palette(id="--command-palette"))

    def open_project(self, folder: Path) -> None:
        """Open a project instead of the list, and of what was opened over it."""
        while len(self.screen_stack) > 1:
            self.pop_screen()
        self.switch_screen(self._screen_of(folder))

    def open_list(self) -> None:
        """Open the list of projects instead of a project."""
        self.keep_place(None)
        self.switch_screen(self._screen_of(None))

    def _screen_of(self, folder: Path | None) -> Screen[None]:
        if folder is None:
            return import_module("emcfsys_tui.screens.projects").ProjectsScreen()
        screen = import_module("emcfsys_tui.screens.project").ProjectScreen
        folder = folder.absolute()
        was_here = str(folder) == self.memory.place
        has_runs = (folder / "runs").is_dir()
        first = "runs" if has_runs else "data"  # who has no runs looks at the data first
        return screen(folder, tab=self.memory.tab if was_here else first)

    def keep_place(self, folder: Path | None, tab: str = "runs") -> None:
        """Remember where the person is, for the next start."""
        if folder is None:
            self.memory = type(self.memory)(recent=self.memory.recent, theme=self.memory.theme)
        else:
            self.memory = with_recent(self.memory, folder, tab)
        remember(self.memory)

    def tell(self, text: str, severity: str = "information", *, loud: bool = False) -> None:
        """Show a toast; a loud one rings and tells the terminal's own notifier too."""
        self.notify(safe_lines(text), severity=cast("Severity", severity), markup=False, timeout=8)
        if loud and self.settings.bell:
            self.bell()
            driver = self._driver
            if driver is not None:
                driver.write(f"\x1b]9;{one_line(text)}\x07")

    def may_change(self) -> bool:
        """Tell whether things may be changed here, and say so when not."""
        if self.read_only:
            self.tell("This is read-only: start without --read-only to change things", "warning")
        return not self.read_only

    def on_told(self, event: Told) -> None:
        """Show what a part of the interface has to say."""
        self.tell(event.text, event.severity, loud=event.loud)

    def on_project_chosen(self, event: ProjectChosen) -> None:
        """Open the project that was chosen."""
        self.open_project(event.folder)

    def action_leave(self) -> None:
        """Leave; nothing that runs is stopped by it. What would be lost is asked once."""
        panes: Any = import_module("emcfsys_tui.widgets.pane").Pane
        every: list[Any] = [pane for screen in self.screen_stack for pane in screen.query(panes)]
        lost = [pane.unsaved for pane in every if pane.unsaved]
        if lost and not self._is_asking_to_leave:
            self._is_asking_to_leave = True
            confirm = import_module("emcfsys_tui.screens.dialogs").ConfirmScreen
            self.push_screen(confirm(f"Leave? {lost[0]}", "leave"), self._leave)
        else:
            self._leave(True)

    def _leave(self, may_leave: bool | None) -> None:
        self._is_asking_to_leave = False
        if may_leave:
            remember(self.memory_with_theme())
            self.exit()

    def memory_with_theme(self) -> Memory:
        """Return what to remember, with the theme of now."""
        memory = self.memory
        return type(memory)(
            recent=memory.recent, place=memory.place, tab=memory.tab, theme=self.theme
        )

    def action_help(self) -> None:
        """Explain every key of this screen."""
        help_screen = import_module("emcfsys_tui.screens.page").HelpScreen
        if not isinstance(self.screen, help_screen):
            self.push_screen(help_screen(self.screen))

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """Offer every action of the screen in the palette, each once, with all of its keys."""
        offered: dict[str, list[Binding]] = {}
        for active in screen.active_bindings.values():
            if active.binding.description and active.enabled:
                offered.setdefault(active.binding.action, []).append(active.binding)
        for several in offered.values():
            line = self._palette_line(*several)
            yield SystemCommand(line, "", lambda key=several[0].key: self.simulate_key(key))
        elsewhere: Any = screen
        if isinstance(screen, import_module("emcfsys_tui.screens.project").ProjectScreen):
            for tab, binding in elsewhere.actions_elsewhere():
                line = f"{tab.name}: {self._palette_line(binding)}"
                yield SystemCommand(line, "", partial(elsewhere.act_in, tab.id, binding.action))
        yield SystemCommand(
            "Theme: dark, light, colour-blind-safe, sixteen colours", "", self.search_themes
        )
        yield SystemCommand(
            "Save a picture of this screen (SVG) into the current folder",
            "",
            self.deliver_screenshot,
        )
        for topic, title in import_module("emcfsys_engine.manual").topics().items():
            line = f"Manual: {topic}: {title}"
            yield SystemCommand(line, "", lambda topic=topic: self.show_manual(topic))

    def _palette_line(self, binding: Binding, *others: Binding) -> str:
        """Return an action in one line, with its keys: what is looked for may be in any word."""
        word, about = binding.description.capitalize(), binding.tooltip
        told = f"{word}: {about}" if about and about.lower() != word.lower() else word
        keys = dict.fromkeys(self.get_key_display(one) for one in (binding, *others))
        return f"{told}  ({', '.join(keys)})"

    def show_manual(self, topic: str) -> None:
        """Open a page of the manual over the screen."""
        text: str = import_module("emcfsys_engine.manual").page(topic)
        reader = import_module("emcfsys_tui.screens.dialogs").TextScreen
        self.push_screen(reader(f"manual: {topic}", text))

    def edit(self, file: Path) -> None:
        """Open a file in the person's own editor; the screen comes back when it is closed."""
        words = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "")
        if not words:
            words = [name for name in ("nano", "vi") if shutil.which(name)][:1]
        if not words:
            self.tell("No editor here: set $EDITOR before you start emcfsys", "warning")
            return
        try:
            with self.suspend():
                code = subprocess.call([*words, str(file)])
        except SuspendNotSupported:
            self.tell(f"This terminal cannot be lent to an editor: open {file} yourself", "warning")
            return
        except OSError as error:
            self.tell(f"{words[0]}: {error.strerror}: set $EDITOR to another", "error")
            return
        if code:
            self.tell(f"{words[0]} ended with exit code {code}", "warning")

    def copy_with_word(self, text: str) -> None:
        """Copy by OSC 52 and show the text too: tmux may swallow the copy."""
        self.copy_to_clipboard(text)
        self.tell(f"Copied: {text}")

    def _theme_of_terminal(self) -> str:
        system = self.console.color_system
        return "ansi-dark" if system == "standard" else DARK

    def _handle_exception(self, error: Exception) -> None:
        """Keep a report of our mistake, and end with the terminal restored."""
        if self._exit and isinstance(error, NoMatches):
            return  # the person left while a screen was being built: its parts will not come
        if self.crashed is None:
            self.crashed = error
            where = " ".join(type(screen).__name__ for screen in self._screen_stack)
            self.crash_file = save_report(error, where)
        super()._handle_exception(error)

    def _fatal_error(self) -> None:
        """End without a page of traceback: it is in the report."""
        self._close_messages_no_wait()
