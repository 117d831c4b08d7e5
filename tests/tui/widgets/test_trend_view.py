"""The control chart in the Hot folder tab: a number, a group, what changed and when."""

from pathlib import Path

from textual.geometry import Size

from emcfsys_tui.view_models import HotTrend
from emcfsys_tui.widgets.trend_view import TrendView, frame_of, told_lines
from tests.hotfolder.test_recipe import project_in
from tests.hotfolder.test_series import SHARP, session
from tests.tui.conftest import opened, screen_text, until


async def test_the_trends_of_numbers_and_groups_are_drawn_and_say_what_changed(
    demo: Path, tmp_path: Path
) -> None:
    output = session(project_in(tmp_path, SHARP))
    output.rename(demo / "predictions")
    async with opened(demo, "4", size=(150, 44)) as pilot:
        await until(pilot, lambda: "PASS 60" in screen_text(pilot))
        await pilot.press("v")
        await until(pilot, lambda: "sharpness fell from 0.296" in screen_text(pilot))
        assert "EWMA" in screen_text(pilot)
        await pilot.press("v")
        await until(pilot, lambda: "─ confidence" in screen_text(pilot))
        await pilot.press("s")
        await until(pilot, lambda: "─ confidence of group g0  50 images" in screen_text(pilot))
        assert "no recipe" not in screen_text(pilot)  # all are of none: nothing to choose
        await pilot.press("V")
        await until(pilot, lambda: not pilot.app.screen.query_one(TrendView).display)


async def test_a_change_of_the_recipe_is_told_and_each_recipe_can_be_looked_at(
    demo: Path, tmp_path: Path
) -> None:
    output = session(project_in(tmp_path), recipes={60: "b" * 16})
    output.rename(demo / "predictions")
    async with opened(demo, "4", size=(150, 44)) as pilot:
        await until(pilot, lambda: "masked 100" in screen_text(pilot))
        await pilot.press("v")
        await until(pilot, lambda: "recipe bbbbbbbb instead of no recipe" in screen_text(pilot))
        assert "sharpness fell" in screen_text(pilot)  # no recipe makes an image sharp
        await pilot.press("v")
        await until(pilot, lambda: "─ confidence  100 images" in screen_text(pilot))
        await pilot.press("v")
        await until(pilot, lambda: "─ b_fraction  100 images" in screen_text(pilot))
        assert "b_fraction fell" not in screen_text(pilot)
        assert "newest centre 0.0" in screen_text(pilot)
        await pilot.press("s")
        await until(pilot, lambda: "─ b_fraction of no recipe  60 images" in screen_text(pilot))
        await pilot.press("s")
        await until(pilot, lambda: "b_fraction of recipe bbbbbbbb  40 im" in screen_text(pilot))


def line(y: float, *xs: float) -> tuple[tuple[float, float], ...]:
    return tuple((x, y) for x in xs)


def test_changes_are_told_whole_the_newest_first_to_stay_where_there_is_little_room() -> None:
    told = [f"sharpness fell at 2026-11-27 0{n}:00:00, from g/000{n}.tif on" for n in range(4)]
    lines = told_lines(told, Size(40, 9))
    assert len(lines) == 4  # two changes of two lines each
    assert max(map(len, lines)) <= 40
    assert " ".join(" ".join(lines).split()) == f"! {told[2]} ! {told[3]}"
    assert len(told_lines(told, Size(40, 2))) == 2
    assert len(told_lines(told, Size(120, 40))) == 4


def test_limits_far_away_do_not_press_the_values_flat() -> None:
    trend = HotTrend(
        name="n",
        times=(0.0, 1.0, 2.0),
        values=(1.0, 2.0, 1.5),
        ewma=(1, 1, 1),
        levels=(line(-500, 0, 2), line(1.5, 0, 2), line(500, 0, 2)),
    )
    frame = frame_of(trend, 40, 10)
    assert (frame.low, frame.high) > (-1, 2)
    assert frame.high < 4
    level = line(3, 5, 5)
    still = HotTrend(
        name="n", times=(5.0, 5.0), values=(3.0, 3.0), ewma=(3, 3), levels=(level, level, level)
    )
    assert frame_of(still, 40, 10).right > frame_of(still, 40, 10).left
