"""A chart: as wide as its room, drawn once, never silent about what it waits for."""

from msgspec.structs import replace

from emcfsys_tui.series import Series
from emcfsys_tui.widgets.chart import Chart, Curve
from tests.tui.widgets_made import Stage, text_of


def _curve(values: list[float], glyph: str = "●") -> Curve:
    series = Series()
    series.extend(range(1, len(values) + 1), values)
    return Curve(name="loss", glyph=glyph, view=series.view(), colour=4)


async def test_a_chart_is_drawn_once_and_its_cursor_over_it() -> None:
    chart = Chart("loss")
    async with Stage(chart).run_test(size=(60, 16)) as pilot:
        chart.curves = (_curve([1 / n for n in range(1, 200)]),)
        await pilot.pause()
        drawn = chart.num_drawn
        chart.cursor_x = 50.0
        await pilot.pause()
        assert "@50" in chart.render_line(0).text
        assert ".020" in chart.render_line(0).text  # 1/50, exactly
        assert chart.num_drawn == drawn == 1


async def test_a_chart_without_points_says_what_it_waits_for() -> None:
    chart = Chart("loss")
    async with Stage(chart).run_test(size=(60, 16)):
        assert "Waiting for the first step" in text_of(chart)


async def test_every_line_of_a_chart_is_as_wide_as_the_chart() -> None:
    chart = Chart("loss", log_y=True)
    async with Stage(chart).run_test(size=(41, 13)) as pilot:
        chart.curves = (_curve([0.0, 1e-9, 5.0, 1e6, 2.0]), _curve([3.0], "x"))
        await pilot.pause()
        widths = {chart.render_line(y).cell_length for y in range(chart.size.height)}
        assert widths == {41}
        assert "x" in text_of(chart)  # a curve of one point is seen, by its glyph


async def test_a_smoothed_curve_lies_over_a_pale_band_of_what_it_smooths() -> None:
    chart = Chart("loss")
    async with Stage(chart).run_test(size=(60, 16)) as pilot:
        curve = _curve([float(n % 7) for n in range(1, 400)])
        chart.curves = (replace(curve, colour=(255, 0, 0)),)
        await pilot.pause()

        def inks() -> set[tuple[int, int, int]]:
            styles = [s.style for y in range(1, 14) for s in chart.render_line(y) if s.text.strip()]
            return {tuple(one.color.get_truecolor()) for one in styles if one and one.color}

        assert (255, 0, 0) in inks()
        plain = len(inks())
        chart.smoothing = 2
        await pilot.pause()
        assert (255, 0, 0) in inks() and len(inks()) == plain + 1


async def test_a_legend_is_never_cut_where_there_is_room() -> None:
    chart = Chart("IoU")
    async with Stage(chart).run_test(size=(70, 16)) as pilot:
        names = ("mean", "membrane", "mitochondrion")
        chart.curves = tuple(replace(_curve([0.1, 0.2]), name=name) for name in names)
        await pilot.pause()
        assert all(f"● {name}" in chart.render_line(0).text for name in names)
