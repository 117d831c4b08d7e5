"""Train tells the truth before the start: plan, time and errors; and starts what was asked for."""

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import msgspec
import pytest
from textual.app import App
from textual.widgets import Input

from emcfsys_engine.jobs.queue import Queue
from emcfsys_engine.run.folder import Run
from emcfsys_engine.settings import cache_home
from emcfsys_tui.screens.dialogs import ConfirmScreen, PickScreen
from emcfsys_tui.screens.message import MessageScreen
from emcfsys_tui.widgets.form_line import Choice
from emcfsys_tui.widgets.jobs_pane import JobsPane
from emcfsys_tui.widgets.list import Rows
from emcfsys_tui.widgets.runs_pane import RunsPane
from emcfsys_tui.widgets.train_pane import Submitted, TrainPane
from tests.tui.conftest import made_run, opened, screen_text, told, until


def _break_label(demo: Path) -> Path:
    """Damage a file of labels: an error that every training refuses."""
    file = next(iter(sorted((demo / "annotations" / "train").glob("*.json"))))
    file.write_text("{")
    return file


@pytest.mark.long
async def test_the_plan_and_the_time_by_past_runs_are_there_before_the_start(demo: Path) -> None:
    run = made_run(demo, steps=100, sets=("training.preset=quick",))
    plan = {
        "network": {"head": "unet", "backbone": "tf_efficientnet_lite0"},
        "device": "cpu", "precision": "float32", "patch_px": 256, "batch": 8,
    }  # fmt: skip
    for precision in ("float32", "bfloat16"):  # whichever this processor takes
        twin = Run(demo / "runs" / f"run-{precision}")
        twin.folder.mkdir()
        for file in (run.record_file, run.events_file):
            (twin.folder / file.name).write_bytes(file.read_bytes())
        twin.plan_file.write_bytes(msgspec.json.encode({**plan, "precision": precision}))
    async with opened(demo, "2", size=(120, 40)) as pilot:
        pane = pilot.app.screen.query_one(TrainPane)
        assert "working out what will happen" in screen_text(pilot)
        await until(pilot, lambda: pane.forecast is not None)
        assert pane.forecast is not None and not pane.forecast.fault
        rows = {row.name: row for row in pane.forecast.rows}
        assert rows["data"].value == "10 training, 3 validation"
        assert "256 suits a cpu" in rows["patches"].why
        assert rows["steps"].value.startswith("about ")  # of minutes, by the runs above
        assert "10 training, 3 validation" in screen_text(pilot)


@pytest.mark.usefixtures("no_daemon")
async def test_known_errors_stop_the_start_until_the_person_starts_anyway(demo: Path) -> None:
    label = _break_label(demo)
    async with opened(demo, "2", size=(100, 30)) as pilot:
        pane = pilot.app.screen.query_one(TrainPane)
        await until(pilot, lambda: pane.forecast is not None)
        await until(pilot, lambda: "1 error would end it" in screen_text(pilot))
        pane.query_one("#forecast", Rows).focus()
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, MessageScreen))
        window = pilot.app.screen
        assert isinstance(window, MessageScreen) and window.notice.file == label
        await pilot.press("escape", "escape", "s")
        await until(pilot, lambda: isinstance(pilot.app.screen, ConfirmScreen))
        assert "start anyway" in screen_text(pilot)
        await pilot.press("n")
        assert not (demo / "runs").exists()
        await pilot.press("s")
        await until(pilot, lambda: isinstance(pilot.app.screen, ConfirmScreen))
        await pilot.press("y")
        await until(pilot, lambda: "run-0001" in screen_text(pilot))
    with Queue.open() as queue:
        assert [job.state for job in queue.list()] == ["queued"]


async def test_an_unknown_backbone_is_refused_at_typing_with_the_nearest_names(
    demo: Path,
) -> None:
    names = ["resnet18", "resnet34", "resnet50", *(f"network_{n}" for n in range(200))]
    cache = cache_home()
    cache.mkdir(parents=True, exist_ok=True)
    (cache / f"backbones-{version('timm')}.txt").write_text("\n".join(names))
    async with opened(demo, "2", size=(120, 40)) as pilot:
        pane = pilot.app.screen.query_one(TrainPane)
        await until(pilot, lambda: bool(pane.query("#field-model-backbone Input")))
        box = pane.query_one("#field-model-backbone Input", Input)
        box.value = "resnet35"
        await until(pilot, lambda: "timm has no backbone 'resnet35'" in screen_text(pilot))
        assert "resnet34" in screen_text(pilot)
        await pilot.press("s")
        await until(pilot, lambda: "Mend what is marked" in told(pilot))
        box.value = "resnet34.a1_in1k"
        await until(pilot, lambda: not pane.verdict.faults)


@pytest.mark.usefixtures("no_daemon")
async def test_a_submitted_run_is_selected_and_scrolled_to(demo: Path) -> None:
    for _ in range(9):
        made_run(demo, steps=20)
    async with opened(demo, "3", size=(80, 24)) as pilot:
        runs = pilot.app.screen.query_one(RunsPane)
        await until(pilot, lambda: "run-0009" in screen_text(pilot))
        await pilot.press("end", "2")
        pane = pilot.app.screen.query_one(TrainPane)
        await until(pilot, lambda: bool(pane.verdict.command))
        pane._submitted = dict(pane._changes)
        pane.attempt(lambda: pane._submit(("training.steps=5",)))
        await until(pilot, lambda: runs.is_shown)
        rows = runs.query_one("#runs", Rows)
        await until(pilot, lambda: rows.current is not None and rows.current.key == "run-0010")
        await until(pilot, lambda: "run-0010" in screen_text(pilot))


async def test_who_went_on_before_the_run_was_queued_stays_where_he_is(demo: Path) -> None:
    async with opened(demo, "2", size=(80, 24)) as pilot:
        pane = pilot.app.screen.query_one(TrainPane)
        await until(pilot, lambda: bool(pane.verdict.command))
        await pilot.press("5")
        pane.post_message(Submitted(7, "run-0001"))
        await until(pilot, lambda: "Job 7: run-0001 is in the queue" in told(pilot))
        await pilot.pause()
        assert pilot.app.screen.query_one(JobsPane).is_shown


async def test_words_to_choose_from_stay_in_sight_in_a_narrow_terminal(demo: Path) -> None:
    async with opened(demo, "2", size=(60, 16)) as pilot:
        await until(pilot, lambda: "[unet] pspnet deeplabv3plus upernet" in screen_text(pilot))
    choice = Choice(("first", "second", "the third of them", "fourth"), "first")

    class Stage(App[None]):
        def compose(self) -> Iterator[Choice]:
            yield choice

    async with Stage().run_test(size=(16, 3)) as pilot:
        choice.focus()
        for word in ("[second]", "[the third of t", "[fourth]"):
            await pilot.press("right")
            assert word in choice.render_line(0).text
        await pilot.click(Choice, offset=(1, 0))
        assert choice.value == "the third of them"


async def test_a_page_pasted_into_a_field_leaves_the_remedy_readable(demo: Path) -> None:
    async with opened(demo, "2", size=(100, 30)) as pilot:
        await until(pilot, lambda: bool(pilot.app.screen.query("#field-training-minutes Input")))
        box = pilot.app.screen.query_one("#field-training-minutes Input", Input)
        box.value = " ".join(map(str, range(1000)))
        await until(pilot, lambda: "Mend the value" in " ".join(screen_text(pilot).split()))
        assert "998 999" in screen_text(pilot).partition("✗ training.minutes")[2]


@pytest.mark.long
@pytest.mark.usefixtures("no_daemon")
async def test_submitting_queues_a_job_and_shows_its_run(demo: Path) -> None:
    async with opened(demo, "2") as pilot:
        pane = pilot.app.screen.query_one(TrainPane)
        await until(pilot, lambda: bool(pane.verdict.command))
        await pilot.press("s")
        # A child that loads torch looks at the project first.
        await until(pilot, lambda: "run-0001" in screen_text(pilot))
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
