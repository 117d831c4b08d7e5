"""Curves of runs, live, over each other, under one cursor."""

from pathlib import Path

from emcfsys_engine.run.events import MachineUsed
from emcfsys_tui.screens.dialogs import TextScreen
from emcfsys_tui.widgets.chart import Chart
from emcfsys_tui.widgets.runs_pane import RunsPane
from tests.tui.conftest import made_run, opened, say, screen_text, step, until, validation


async def test_what_the_machine_did_is_drawn_over_the_same_steps(demo: Path) -> None:
    run = made_run(demo, ended=False)
    for number in (10, 50, 90):
        say(run, MachineUsed(step=number, cpu=3.5, memory_gb=2.0, gpu=0.9, gpu_memory_gb=11.0))
    async with opened(demo, "3", size=(110, 36)) as pilot:
        charts = pilot.app.screen.query_one(RunsPane)
        cpu, loss = charts.query_one("#cpu", Chart), charts.query_one("#loss", Chart)
        await until(pilot, lambda: any(curve.view.count == 3 for curve in cpu.curves))
        assert not cpu.region.area and loss.region.area
        await pilot.press("M")
        await until(pilot, lambda: cpu.region.area and not loss.region.area)
        assert "processors" in screen_text(pilot) and "GPU memory GB" in screen_text(pilot)
        cpu.focus()
        await pilot.press("left")
        await until(pilot, lambda: loss.cursor_x is not None and loss.cursor_x == cpu.cursor_x)


async def test_runs_are_charted_live_and_overlaid(demo: Path) -> None:
    made_run(demo)
    live = made_run(demo, steps=50, ended=False, sets=("model.head=pspnet",))
    async with opened(demo, "3", size=(120, 40)) as pilot:
        pane = pilot.app.screen.query_one(RunsPane)
        loss = pane.query_one("#loss", Chart)
        await until(pilot, lambda: any(curve.view.count == 50 for curve in loss.curves))
        say(live, step(51), step(52), validation(52, 0.9))
        await until(pilot, lambda: any(curve.view.count == 52 for curve in loss.curves))
        await until(pilot, lambda: "0.900" in screen_text(pilot))
        await pilot.press("space", "down", "space")
        await until(pilot, lambda: [curve.glyph for curve in loss.curves] == ["b", "a"])
        await pilot.press("c")
        await until(pilot, lambda: isinstance(pilot.app.screen, TextScreen))
        assert "pspnet" in screen_text(pilot)


_CHARTS = ("loss", "iou", "rate", "speed")


async def test_one_cursor_runs_over_all_charts(demo: Path) -> None:
    made_run(demo)
    async with opened(demo, "3", size=(120, 44)) as pilot:
        charts = [pilot.app.screen.query_one(f"#{one}", Chart) for one in _CHARTS]
        await until(pilot, lambda: all(chart.curves for chart in charts))
        await pilot.press("enter", "left", "left", "left")
        await until(pilot, lambda: charts[0].cursor_x is not None)
        assert len({chart.cursor_x for chart in charts}) == 1
        await pilot.press("z")
        await until(pilot, lambda: charts[1].window is not None)
        assert len({chart.window for chart in charts}) == 1
