"""Train: project.toml as a form, judged by the engine as it is typed, written or submitted."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

from rich.segment import Segment
from textual import events
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.message import Message
from textual.reactive import reactive
from textual.strip import Strip
from textual.timer import Timer
from textual.widget import Widget
from textual.widgets import Input, Static

from emcfsys_engine.errors import printable
from emcfsys_tui.engine import form as engine_link_train
from emcfsys_tui.engine import jobs
from emcfsys_tui.engine.form import FIRST, FormField, ProjectForm, Verdict
from emcfsys_tui.messages import TabWanted
from emcfsys_tui.settings import quiet, shown
from emcfsys_tui.widgets.log_view import TextInput
from emcfsys_tui.widgets.pane import Pane


class Choice(Widget, can_focus=True):
    """Words side by side; the chosen one stands in brackets."""

    BINDINGS: ClassVar[list[BindingType]] = [
        quiet("left,h", "shift(-1)", "Word before", "choice.before"),
        quiet("right,l,space", "shift(1)", "Next word", "choice.next"),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {"choice--chosen", "choice--default"}

    value: reactive[str] = reactive("")

    class Changed(Message):
        """Another word is chosen."""

        def __init__(self, value: str) -> None:
            self.value = value
            super().__init__()

    def __init__(self, choices: Sequence[str], value: str, *, default: str = "") -> None:
        super().__init__()
        self.choices = tuple(choices)
        self._default = default
        self.set_reactive(Choice.value, value)

    def action_shift(self, by: int) -> None:
        """Take the word beside."""
        shown = self.value or self._default
        place = self.choices.index(shown) if shown in self.choices else 0
        self._take(self.choices[(place + by) % len(self.choices)])

    def on_click(self, event: events.Click) -> None:
        """Take the word that was clicked."""
        x = 0
        for word in self.choices:
            if x <= event.x < x + len(word) + 2:
                self._take(word)
            x += len(word) + 2

    def render_line(self, y: int) -> Strip:
        """Draw the words."""
        base = self.rich_style
        segments: list[Segment] = []
        for word in self.choices:
            is_chosen = word == (self.value or self._default)
            style = base
            if is_chosen:
                style += self.get_component_rich_style("choice--chosen", partial=True)
            segments.append(Segment(f"[{word}]" if is_chosen else f" {word} ", style))
        return Strip(segments).crop_extend(0, self.size.width, base)

    def _take(self, word: str) -> None:
        if word != self.value:
            self.value = word
            self.post_message(self.Changed(word))


PRESETS = {
    "quick": "minutes: is it promising?",
    "standard": "good results",
    "best": "long: the last percent",
}
_HINT = (
    "↑↓ choose a line, then type, or ←→ for words; esc leaves it, s starts the training as a job"
)
_JUDGE_AFTER_S = 0.15  # of typing: a burst of letters is judged once


class FormRead(Message, bubble=False):
    """project.toml was read."""

    def __init__(self, form: ProjectForm) -> None:
        self.form = form
        super().__init__()


class Judged(Message, bubble=False):
    """The engine looked at the form."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict
        super().__init__()


class Submitted(Message, bubble=False):
    """A training is in the queue."""

    def __init__(self, job: int, run: str) -> None:
        self.job, self.run = job, run
        super().__init__()


class FormLine(Horizontal):
    """One key: its name, a value to type or choose, and what is wrong with it."""

    fault: reactive[str] = reactive("", repaint=False)

    class Edited(Message):
        """The value is another one."""

        def __init__(self, key: str, value: str) -> None:
            self.key, self.value = key, value
            super().__init__()

    def __init__(self, field: FormField) -> None:
        super().__init__(id="field-" + field.key.replace(".", "-"))
        self.field = field

    def compose(self) -> ComposeResult:
        """Name, value, remark."""
        yield Static(self.field.key, classes="field-name", markup=False)
        if self.field.choices:
            yield Choice(self.field.choices, self.field.value, default=self.field.default)
        else:
            yield TextInput(self.field.value, placeholder=self.field.default, compact=True)
        yield Static(self._remark(), classes="field-remark", markup=False)

    def watch_fault(self, fault: str) -> None:
        """Show the engine's word."""
        if self.is_mounted:
            self.set_class(bool(fault), "-faulty")
            self.query_one(".field-remark", Static).update(self._remark())

    def on_input_changed(self, event: Input.Changed) -> None:
        """Tell of every letter."""
        event.stop()
        self.post_message(self.Edited(self.field.key, event.value))

    def on_choice_changed(self, event: Choice.Changed) -> None:
        """Tell of a choice."""
        event.stop()
        self.query_one(".field-remark", Static).update(self._remark())
        self.post_message(self.Edited(self.field.key, event.value))

    def _remark(self) -> str:
        if self.fault:
            return "✗"
        if self.field.key != "training.preset":
            return ""
        chosen = self.query_one(Choice).value if self.is_mounted else self.field.value
        return PRESETS.get(chosen or self.field.default, "")


class TrainPane(Pane):
    """What to train and how long; everything has a good default."""

    SCOPED_CSS = False
    DEFAULT_CSS = """
    TrainPane #train-facts { height: 1; color: $dim; }
    TrainPane #form { height: 1fr; scrollbar-size-vertical: 1; }
    TrainPane #form:focus { border-left: none; }
    TrainPane #train-faults { height: auto; max-height: 6; color: $error; padding: 0 1; }
    TrainPane #train-command { height: auto; max-height: 4; background: $panel; color: $dim; }
    FormLine { height: 1; }
    FormLine .field-name { width: 24; padding: 0 1; color: $dim; }
    FormLine:focus-within .field-name { color: $accent; text-style: bold; }
    FormLine Input { width: 30; height: 1; border: none; padding: 0; background: $panel; }
    FormLine Choice { width: auto; min-width: 46; height: 1; }
    FormLine#field-training-preset Choice { min-width: 26; }
    FormLine .field-remark { width: 1fr; padding: 0 1; color: $dim; }
    FormLine.-faulty .field-remark { color: $error; }
    TrainPane #train-hint { height: auto; color: $dim; padding: 0 1; }
    Choice > .choice--chosen { text-style: bold; color: $primary; }
    Choice:focus { background: $panel; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        shown("s", "submit", "submit", "train.submit", "Put this training into the queue"),
        shown(
            "w", "write", "write project.toml", "train.write", "Keep these settings; comments stay"
        ),
        shown("f", "fold", "all settings", "train.fold", "Show or hide the rarer settings"),
        shown("R", "read", "read again", "train.read", "Drop the changes, read the file again"),
        quiet("ctrl+t", "submit", "Submit", "train.submit_too", "Submit, also from within a field"),
        quiet("ctrl+w", "write", "Write", "train.write_too", "Write, also from within a field"),
        quiet("up", "app.focus_previous", "Previous", "train.up"),
        quiet("down", "app.focus_next", "Next", "train.down"),
        quiet("escape", "leave_field", "Leave the field", "train.leave"),
    ]

    form: reactive[ProjectForm] = reactive(ProjectForm(), repaint=False)
    verdict: reactive[Verdict] = reactive(Verdict(), repaint=False)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._changes: dict[str, str] = {}
        self._submitted: dict[str, str] = {}  # changes that a run keeps
        self._unfolded = False
        self._was_told_of_change = False
        self._judge_timer: Timer | None = None

    @property
    def command(self) -> str:
        """The command that submits what the form says."""
        return self.verdict.command or f"emcfsys-engine submit train {self.folder}"

    def compose(self) -> ComposeResult:
        """Facts, form, faults and the command."""
        yield Static(id="train-facts", markup=False)
        yield VerticalScroll(id="form", can_focus=True)
        yield Static(_HINT, id="train-hint", markup=False)
        yield Static(id="train-faults", markup=False)
        yield Static(id="train-command", markup=False)

    def on_mount(self) -> None:
        """Read the file."""
        self.action_read()

    def take_focus(self) -> None:
        """The form as a whole: letters are keys until a field is entered."""
        self.query_one("#form").focus()

    def watch_is_shown(self, is_shown: bool) -> None:
        """Look whether the file changed while we were away."""
        if is_shown and self.form.digest:
            self.run_worker(self._look_at_file, thread=True, group="look")

    async def on_form_read(self, event: FormRead) -> None:
        """Lay out the form anew."""
        self.form, self._changes = event.form, {}
        self._was_told_of_change = False
        form = self.query_one("#form", VerticalScroll)
        had_focus = form.has_focus_within or form.has_focus
        await form.remove_children()
        lines = [FormLine(field) for field in event.form.fields]
        await form.mount_all(lines)
        self._fold()
        if had_focus:
            form.focus()
        self.query_one("#train-facts", Static).update(f" {event.form.facts}")
        self._judge()

    def on_form_line_edited(self, event: FormLine.Edited) -> None:
        """Judge what was typed."""
        before = {field.key: field.value for field in self.form.fields}
        if event.value == before.get(event.key):
            self._changes.pop(event.key, None)
        else:
            self._changes[event.key] = event.value
            other = {"training.steps": "training.minutes", "training.minutes": "training.steps"}
            if event.key in other and event.value:
                self._empty_field(other[event.key])
        self._judge()

    def on_judged(self, event: Judged) -> None:
        """Show each fault at its line, and the command."""
        self.verdict = event.verdict
        by_key = {fault.key: fault.text for fault in event.verdict.faults}
        lines = {line.field.key: line for line in self.query(FormLine)}
        for key, line in lines.items():
            line.fault = by_key.get(key, "")
        words = [f"✗ {fault.key}: {fault.text}" for fault in event.verdict.faults]
        self.query_one("#train-faults", Static).update("\n".join(words))
        num = len(self._changes)
        changed = f"{num} changed · " if num else ""
        self.query_one("#train-command", Static).update(
            f" {changed}$ {printable(event.verdict.command)}"
        )

    def on_submitted(self, event: Submitted) -> None:
        """Go and look at the run."""
        self.page_app.tell(
            f"Job {event.job}: {event.run} is in the queue. Quitting does not stop it."
        )
        self.post_message(TabWanted("runs", event.run))

    def action_read(self) -> None:
        """Read the file again."""
        self.run_worker(self._read, thread=True, exclusive=True, group="read")

    def action_fold(self) -> None:
        """Show all settings, or the first ones."""
        self._unfolded = not self._unfolded
        self._fold()

    def action_leave_field(self) -> None:
        """From a field to the form, from the form to the list of projects."""
        form = self.query_one("#form", VerticalScroll)
        if form.has_focus:
            self.screen.run_worker(self.screen.run_action("back"))
        else:
            form.focus()

    @property
    def unsaved(self) -> str:
        """Changes that neither project.toml nor a run has."""
        if self._changes in ({}, self._submitted):
            return ""
        return "The changes in Train are not in project.toml: w there writes them."

    def action_write(self) -> None:
        """Write the changes into project.toml."""
        if not self.may_change():
            return
        if not self._changes:
            self.page_app.tell("Nothing was changed")
            return
        self.attempt(self._write)

    def action_submit(self) -> None:
        """Put the training into the queue."""
        if not self.may_change():
            return
        if self.verdict.faults:
            self.page_app.tell("Mend what is marked with ✗ first", "error")
            return
        dropped = [
            key
            for key, text in self._changes.items()
            if not text.strip() and not self._replaced(key)
        ]
        if dropped:
            self.page_app.tell(
                f"Write project.toml first (w): {', '.join(dropped)} was emptied", "warning"
            )
            return
        self.attempt(partial(self._submit, self.verdict.overrides))

    def _submit(self, overrides: tuple[str, ...]) -> Submitted:
        changes = dict(self._changes)
        submitted = Submitted(*jobs.submit_training(self.folder, overrides))
        self._submitted = changes
        return submitted

    def _write(self) -> str:
        word = engine_link_train.write_form(self.folder, dict(self._changes), self.form.digest)
        self._read()
        return word

    def _read(self) -> None:
        self.post_message(FormRead(engine_link_train.read_form(self.folder)))

    def _look_at_file(self) -> None:
        if engine_link_train.digest_of(self.folder) != self.form.digest:
            self.app.call_from_thread(self._file_changed)

    def _file_changed(self) -> None:
        if not self._changes:
            self.action_read()
        elif not self._was_told_of_change:
            self._was_told_of_change = True
            self.page_app.tell(
                "project.toml changed on the disk: R reads it again and drops your changes",
                "warning",
            )

    def _judge(self) -> None:
        if self._judge_timer is not None:
            self._judge_timer.stop()
        self._judge_timer = self.set_timer(_JUDGE_AFTER_S, self._judge_now)

    def _judge_now(self) -> None:
        changes = {key: text for key, text in self._changes.items() if not self._replaced(key)}
        self.run_worker(
            partial(self._ask_engine, changes), thread=True, exclusive=True, group="judge"
        )

    def _ask_engine(self, changes: dict[str, str]) -> None:
        verdict = engine_link_train.judge(self.folder, changes)
        self.post_message(Judged(verdict))

    def _replaced(self, key: str) -> bool:
        """Tell whether a key is empty only because its other half of the budget is given."""
        other = {"training.steps": "training.minutes", "training.minutes": "training.steps"}.get(
            key
        )
        return bool(
            other
            and not self._changes.get(key, "x").strip()
            and self._changes.get(other, "").strip()
        )

    def _empty_field(self, key: str) -> None:
        line = self.query_one("#field-" + key.replace(".", "-"), FormLine)
        box = line.query_one(Input)
        if box.value:
            box.value = ""

    def _fold(self) -> None:
        for line in self.query(FormLine):
            line.display = self._unfolded or line.field.key in FIRST or bool(line.field.value)
