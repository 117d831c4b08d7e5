"""What a person does in a day, with a Pilot at the keys."""

import shutil
from pathlib import Path

import pytest
from textual.widgets import Input

from emcfsys_engine.jobs.queue import Queue
from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import RunStarted
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.records import WatchRequest
from emcfsys_tui.memory import remembered
from emcfsys_tui.screens.dialogs import ConfirmScreen, PickScreen, TextScreen
from emcfsys_tui.screens.message import MessageScreen
from emcfsys_tui.screens.project import ProjectScreen
from emcfsys_tui.settings import Settings
from emcfsys_tui.view_models import CheckState
from emcfsys_tui.widgets.chart import Chart
from emcfsys_tui.widgets.data_pane import DataPane
from emcfsys_tui.widgets.form_line import FormLine
from emcfsys_tui.widgets.list import Rows
from emcfsys_tui.widgets.picture_view import PictureView
from emcfsys_tui.widgets.runs_pane import RunsPane
from emcfsys_tui.widgets.train_pane import TrainPane
from tests.tui.conftest import made_run, opened, say, screen_text, step, told, until, validation


async def test_a_first_start_offers_the_demo_and_a_new_project() -> None:
    async with opened(None) as pilot:
        await until(pilot, lambda: "No projects yet" in screen_text(pilot))
        assert "demo" in screen_text(pilot)


async def test_the_list_shows_projects_and_opens_one(demo: Path) -> None:
    projects = demo.parent / "projects"
    projects.mkdir()
    shutil.move(demo, projects / "demo")
    made_run(projects / "demo")
    async with opened(None, size=(120, 30)) as pilot:
        await until(pilot, lambda: "13" in screen_text(pilot))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, ProjectScreen))
        await until(pilot, lambda: "run-0001" in screen_text(pilot))
        await pilot.press("escape")
        await until(pilot, lambda: "labelled" in screen_text(pilot))


async def test_the_last_place_is_restored(demo: Path) -> None:
    async with opened(demo, "6") as pilot:
        await pilot.pause()
    assert remembered().place == str(demo)
    async with opened(None) as pilot:
        screen = pilot.app.screen
        assert isinstance(screen, ProjectScreen)
        await until(pilot, lambda: "No model files yet" in screen_text(pilot))


async def test_data_lists_filters_and_shows_an_image_with_its_labels(demo: Path) -> None:
    async with opened(demo, "1", size=(120, 40)) as pilot:
        pane = pilot.app.screen.query_one(DataPane)
        await until(pilot, lambda: any(row.labels for row in pane.images))
        view = pane.query_one(PictureView)
        await until(pilot, lambda: view.picture is not None and bool(view.picture.ids))
        assert view.picture is not None
        assert len(view.picture.grey) == view.picture.width * view.picture.height
        assert max(view.picture.ids) == 2
        await pilot.press("slash", *"val", "enter")
        assert len(pane.query_one("#images", Rows).rows) == 3
        await pilot.press("escape", "enter", "right", "right")
        await until(pilot, lambda: "value" in screen_text(pilot))
        await pilot.press("z")
        await until(pilot, lambda: view.picture is not None and view.picture.view_px[2] < 384)


async def test_a_finding_of_the_check_opens_its_file(demo: Path) -> None:
    (demo / "images/train/cell_0007.png").write_bytes(b"no image at all")
    async with opened(demo, "1", size=(120, 40)) as pilot:
        pane = pilot.app.screen.query_one(DataPane)
        await until(pilot, lambda: pane.check_state != CheckState(running=True), limit_s=60)
        assert any("cell_0007" in one.file for one in pane.check_state.findings)
        findings = pane.query_one("#findings", Rows)
        findings.focus()
        named = ["cell_0007" in one.file for one in pane.check_state.findings]
        findings.cursor = named.index(True)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, MessageScreen))
        await pilot.press("v")
        row = pane.query_one("#images", Rows).current
        assert row is not None and "cell_0007" in row.key
        await until(pilot, lambda: "cell_0007" in screen_text(pilot))


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


@pytest.mark.long
@pytest.mark.usefixtures("no_daemon")
async def test_submitting_queues_a_job_and_shows_its_run(demo: Path) -> None:
    async with opened(demo, "2") as pilot:
        pane = pilot.app.screen.query_one(TrainPane)
        await until(pilot, lambda: bool(pane.verdict.command))
        await pilot.press("s")
        # A child that loads torch looks at the project first.
        await until(pilot, lambda: "run-0001" in screen_text(pilot), limit_s=90)
        await until(pilot, lambda: "queued" in screen_text(pilot))
        await pilot.press("5")
        await until(pilot, lambda: "demo" in screen_text(pilot))
        await pilot.press("p")
        await until(pilot, lambda: "paused" in screen_text(pilot))
        await pilot.press("x")
        await until(pilot, lambda: isinstance(pilot.app.screen, PickScreen))
        await pilot.press("end", "enter")
        await until(pilot, lambda: "cancelled" in screen_text(pilot))
    with Queue.open() as queue:
        assert [job.state for job in queue.list()] == ["cancelled"]


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


async def test_a_run_is_deleted_only_after_a_yes(demo: Path) -> None:
    run = made_run(demo)
    async with opened(demo, "3") as pilot:
        await until(pilot, lambda: "run-0001" in screen_text(pilot))
        await pilot.press("D")
        await until(pilot, lambda: isinstance(pilot.app.screen, ConfirmScreen))
        await pilot.press("n")
        assert run.folder.exists()
        await pilot.press("D")
        await until(pilot, lambda: isinstance(pilot.app.screen, ConfirmScreen))
        await pilot.press("y")
        await until(pilot, lambda: not run.folder.exists())
        await until(pilot, lambda: "No runs yet" in screen_text(pilot))


async def test_read_only_changes_nothing(demo: Path) -> None:
    run = made_run(demo)
    async with opened(demo, "3", read_only=True) as pilot:
        await until(pilot, lambda: "run-0001" in screen_text(pilot))
        await pilot.press("D", "x", "s", "r")
        assert "read-only" in screen_text(pilot)
        assert not isinstance(pilot.app.screen, ConfirmScreen)
    assert Run(run.folder).record_file.exists()


async def test_a_hot_folder_that_never_ran_says_how_to_start(demo: Path) -> None:
    async with opened(demo, "4", size=(120, 40)) as pilot:
        await until(pilot, lambda: "space starts watching incoming/" in screen_text(pilot))
        assert "STOPPED" in screen_text(pilot)
        await pilot.press("space")
        await until(pilot, lambda: "has no finished run" in told(pilot), limit_s=30)


async def test_every_action_is_in_the_palette_and_every_key_in_the_help(demo: Path) -> None:
    made_run(demo)
    async with opened(demo, "3", size=(120, 50)) as pilot:
        app = pilot.app
        titles = [command.title for command in app.get_system_commands(app.screen)]
        for word in ("Overlay: ", "Compare: ", "Delete: ", "Hot folder: ", "Theme: ", "End …: "):
            assert any(title.startswith(word) for title in titles), word
        await pilot.press("question_mark")
        await until(pilot, lambda: "runs.mark" in screen_text(pilot))


async def test_keys_can_be_changed(demo: Path) -> None:
    made_run(demo)
    settings = Settings(bell=False, keys={"tab.models": "ctrl+x"})
    async with opened(demo, "3", settings=settings) as pilot:
        await pilot.press("ctrl+x")
        await until(pilot, lambda: "No model files" in screen_text(pilot))


async def test_a_small_terminal_says_so(demo: Path) -> None:
    async with opened(demo, "3", size=(50, 12)) as pilot:
        await until(pilot, lambda: "make it 60 × 16" in screen_text(pilot))
        await pilot.resize_terminal(80, 24)
        await until(pilot, lambda: "No runs yet" in screen_text(pilot))


@pytest.mark.parametrize("theme", ["emcfsys-light", "colour-blind-dark", "ansi-dark", "ansi-light"])
async def test_every_theme_draws_every_tab(demo: Path, theme: str) -> None:
    made_run(demo)
    async with opened(demo, settings=Settings(bell=False, theme=theme)) as pilot:
        for tab in "123456":
            await pilot.press(tab)
            await pilot.pause()
        assert pilot.app.theme == theme


async def test_the_footer_has_at_most_seven_keys(demo: Path) -> None:
    made_run(demo)
    async with opened(demo, size=(200, 50)) as pilot:
        for tab in "123456":
            await pilot.press(tab)
            await pilot.pause()
            keys = pilot.app.screen.query_one("#keys").keys
            assert 2 < len(keys) <= 7


async def test_a_name_with_escapes_is_shown_harmlessly(demo: Path) -> None:
    evil = "evil\x1b[31m[bold]\nname.png"
    shutil.copy(demo / "images/train/cell_0001.png", demo / "images/train" / evil)
    async with opened(demo, "1", size=(120, 40)) as pilot:
        await until(pilot, lambda: "evil\\x" in screen_text(pilot))
        assert "\x1b" not in screen_text(pilot)


async def test_a_project_without_a_hot_folder_says_how_to_add_one(demo: Path) -> None:
    file = demo / "project.toml"
    file.write_text(file.read_text().partition("[hotfolder]")[0])
    async with opened(demo, "4") as pilot:
        await until(pilot, lambda: "Add to project.toml" in screen_text(pilot))


async def test_where_nothing_ran_no_chart_waits_for_a_step(demo: Path) -> None:
    async with opened(demo, "3") as pilot:
        await until(pilot, lambda: "No runs yet" in screen_text(pilot))
        assert "Waiting" not in screen_text(pilot)


async def test_a_watch_says_why_it_has_no_curves(demo: Path) -> None:
    request = WatchRequest(model="best", watch="incoming", output="predictions")
    run = new_run(demo / "runs", request, project=load_project(demo))
    say(run, RunStarted(run=run.id, does="watch"))
    async with opened(demo, "3") as pilot:
        await until(pilot, lambda: "4 shows what came" in screen_text(pilot))


@pytest.mark.parametrize("key", ["ctrl+q", "escape"])
async def test_leaving_with_changes_in_train_asks_once(demo: Path, key: str) -> None:
    async with opened(demo, "2", size=(100, 30)) as pilot:
        pane = pilot.app.screen.query_one(TrainPane)
        await until(pilot, lambda: bool(pane.query("#field-training-minutes Input")))
        await pilot.press("down", "down", "4", "escape")
        await until(pilot, lambda: bool(pane.unsaved))
        await pilot.press(key)
        await until(pilot, lambda: isinstance(pilot.app.screen, ConfirmScreen))
        await pilot.press("n")
        await until(pilot, lambda: isinstance(pilot.app.screen, ProjectScreen))
        assert pane.query_one("#field-training-minutes Input", Input).value == "4"
        await pilot.press("w")
        await until(pilot, lambda: not pane.unsaved)
        assert load_project(demo).training.minutes == 4
