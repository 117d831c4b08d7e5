"""What is done to the run under the cursor: extend, export, report, compare, delete."""

from functools import partial
from pathlib import Path
from typing import ClassVar

from textual.binding import BindingType
from textual.reactive import reactive

from emcfsys_tui.engine import runs
from emcfsys_tui.messages import TextFound
from emcfsys_tui.screens.dialogs import AskScreen, PickScreen
from emcfsys_tui.settings import quiet
from emcfsys_tui.view_models import RunRow
from emcfsys_tui.widgets.pane import FedPane


class RunDeeds(FedPane):
    """A tab with a run under its cursor."""

    BINDINGS: ClassVar[list[BindingType]] = [
        quiet("c", "compare", "Compare", "runs.compare", "Settings in which the shown runs differ"),
        quiet(
            "e", "extend", "Extend", "runs.extend", "Train on, with more steps or minutes, as a job"
        ),
        quiet("E", "export", "Export", "runs.export", "Write the best model for other programs"),
        quiet("R", "report", "Report", "runs.report", "Write the run as one HTML page"),
        quiet("delete,D", "delete", "Delete", "runs.delete", "Remove the run's folder (asks)"),
    ]

    drawn: reactive[tuple[str, ...]] = reactive((), repaint=False)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._runs: tuple[RunRow, ...] = ()

    def _current(self) -> RunRow | None:
        """Return the run under the cursor."""
        raise NotImplementedError

    def action_extend(self) -> None:
        """Ask for a larger budget, and queue the run with it."""
        run = self._training()
        if run is None or not self.may_change():
            return

        def answered(answer: str | None) -> None:
            if answer:
                self.attempt(partial(runs.extend_run, run.folder, answer))

        question = (
            f"Train {run.id} on from step {run.step:,}.\n"
            "To which step in all, or for how long in all (like 30 min)?"
        )
        command = runs.as_command("submit", "extend", str(run.folder), "--set")
        self.app.push_screen(
            AskScreen(
                question,
                runs.proposed_budget(run),
                command=f"{command} training.steps=…",
            ),
            answered,
        )

    def action_export(self) -> None:
        """Ask for a format, and write the best model in it."""
        run = self._training()
        if run is None or not self.may_change():
            return

        def answered(kind: str | None) -> None:
            if kind:
                self.page_app.tell(f"Exporting {run.id}: its output is compared, some seconds …")
                self.attempt(partial(runs.export_model, run.folder, kind))

        command = runs.as_command(*runs.export_command(run.folder, "FORMAT"))
        question = f"Write the best model of {run.id} as"
        self.app.push_screen(PickScreen(question, runs.EXPORTS, command=command), answered)

    def action_report(self) -> None:
        """Write the run as one page, and copy its path."""
        run = self._current()
        if run is not None and self.may_change():
            self.page_app.tell(
                f"Writing the report … $ {runs.as_command('report', str(run.folder))}"
            )
            self.attempt(partial(self._report, run.folder))

    def action_compare(self) -> None:
        """Show the settings in which the shown runs differ."""
        folders = [run.folder for run in self._runs if run.id in self.drawn]
        if len(folders) < 2:
            self.page_app.tell("Mark two runs or more with space, then compare them", "warning")
            return
        title = "Settings that differ: " + ", ".join(folder.name for folder in folders)
        self.attempt(lambda: TextFound(title, runs.compare_runs(folders)))

    def action_delete(self) -> None:
        """Remove a run's folder, after asking."""
        run = self._current()
        if run is None or not self.may_change():
            return
        question = f"Delete {run.id} with its models, for good?\n{run.folder}"
        work = partial(runs.delete_run, run.folder, run.created)
        self.confirm(question, "delete it", lambda: self.attempt(work))

    def _report(self, folder: Path) -> None:
        file = runs.write_report(folder)
        self.app.call_from_thread(self.page_app.copy_with_word, str(file))

    def _training(self) -> RunRow | None:
        """Return the run under the cursor, if it is a training."""
        run = self._current()
        if run is not None and run.does != "train":
            self.page_app.tell(f"{run.id} is no training", "warning")
            return None
        return run
