"""Charts of reports and measurements: few ticks, any numbers."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emcfsys_engine.tools.measure.results import _histogram
from emcfsys_engine.tools.report.charts import Chart, Curve, figure_of, nice_ticks


@pytest.mark.parametrize(
    "values", [[5.0], [5.0] * 9, [1e-3, 1e9], list(range(1, 4000)), [5.0] * 9999 + [50.0]]
)
def test_any_histogram_is_drawn_and_its_names_are_escaped(values: list[float]) -> None:
    drawn = _histogram(np.array(values, float), "γ<b>\x1b[31m", "diameter", "nm")
    assert drawn.startswith("<figure>")
    assert "<b>" not in drawn
    assert "\x1b" not in drawn
    assert "nan" not in drawn


@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-3, 1e9))
def test_ticks_are_few_and_inside(low: float, span: float) -> None:
    ticks = nice_ticks(low, low + span)
    assert 1 <= len(ticks) <= 13
    assert all(low - 1e-6 * span <= tick <= low + span * (1 + 1e-6) for tick in ticks)


@pytest.mark.parametrize(("end", "words"), [(4.0, ["1", "2", "3", "4"]), (1.5, ["1", "1.1"])])
def test_between_whole_steps_no_tick_lies(end: float, words: list[str]) -> None:
    curve = Curve(name="a", points=((1.0, 0.5), (end, 0.6)), colour=0)
    drawn = figure_of(Chart(title="t", curves=(curve,)))
    below = re.findall(r'text-anchor="middle">([\d.]+)</text>', drawn)
    assert below[: len(words)] == words
