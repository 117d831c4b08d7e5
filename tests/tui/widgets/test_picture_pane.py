"""Previews of a run."""

from pathlib import Path

from emcfsys_tui.widgets.picture_pane import PreviewBox, PreviewTitle
from emcfsys_tui.widgets.picture_view import PictureView
from tests.tui.conftest import made_run, opened, screen_text, until
from tests.tui.widgets.runs_made import _ORANGE, _RED, preview


async def test_previews_are_stepped_through_and_the_newest_is_followed(demo: Path) -> None:
    run = made_run(demo, ended=False)
    preview(run, 20)
    preview(run, 40)
    async with opened(demo, "3", size=(100, 40)) as pilot:
        await until(pilot, lambda: "run-0001" in screen_text(pilot))
        await pilot.press("v")
        box = pilot.app.screen.query_one(PreviewBox)
        view = box.query_one(PictureView)
        await until(pilot, lambda: "step 40 · 2 of 2" in screen_text(pilot))
        await until(pilot, lambda: view.picture is not None and view.picture.grey)
        preview(run, 60)  # it grows while it is looked at
        await until(pilot, lambda: "step 60 · 3 of 3" in screen_text(pilot))
        await pilot.press("left_square_bracket", "left_square_bracket")
        await until(pilot, lambda: "step 20 · 1 of 3" in screen_text(pilot))
        preview(run, 80)  # who looks back is left alone
        await until(pilot, lambda: "step 20 · 1 of 4" in screen_text(pilot))
        await pilot.click(PreviewTitle, offset=(70, 0))
        await until(pilot, lambda: "step 40 · 2 of 4" in screen_text(pilot))
        await pilot.press("v")
        assert not box.display


async def test_panels_of_a_preview_are_told_apart(demo: Path) -> None:
    run = made_run(demo)
    preview(run, 20)
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
