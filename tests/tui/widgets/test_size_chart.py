"""Distributions of sizes as charts, and their title alone where there is nothing to draw."""

import pytest

from emcfsys_tui.view_models import SizeChart, SizeCurve
from emcfsys_tui.widgets.size_chart import SizeChartView
from tests.tui.conftest import opened


@pytest.mark.parametrize("has_points", [True, False])
async def test_a_chart_has_its_title_and_its_curves(has_points: bool) -> None:
    points = ((10.0, 0.0), (20.0, 50.0), (30.0, 100.0)) if has_points else ()
    curve = SizeCurve(name="number", points=points)
    chart = SizeChart(
        title="grain", note="share", x_words="diameter (nm)", is_cumulative=True, curves=(curve,)
    )
    async with opened(None, size=(80, 24)) as pilot:
        view = SizeChartView(chart)
        await pilot.app.screen.mount(view)
        await pilot.pause()
        lines = [view.render_line(y).text for y in range(view.size.height)]
    assert "grain" in lines[0]
    drawn = any("⠀" < character <= "⣿" for line in lines for character in line)
    assert drawn == has_points
