"""Outlines of a mask paint the mask again."""

import numpy as np
from hypothesis import given, settings

from emcfsys_engine.annotations.draw import shapes_of
from tests.annotations.formats.trips import NAMES, small_masks
from tests.annotations.painted import rasterise


@settings(max_examples=150, deadline=None)
@given(ids=small_masks())
def test_exact_outlines_paint_exactly_the_same_pixels(ids: np.ndarray) -> None:
    by_name = {name: value for value, name in NAMES.items()}
    shapes = shapes_of(ids, NAMES, background=0, tolerance_px=0)
    pairs = [(shape, by_name[shape.label]) for shape in shapes]
    assert np.array_equal(rasterise(pairs, ids.shape, background=0), ids)
