"""What has gone from the screen is drawn over, whoever asks in between where things are."""

from pathlib import Path

from emcfsys_tui.screens.page import KeyLine
from tests.tui.conftest import opened


async def test_what_went_is_drawn_over_though_the_map_was_read_before_the_layout(
    demo: Path,
) -> None:
    async with opened(demo, "1") as pilot:
        screen = pilot.app.screen
        gone = screen.query_one(KeyLine)
        place, compositor = gone.region, screen._compositor
        assert place
        compositor._dirty_regions.clear()
        compositor._full_map_invalidated = True  # as a repaint in a tab that is not shown does
        gone.display = False
        assert gone not in compositor.full_map
        assert place in compositor._dirty_regions
