"""The hot folder's numbers are those of the watch that has it."""

from pathlib import Path

import pytest
from msgspec import structs

from emcfsys_engine.project import load_project
from emcfsys_tui.view_models import HotState, JobRow
from emcfsys_tui.widgets.hotfolder_pane import HotFolderPane, state_text, state_word
from tests.tui.conftest import opened, screen_text, told, until
from tests.tui.engine.test_hotfolder import judged_folder


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
        await until(pilot, lambda: "has no finished run" in told(pilot))


async def test_space_adds_a_hot_folder_where_there_is_none(demo: Path) -> None:
    file = demo / "project.toml"
    without = file.read_text().partition("[hotfolder]")[0]
    file.write_text(f"{without}# mine\n")
    async with opened(demo, "4") as pilot:
        await until(pilot, lambda: "space asks for it" in screen_text(pilot))
        await pilot.press("space")
        await until(pilot, lambda: "Which folder" in screen_text(pilot))
        await pilot.press("2", "enter")  # after what stands there: incoming
        await until(pilot, lambda: "incoming2/ with the best model" in screen_text(pilot))
    assert load_project(demo).hotfolder.watch == "incoming2"
    assert (demo / "incoming2").is_dir()
    assert "# mine" in file.read_text()


def test_a_verdict_has_a_glyph_and_a_word_in_the_counts() -> None:
    hot = HotState(configured=True, done=9, verdicts={"pass": 6, "review": 2, "fail": 1})
    assert "✓ PASS 6 ◐ REVIEW 2 ✗ FAIL 1" in state_text(hot, None, 80)
    assert "PASS" not in state_text(HotState(configured=True, done=9), None, 80)


async def test_what_did_not_pass_is_found_accepted_and_rejected_with_a_reason(demo: Path) -> None:
    judged_folder(demo, {"a.tif": "fail", "b.tif": "pass", "c.tif": "review"})
    async with opened(demo, "4", size=(140, 40)) as pilot:
        await until(pilot, lambda: "✓ PASS 1 ◐ REVIEW 1 ✗ FAIL 1" in screen_text(pilot))
        assert "✗ a.tif" in screen_text(pilot)
        await pilot.press("n", "a")  # of c, b, a: the newest first; b passed
        await until(pilot, lambda: "✓ PASS 2 ◐ REVIEW 1 ✗ FAIL 0" in screen_text(pilot))
        await pilot.press("n", "r")
        await until(pilot, lambda: "Why is the mask of c.tif bad?" in screen_text(pilot))
        await pilot.press(*"drift", "enter")
        await until(pilot, lambda: "✗ c.tif" in screen_text(pilot))
        await until(pilot, lambda: "rejected drift" in screen_text(pilot))
        await pilot.press("n")
        await until(pilot, lambda: "waits for review" in told(pilot))


async def test_while_the_newest_image_is_followed_no_word_can_hit_the_next_one(demo: Path) -> None:
    judged_folder(demo, {"a.tif": "fail"})
    async with opened(demo, "4", size=(140, 40)) as pilot:
        await until(pilot, lambda: "✗ a.tif" in screen_text(pilot))
        pane = pilot.app.screen.query_one(HotFolderPane)
        pane.hot = structs.replace(pane.hot, state="watching")
        await pilot.press("a")
        await until(pilot, lambda: "would take its place" in told(pilot))


async def test_i_opens_the_whole_reason_of_a_verdict(demo: Path) -> None:
    judged_folder(demo, {"a.tif": "fail", "b.tif": "pass"})
    async with opened(demo, "4", size=(80, 24)) as pilot:
        await until(pilot, lambda: "✗ a.tif" in screen_text(pilot))
        await pilot.press("n", "i")
        await until(pilot, lambda: "masked: a.tif" in screen_text(pilot))
        assert "FAIL  confidence 0.1 is below 0.6" in screen_text(pilot), screen_text(pilot)
