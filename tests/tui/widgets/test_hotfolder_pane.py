"""The hot folder's numbers are those of the watch that has it."""

from pathlib import Path

import pytest

from emcfsys_tui.view_models import HotState, JobRow
from emcfsys_tui.widgets.hotfolder_pane import state_text, state_word
from tests.tui.conftest import opened, screen_text, told, until


@pytest.mark.parametrize(
    ("state", "job_state", "reason", "word"),
    [
        ("watching", "running", "", "● WATCHING"),
        ("stopped", "queued", "", "◐ WAITING as job 3"),
        ("stopped", "running", "", "◐ STARTING job 3"),
        ("stopped", "running", "cancel asked", "◐ ENDING job 3"),
    ],
)
def test_a_watch_that_ends_is_not_said_to_wait(
    tmp_path: Path, state: str, job_state: str, reason: str, word: str
) -> None:
    job = JobRow(
        id=3,
        state=job_state,
        project="p",
        kind="watch",
        run=tmp_path,
        asks="",
        since=0.0,
        took_s=None,
        reason=reason,
        is_open=True,
    )
    assert state_word(HotState(state=state), job) == word
    assert state_word(HotState(state="stopped"), None) == "○ STOPPED"


def test_before_the_hot_folder_was_read_nothing_is_said_of_it() -> None:
    assert state_text(HotState(is_read=False), None, 80).strip() == "Reading the hot folder …"
    assert "no hot folder" in state_text(HotState(), None, 80)


async def test_a_hot_folder_that_never_ran_says_how_to_start(demo: Path) -> None:
    async with opened(demo, "4", size=(120, 40)) as pilot:
        await until(pilot, lambda: "space starts watching incoming/" in screen_text(pilot))
        assert "STOPPED" in screen_text(pilot)
        await pilot.press("space")
        await until(pilot, lambda: "has no finished run" in told(pilot), limit_s=30)


async def test_a_project_without_a_hot_folder_says_how_to_add_one(demo: Path) -> None:
    file = demo / "project.toml"
    file.write_text(file.read_text().partition("[hotfolder]")[0])
    async with opened(demo, "4") as pilot:
        await until(pilot, lambda: "Add to project.toml" in screen_text(pilot))
