"""Models: the files that trainings left, with their numbers."""

from functools import partial
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.widgets import Static

from emcfsys_engine.errors import printable
from emcfsys_engine.text import for_shell, size
from emcfsys_tui.engine import hotfolder
from emcfsys_tui.messages import ModelsRead, TabWanted
from emcfsys_tui.settings import shown
from emcfsys_tui.view_models import ModelRow
from emcfsys_tui.widgets.list import Column, Row, Rows
from emcfsys_tui.widgets.pane import GONE, FedPane

_COLUMNS = (
    Column(title="", width=1),
    Column(title="run", width=9),
    Column(title="file", width=6),
    Column(title="IoU", width=6, right=True),
    Column(title="val", width=4, right=True),
    Column(title="step", width=8, right=True, hide_below=76),
    Column(title="nm/px", width=7, right=True),
    Column(title="network", cut="middle"),
    Column(title="classes", hide_below=90),
    Column(title="size", width=8, right=True, hide_below=76),
    Column(title="written", width=12, hide_below=90),
)
_EMPTY = (
    "No model files yet: a training writes best.safetensors at its first validation."
    " 2 goes to Train."
)


class ModelsPane(FedPane):
    """Every model file of the project."""

    SCOPED_CSS = False
    DEFAULT_CSS = """
    ModelsPane #model-about { height: auto; max-height: 3; color: $dim; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        shown("i", "inspect", "inspect", "models.inspect", "What the file says of itself"),
        shown("v", "verify", "verify", "models.verify", "Compute its test vector again"),
        shown(
            "u",
            "use",
            "use in hot folder",
            "models.use",
            "Write it into [hotfolder] of project.toml",
        ),
        shown("o", "run", "its run", "models.run", "Show the run it comes from"),
        shown("n", "path", "copy path", "models.path", "Copy the file's path (OSC 52)"),
    ]

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._models: tuple[ModelRow, ...] = ()
        self._wanted = ""
        self._used: Path | None = None  # by the hot folder
        self._why = ""

    @property
    def command(self) -> str:
        """The command that inspects the file under the cursor."""
        model = self._current()
        return f"emcfsys-engine inspect {for_shell(model.file) if model else 'FILE'}"

    def compose(self) -> ComposeResult:
        """A list, and a line about the file."""
        yield Rows(_COLUMNS, id="models", empty="Reading model files …")
        yield Static(id="model-about", markup=False)

    def on_mount(self) -> None:
        """Follow the files in a thread."""
        self.feed_on(hotfolder.ModelsReader(self.folder).read, every_s=2.0)

    def take_focus(self) -> None:
        """The list."""
        self.query_one("#models", Rows).focus()

    def go_to_item(self, item: str) -> None:
        """Put the cursor on a run's best model, now or when it was read."""
        self._wanted = "" if self.query_one("#models", Rows).go_to(f"{item}/best") else item

    def on_models_read(self, event: ModelsRead) -> None:
        """Show the files."""
        self._models = event.models
        self._used, self._why = event.used, event.why
        rows = self.query_one("#models", Rows)
        rows.empty = GONE if event.is_gone else _EMPTY
        rows.rows = [_row(model, is_used=model.file == event.used) for model in event.models]
        self.show_about()
        if self._wanted:
            self.go_to_item(self._wanted)
            self._wanted = ""

    @on(Rows.Moved, "#models")
    def show_about(self) -> None:
        """Say more about the file under the cursor."""
        model = self._current()
        about = ""
        if model is not None:
            about = model.fault or (
                f"{model.file.parent.name}/{model.file.name}: classes {model.classes}; "
                f"patches of {model.patch_px} px. It is all that predict needs: copy it anywhere."
            )
            if model.file == self._used:
                about = f"★ a hot folder that starts now uses it: {self._why}. {about}"
        self.query_one("#model-about", Static).update(f" {printable(about)}")

    @on(Rows.Opened, "#models")
    def action_inspect(self) -> None:
        """Show the file's header."""
        self._inspect(verify=False)

    def action_verify(self) -> None:
        """Compute the test vector again; takes as long as loading torch."""
        self.page_app.tell("Verifying: the weights are loaded and computed once …")
        self._inspect(verify=True)

    def action_use(self) -> None:
        """Use it in the hot folder."""
        model = self._current()
        if model is not None and self.may_change():
            self.attempt(partial(hotfolder.use_in_hot_folder, self.folder, model.file))

    def action_run(self) -> None:
        """Go to its run."""
        model = self._current()
        if model is not None:
            self.post_message(TabWanted("runs", model.run))

    def action_path(self) -> None:
        """Copy its path."""
        model = self._current()
        if model is not None:
            self.page_app.copy_with_word(str(model.file))

    def _inspect(self, *, verify: bool) -> None:
        model = self._current()
        if model is not None:
            self.attempt(partial(hotfolder.inspect, model.file, verify=verify))

    def _current(self) -> ModelRow | None:
        row = self.query_one("#models", Rows).current
        return next((m for m in self._models if row is not None and _key(m) == row.key), None)


def _key(model: ModelRow) -> str:
    return f"{model.run}/{model.role}"


def _row(model: ModelRow, *, is_used: bool) -> Row:
    return Row(
        key=_key(model),
        cells=(
            "★" if is_used else "",
            model.run,
            model.role,
            "–" if model.score is None else f"{model.score:.3f}",
            "–" if model.num_validated is None else str(model.num_validated),
            f"{model.step:,}" if model.step else "–",
            "any" if model.pixel_nm is None else f"{model.pixel_nm:.4g}",
            model.fault or model.network,
            model.classes,
            size(model.bytes),
            model.created,
        ),
        tone="bad" if model.fault else "",
    )
