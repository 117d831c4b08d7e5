"""project.toml is written with its comments, and refused when it changed underneath."""

from pathlib import Path

from textual.widgets import Input

from emcfsys_tui.widgets.form_line import FormLine
from emcfsys_tui.widgets.train_pane import TrainPane
from tests.tui.conftest import opened, told, until


async def test_writing_keeps_the_comments_and_refuses_a_file_that_changed(demo: Path) -> None:
    file = demo / "project.toml"
    async with opened(demo, "2", size=(120, 40)) as pilot:
        pane = pilot.app.screen.query_one(TrainPane)
        await until(pilot, lambda: len(pane.query(FormLine)) > 20)
        pane.query_one("#field-training-steps Input", Input).value = "123"
        await until(pilot, lambda: "steps=123" in pane.command)
        await pilot.press("w")
        await until(pilot, lambda: "123" in file.read_text())
        text = file.read_text()
        assert text.startswith("# The demo") and "minutes" not in text
        await until(pilot, lambda: pane.form.digest and not pane._changes)
        pane.query_one("#field-training-steps Input", Input).value = "77"
        await until(pilot, lambda: "steps=77" in pane.command)
        file.write_text(text + "# a colleague was here\n")
        await pilot.press("w")
        await until(pilot, lambda: "changed on the disk" in told(pilot))
        assert "77" not in file.read_text()
