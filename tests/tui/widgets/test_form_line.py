"""The form is judged by the engine as it is typed."""

from pathlib import Path

from textual.widgets import Input

from emcfsys_tui.widgets.form_line import FormLine
from emcfsys_tui.widgets.train_pane import TrainPane
from tests.tui.conftest import opened, screen_text, until


async def test_the_form_is_judged_by_the_engine_as_it_is_typed(demo: Path) -> None:
    async with opened(demo, "2", size=(120, 40)) as pilot:
        pane = pilot.app.screen.query_one(TrainPane)
        await until(pilot, lambda: len(pane.query(FormLine)) > 20)
        box = pane.query_one("#field-training-minutes Input", Input)
        box.value = "zero"
        await until(pilot, lambda: "does not fit" in screen_text(pilot))
        box.value = "7"
        await until(pilot, lambda: "training.minutes=7" in pane.command)
        assert not pane.verdict.faults
