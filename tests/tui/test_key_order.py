"""Bursts of keys, as one read of a slow line brings them."""

from pathlib import Path

import pytest
from textual._xterm_parser import XTermParser
from textual.events import Key, Paste
from textual.pilot import Pilot
from textual.widgets import Input

from emcfsys_engine.run.folder import Run
from emcfsys_tui.key_order import EscapeParser
from emcfsys_tui.screens.dialogs import ConfirmScreen
from emcfsys_tui.screens.project import ProjectScreen
from emcfsys_tui.widgets.form_line import Choice
from emcfsys_tui.widgets.train_pane import TrainPane
from tests.bench.terminal import Terminal, project_environment
from tests.tui.conftest import made_run, opened, screen_text, until
from tests.tui.test_program import _PROGRAM

DOWN, UP, RIGHT = "\x1b[B", "\x1b[A", "\x1b[C"


def burst(pilot: Pilot[None], text: str) -> None:
    for event in XTermParser().feed(text):
        pilot.app.post_message(event)


@pytest.mark.parametrize(
    ("keys", "minutes", "head"),
    [
        (f"{DOWN}{DOWN}4", "4", ""),
        (f"{DOWN}{DOWN}1.5{DOWN}{DOWN}{RIGHT}", "1.5", "pspnet"),
        (f"{DOWN}{DOWN}12\x7f5{UP}{DOWN}{DOWN}{DOWN}{RIGHT}{RIGHT}", "15", "deeplabv3plus"),
        (f"{DOWN}{DOWN}\x1b[200~45\x1b[201~{DOWN}", "45", ""),  # a paste
    ],
    ids=["one digit", "two fields", "a digit taken back", "a paste"],
)
async def test_every_key_of_a_burst_acts_where_the_key_before_it_left_the_focus(
    demo: Path, keys: str, minutes: str, head: str
) -> None:
    async with opened(demo, "2", size=(100, 30)) as pilot:
        pane = pilot.app.screen.query_one(TrainPane)
        await until(pilot, lambda: bool(pane.query("#field-training-minutes Input")))
        burst(pilot, keys)
        box = pane.query_one("#field-training-minutes Input", Input)
        choice = pane.query_one("#field-model-head Choice", Choice)
        await until(pilot, lambda: box.value == minutes and (not head or choice.value == head))
        screen = pilot.app.screen
        assert isinstance(screen, ProjectScreen)
        assert screen.query_one(TrainPane).display  # no digit of it changed the tab


async def test_an_answer_typed_with_its_question_reaches_the_question(demo: Path) -> None:
    run = made_run(demo)
    async with opened(demo, "3", size=(120, 36)) as pilot:
        await until(pilot, lambda: run.id in screen_text(pilot))
        burst(pilot, "Dn")
        await until(pilot, lambda: not isinstance(pilot.app.screen, ConfirmScreen))
        assert run.folder.exists()
        burst(pilot, "Dy")
        await until(pilot, lambda: not run.folder.exists())


async def test_keys_typed_while_a_project_opens_act_in_it(demo: Path) -> None:
    projects = demo.parent / "projects"
    projects.mkdir()
    demo.rename(projects / "demo")
    async with opened(None, size=(120, 30)) as pilot:
        await until(pilot, lambda: "13" in screen_text(pilot))
        burst(pilot, "\r6")
        await until(pilot, lambda: "No model files yet" in screen_text(pilot))


@pytest.mark.parametrize(
    ("typed", "keys"),
    [
        ("\x1bx", ["escape", "x"]),
        ("\x1b:", ["escape", "colon"]),
        ("\x1b6", ["escape", "6"]),
        ("\x1b3\x1b5", ["escape", "3", "escape", "5"]),
        ("\x1b\r", ["escape", "enter"]),
        ("\x1bX2", ["escape", "X", "2"]),
        ("\x1b\x1b[B4", ["escape", "down", "4"]),
        ("x\x1b", ["x", "escape"]),
    ],
)
def test_escape_and_keys_of_one_packet_are_all_of_these_keys(typed: str, keys: list[str]) -> None:
    parser = EscapeParser()
    found = [*parser.feed(typed), *parser.feed("")]
    parser.tick_at = 0
    found += [*parser.tick()]
    assert [event.key for event in found if isinstance(event, Key)] == keys


def test_escape_and_a_key_in_one_write_both_act_in_the_real_program(
    demo: Path, world: Path
) -> None:
    terminal = Terminal([*_PROGRAM, str(demo)], environment=project_environment(world))
    try:
        terminal.wait_for("Data")
        terminal.press("1/")
        terminal.wait_for("ords to look for")  # the cursor is on the w
        terminal.press("\x1b?")  # ends the filter, then opens the help
        terminal.wait_for("The loop: 1 Data")
    finally:
        terminal.close()


async def test_a_pasted_page_is_one_line_of_a_field_and_steers_no_terminal(demo: Path) -> None:
    page = "no labels\x1b[31m\x07 here\u202e\n" * 400
    async with opened(demo, "1", size=(100, 30)) as pilot:
        await until(pilot, lambda: "cell_0000" in screen_text(pilot))
        await pilot.press("slash")
        pilot.app.post_message(Paste(page))
        box = pilot.app.screen.query_one("#data-filter", Input)
        await until(pilot, lambda: box.value == "no labels[31m here")


@pytest.mark.long
@pytest.mark.usefixtures("no_daemon")
async def test_a_start_in_the_same_burst_as_an_edit_has_the_edit(demo: Path) -> None:
    async with opened(demo, "2", size=(100, 30)) as pilot:
        pane = pilot.app.screen.query_one(TrainPane)
        await until(pilot, lambda: bool(pane.verdict.command))
        burst(pilot, f"{DOWN}{DOWN}{DOWN}6")
        pilot.app.post_message(Key("escape", "\x1b"))
        pilot.app.post_message(Key("s", "s"))
        await until(pilot, lambda: (demo / "runs/run-0001/run.json").exists())
        record = Run(demo / "runs" / "run-0001").record()
        assert record.project is not None and record.project.training.steps == 6
        await until(pilot, lambda: "run-0001" in screen_text(pilot))
