"""Histograms are drawn of any numbers, with few ticks."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from emcfsys_engine.tools.measure.histogram import Quantity, histogram_png, nice_ticks


def test_any_histogram_is_drawn() -> None:
    for values in ([5.0], [5.0] * 9, [1e-3, 1e9], list(range(1, 4000)), [5.0] * 9999 + [50.0]):
        png = histogram_png(np.array(values), "γ\x1b[31m", Quantity(words="x", unit="nm"))
        assert png.startswith(b"\x89PNG")


@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-3, 1e9))
def test_ticks_are_few_and_inside(low: float, span: float) -> None:
    ticks = nice_ticks(low, low + span)
    assert 1 <= len(ticks) <= 13
    assert all(low - 1e-6 * span <= tick <= low + span * (1 + 1e-6) for tick in ticks)
