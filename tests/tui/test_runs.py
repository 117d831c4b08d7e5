"""Runs: what is made of a run that is there, and what its validations looked like."""

from pathlib import Path

import pytest
from PIL import Image
from textual.widgets import Input

from emcfsys_engine.jobs.queue import Queue
from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import MachineUsed, PreviewSaved, RunFinished, RunStarted
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.groups import new_trainings
from emcfsys_tui.engine.runs import budget_of
from emcfsys_tui.memory import pin_runs, pinned_runs
from emcfsys_tui.screens.dialogs import AskScreen, PickScreen
from emcfsys_tui.widgets.chart import Chart
from emcfsys_tui.widgets.list import Rows
from emcfsys_tui.widgets.picture_pane import PreviewBox, PreviewTitle
from emcfsys_tui.widgets.picture_view import PictureView
from emcfsys_tui.widgets.run_rows import own_places
from emcfsys_tui.widgets.runs_pane import RunsPane
from tests.tui.conftest import made_run, opened, say, screen_text, step, told, until, validation

_ORANGE, _RED = (230, 159, 0), (220, 50, 47)


def _preview(run: Run, step: int, image: str = "cell_1000") -> None:
    """Write a strip of four panels of 64 px: grey, an orange half, the same again, red."""
    strip = Image.new("RGB", (4 * 64 + 6, 64), (90, 90, 90))
    strip.paste(_ORANGE, (66, 0, 98, 64))
    strip.paste(_ORANGE, (132, 0, 164, 64))
    strip.paste(_RED, (198, 0, 262, 64))
    file = run.previews_folder / f"step-{step:07}-{image}.png"
    file.parent.mkdir(exist_ok=True)
    strip.save(file)
    say(run, PreviewSaved(step=step, image=image, file=str(file.relative_to(run.folder))))


async def test_previews_are_stepped_through_and_the_newest_is_followed(demo: Path) -> None:
    run = made_run(demo, ended=False)
    _preview(run, 20)
    _preview(run, 40)
    async with opened(demo, "3", size=(100, 40)) as pilot:
        await until(pilot, lambda: "run-0001" in screen_text(pilot))
        await pilot.press("v")
        box = pilot.app.screen.query_one(PreviewBox)
        view = box.query_one(PictureView)
        await until(pilot, lambda: "step 40 · 2 of 2" in screen_text(pilot))
        await until(pilot, lambda: view.picture is not None and view.picture.grey)
        _preview(run, 60)  # it grows while it is looked at
        await until(pilot, lambda: "step 60 · 3 of 3" in screen_text(pilot))
        await pilot.press("left_square_bracket", "left_square_bracket")
        await until(pilot, lambda: "step 20 · 1 of 3" in screen_text(pilot))
        _preview(run, 80)  # who looks back is left alone
        await until(pilot, lambda: "step 20 · 1 of 4" in screen_text(pilot))
        await pilot.click(PreviewTitle, offset=(70, 0))
        await until(pilot, lambda: "step 40 · 2 of 4" in screen_text(pilot))
        await pilot.press("v")
        assert not box.display


async def test_panels_of_a_preview_are_told_apart(demo: Path) -> None:
    run = made_run(demo)
    _preview(run, 20)
    async with opened(demo, "3", size=(100, 40)) as pilot:
        await until(pilot, lambda: "run-0001" in screen_text(pilot))
        await pilot.press("v")
        view = pilot.app.screen.query_one(PreviewBox).query_one(PictureView)
        await until(pilot, lambda: view.picture is not None and view.picture.grey)
        picture = view.picture
        assert picture is not None and picture.channels == 3
        assert len(picture.grey) == picture.width * picture.height * 3
        found = {picture.grey[n : n + 3] for n in range(0, len(picture.grey), 3)}
        assert {bytes(_ORANGE), bytes(_RED)} <= found
        view.focus()
        await pilot.press("left", "right")
        await until(pilot, lambda: "prediction" in screen_text(pilot))


async def test_a_run_without_previews_says_when_there_will_be_some(demo: Path) -> None:
    made_run(demo)
    async with opened(demo, "3", size=(100, 40)) as pilot:
        await until(pilot, lambda: "run-0001" in screen_text(pilot))
        await pilot.press("v")
        await until(pilot, lambda: "No previews yet" in screen_text(pilot))


@pytest.mark.usefixtures("no_daemon")
async def test_a_finished_run_is_extended_as_a_job(demo: Path) -> None:
    run = made_run(demo)
    async with opened(demo, "3", size=(120, 40)) as pilot:
        await until(pilot, lambda: "run-0001" in screen_text(pilot))
        await pilot.press("e")
        await until(pilot, lambda: isinstance(pilot.app.screen, AskScreen))
        await until(pilot, lambda: "submit extend" in screen_text(pilot))
        box = pilot.app.screen.query_one(Input)
        assert box.value == "4.6 min"  # twice of what it had
        box.value = "200"
        await pilot.press("enter")
        await until(pilot, lambda: "goes on with training.steps=200" in told(pilot))
        await until(pilot, lambda: "queued" in screen_text(pilot))
    project = run.record().project
    assert project is not None and project.training.steps == 200
    with Queue.open() as queue:
        assert [(job.run, job.state) for job in queue.list()] == [(str(run.folder), "queued")]


async def test_a_budget_that_is_none_changes_nothing(demo: Path) -> None:
    run = made_run(demo)
    before = run.record_file.read_bytes()
    async with opened(demo, "3", size=(120, 40)) as pilot:
        await until(pilot, lambda: "run-0001" in screen_text(pilot))
        await pilot.press("e")
        await until(pilot, lambda: isinstance(pilot.app.screen, AskScreen))
        await pilot.press("backspace", "backspace", "backspace", *"soon", "enter")
        await until(pilot, lambda: "is no budget" in told(pilot))
    assert run.record_file.read_bytes() == before


def test_budgets_are_steps_or_minutes() -> None:
    assert budget_of("2,000") == "training.steps=2000"
    assert budget_of(" 30 min ") == "training.minutes=30"
    assert budget_of("0.5min") == "training.minutes=0.5"


async def test_the_report_is_written_and_its_path_shown(demo: Path) -> None:
    run = made_run(demo)
    async with opened(demo, "3", size=(120, 40)) as pilot:
        await until(pilot, lambda: "run-0001" in screen_text(pilot))
        await pilot.press("R")
        file = run.folder / "report.html"
        await until(pilot, lambda: f"Copied: {file}" in told(pilot), limit_s=60)
    assert "run-0001" in file.read_text()


async def test_an_export_asks_for_the_format_and_tells_what_is_missing(demo: Path) -> None:
    made_run(demo)
    async with opened(demo, "3", size=(120, 40)) as pilot:
        await until(pilot, lambda: "run-0001" in screen_text(pilot))
        await pilot.press("E")
        await until(pilot, lambda: isinstance(pilot.app.screen, PickScreen))
        await until(pilot, lambda: "--format" in screen_text(pilot))
        assert "bioimage.io" in screen_text(pilot)
        await pilot.press("down", "enter")
        await until(pilot, lambda: "has no best model yet" in told(pilot))


async def test_read_only_makes_nothing_of_a_run_but_shows_previews(demo: Path) -> None:
    run = made_run(demo)
    _preview(run, 20)
    async with opened(demo, "3", size=(100, 40), read_only=True) as pilot:
        await until(pilot, lambda: "run-0001" in screen_text(pilot))
        await pilot.press("e", "E", "R")
        assert not isinstance(pilot.app.screen, AskScreen | PickScreen)
        assert "read-only" in told(pilot)
        await pilot.press("v")
        await until(pilot, lambda: "step 20" in screen_text(pilot))
    assert not (run.folder / "report.html").exists()


async def test_folds_are_shown_and_drawn_together(demo: Path) -> None:
    project = load_project(demo, ("training.kfold=2",))
    for run in new_trainings(project):
        say(run, RunStarted(run=run.id, does="train", total_steps=40), step(1))
        say(run, validation(20, 0.5 + run.record().fold / 10), RunFinished(reason="steps", step=20))
    made_run(demo)
    async with opened(demo, "3", size=(140, 40)) as pilot:
        await until(pilot, lambda: "fold 2 · unet/" in screen_text(pilot))
        pane = pilot.app.screen.query_one(RunsPane)
        await pilot.press("down", "F")
        await until(pilot, lambda: pane.drawn == ("run-0002", "run-0001"))
        assert "kfold-0001: 2 folds, best 0.650 ± 0.071 of 2" in told(pilot)


async def test_a_filter_shows_the_runs_for_which_its_words_hold(demo: Path) -> None:
    made_run(demo, sets=("model.backbone=resnet18",))
    made_run(demo)
    made_run(demo, ended=False, sets=("model.backbone=resnet34",))
    async with opened(demo, "3", size=(110, 36)) as pilot:
        pane = pilot.app.screen.query_one(RunsPane)
        rows = pane.query_one("#runs", Rows)

        def shown() -> list[str]:
            return [row.key for row in rows.rows]

        await until(pilot, lambda: len(shown()) == 3)
        await pilot.press("f", *"backbone:resnet* iou>.7", "enter")
        await until(pilot, lambda: shown() == ["run-0003", "run-0001"])
        await pilot.press("f", *" iou>x", "enter")
        await until(pilot, lambda: "iou>.8" in told(pilot))
        await pilot.press("escape")
        await until(pilot, lambda: len(shown()) == 3)


async def test_a_pinned_run_stays_on_top_and_is_drawn_with_every_other(demo: Path) -> None:
    for _ in range(3):
        made_run(demo)
    async with opened(demo, "3", size=(110, 36)) as pilot:
        pane = pilot.app.screen.query_one(RunsPane)
        rows = pane.query_one("#runs", Rows)
        await until(pilot, lambda: len(rows.rows) == 3)
        await pilot.press("down", "down", "P")
        await until(pilot, lambda: rows.rows[0].key == "run-0001")
        assert "◆run-0001" in screen_text(pilot)
        await pilot.press("down")
        await until(pilot, lambda: pane.drawn == ("run-0003", "run-0001"))
        await pilot.press("up", "P")
        await until(pilot, lambda: rows.rows[0].key == "run-0003")


async def test_pins_last_beyond_a_session_and_a_damaged_file_of_them_is_told_and_replaced(
    demo: Path, world: Path
) -> None:
    for _ in range(2):
        made_run(demo)
    for other in ("a", "b"):
        pin_runs(world / other, ["run-0009"])
    async with opened(demo, "3", size=(110, 36)) as pilot:
        await until(pilot, lambda: "run-0001" in screen_text(pilot))
        await pilot.press("down", "P")
        await until(pilot, lambda: "◆run-0001" in screen_text(pilot))
    assert pinned_runs(world / "a") == (frozenset({"run-0009"}), "")
    async with opened(demo, "3", size=(110, 36)) as pilot:
        await until(pilot, lambda: "◆run-0001" in screen_text(pilot))
    (world / "state" / "pins.json").write_bytes(b'{"\xff": [')
    async with opened(demo, "3", size=(110, 36)) as pilot:
        await until(pilot, lambda: "pins.json: is damaged" in told(pilot))
        await until(pilot, lambda: "run-0002" in screen_text(pilot))
        assert "◆" not in screen_text(pilot)
        await pilot.press("P")
        await until(pilot, lambda: "◆run-0002" in screen_text(pilot))
    assert pinned_runs(demo) == (frozenset({"run-0002"}), "")


def test_a_run_keeps_its_letter_and_colour_whatever_is_drawn_beside_it() -> None:
    alone = own_places(["run-0003", "run-0004"], 6)
    more = own_places(["run-0001", "run-0003", "run-0004", "run-0012"], 6)
    assert alone == {"run-0003": 2, "run-0004": 3}
    assert alone.items() <= more.items()
    assert len(set(own_places([f"run-{n * 6:04d}" for n in range(1, 7)], 6).values())) == 6


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
