"""Any pane can have the room; on a small screen one always has it, and tab goes round."""

from collections.abc import Callable
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widget import Widget

from emcfsys_engine.jobs.queue import Queue
from emcfsys_tui.screens.dialogs import PickScreen
from emcfsys_tui.widgets.pane import Pane
from tests.tui.conftest import made_run, opened, screen_text, told, until
from tests.tui.test_program import _PROGRAM, _wait, project_environment, tmux

__all__ = ["tmux"]  # a fixture

TABS = {"1": ("images", "findings"), "3": ("runs", "loss", "iou"), "5": ("jobs", "job-log")}


def shown(pilot: Pilot[None], name: str) -> bool:
    """Tell whether a widget has room on the screen."""
    found = list(pilot.app.screen.query(f"Pane #{name}").results(Widget))
    return any(widget.is_on_screen and widget.size.height > 0 for widget in found)


def alone(pilot: Pilot[None], tab: str, name: str) -> bool:
    return [other for other in TABS[tab] if shown(pilot, other)] == [name]


@pytest.mark.parametrize("tab", TABS)
async def test_plus_gives_a_pane_the_room_and_underscore_gives_it_back(
    demo: Path, tab: str
) -> None:
    made_run(demo)
    async with opened(demo, tab, size=(120, 40)) as pilot:
        await until(pilot, lambda: all(shown(pilot, name) for name in TABS[tab]))
        await pilot.press("plus")
        await until(pilot, lambda: alone(pilot, tab, TABS[tab][0]))
        (box,) = pilot.app.screen.query(f"Pane #{TABS[tab][0]}").results(Widget)
        assert box.size.height >= 30
        await pilot.press("tab")
        await until(pilot, lambda: alone(pilot, tab, TABS[tab][1]))
        await pilot.press("underscore")
        await until(pilot, lambda: all(shown(pilot, name) for name in TABS[tab]))


@pytest.mark.parametrize("tab", TABS)
async def test_on_a_small_screen_one_pane_is_shown_and_tab_goes_round(demo: Path, tab: str) -> None:
    made_run(demo)
    async with opened(demo, tab, size=(60, 16)) as pilot:
        for name in TABS[tab]:
            await until(pilot, lambda name=name: alone(pilot, tab, name))
            await pilot.press("tab")
        await pilot.press("shift+tab")
        await until(pilot, lambda: alone(pilot, tab, TABS[tab][-1]))
        await pilot.resize_terminal(120, 40)
        await until(pilot, lambda: all(shown(pilot, name) for name in TABS[tab]))


def test_in_tmux_one_burst_goes_to_jobs_asks_and_answers(
    demo: Path, world: Path, tmux: Callable[..., str]
) -> None:
    run = made_run(demo, steps=3, ended=False)
    with Queue.open() as queue:
        number = queue.add(run.folder, project_name="demo", gpus=0)
        names = {**project_environment(world), "TERM": "screen-256color"}
        program = " ".join(
            [
                "env -u COLUMNS -u LINES",
                *(f"{k}={v}" for k, v in names.items()),
                *_PROGRAM,
                str(demo),
            ]
        )
        tmux("new-session", "-d", "-x", "60", "-y", "16", "-s", "t", f"{program}; echo END; cat")

        def seen(word: str) -> bool:
            return word in tmux("capture-pane", "-p", "-t", "t")

        _wait(lambda: seen("queued"))
        tmux("send-keys", "-t", "t", "5")
        _wait(lambda: seen("no daemon"))
        tmux("send-keys", "-t", "t", "s", "x", "Enter", "x", "Down", "Enter")
        _wait(lambda: queue.get(number).state == "paused")
        tmux("send-keys", "-t", "t", "Tab", "+", "_", "q")
        _wait(lambda: seen("END"))


@pytest.mark.usefixtures("no_daemon")
@pytest.mark.parametrize("tab", ["3", "5"])
async def test_x_asks_once_and_alike_how_to_end_and_s_ends_nothing(demo: Path, tab: str) -> None:
    run = made_run(demo, steps=3, ended=False)
    with Queue.open() as queue:
        number = queue.add(run.folder, project_name="demo", gpus=0)

        def state() -> str:
            return queue.get(number).state

        async with opened(demo, tab, size=(100, 30)) as pilot:
            await until(pilot, lambda: "queued" in screen_text(pilot))
            await until(pilot, lambda: pilot.app.screen.query(Pane).first().queue_state.jobs)
            await pilot.press("s", "x", "enter")  # the first answer lets it go on
            await until(pilot, lambda: not isinstance(pilot.app.screen, PickScreen))
            assert state() == "queued"
            await pilot.press("x")
            await until(pilot, lambda: isinstance(pilot.app.screen, PickScreen))
            assert "Shall it end?" in screen_text(pilot)
            await pilot.press("down", "enter")
            await until(pilot, lambda: state() == "paused")
            await pilot.press("x", "end", "enter")
            await until(pilot, lambda: state() == "cancelled")
            await until(pilot, lambda: "queued" not in screen_text(pilot))
            await pilot.press("x")
            await until(pilot, lambda: "nothing to end" in told(pilot))
