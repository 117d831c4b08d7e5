"""A part of a picture lies where it is, and counts each tile once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emcfsys_engine.learn.inference.picture import Part, Picture
from emcfsys_engine.learn.inference.tiles import Place
from emcfsys_engine.regions import Region, cuts, whole_of


def _read(first: int, last: int, left: int = 0, right: int = 90) -> np.ndarray:
    return np.arange(100 * 90).reshape(100, 90)[first:last, left:right]


def _picture(region: Region | None, *, scale: float = 1.0, is_one_of_many: bool = False) -> Picture:
    part = None
    if region is not None:
        part = Part(region=region, read=_read, of_HW=(100, 90), is_one_of_many=is_one_of_many)
    size = (100, 90) if region is None else region.size
    return Picture(read=_read, size_HW=size, info_bar_rows=8, scale=scale, part=part)


def test_a_part_knows_its_whole_and_where_the_info_bar_begins_in_it() -> None:
    whole, part = _picture(None), _picture(Region(40, 95, 10, 30))
    assert whole.whole_size == part.whole_size == (100, 90)
    assert whole.inner_part == whole_of((100, 90))
    assert part.inner_part == Region(40, 95, 10, 30)
    assert (whole.bar_from, part.bar_from) == (92, 52)
    assert part.inner_bar_from == 92
    np.testing.assert_array_equal(part.read_columns(3, 5, (10, 12)), [[280, 281], [370, 371]])


def test_of_an_image_that_is_enlarged_a_part_needs_what_lies_around_it() -> None:
    part = _picture(Region(40, 95, 10, 30), scale=2.0)
    assert part.inner_size == (200, 180)
    inner = part.inner_part
    assert inner.top <= 80
    assert inner.bottom >= 190
    assert (inner.left, inner.right) == pytest.approx((20, 60), abs=4)


@settings(max_examples=40)
@given(
    down=st.integers(20, 100), across=st.integers(20, 90), scale=st.sampled_from([1.0, 0.5, 1.7])
)
def test_each_tile_counts_in_one_part_only(down: int, across: int, scale: float) -> None:
    parts = [
        _picture(one, scale=scale, is_one_of_many=True) for one in cuts((100, 90), (down, across))
    ]
    whole = _picture(None, scale=scale)
    height, width = whole.inner_size
    for top in range(0, height, 13):
        for left in range(0, width, 13):
            place = Place(None, top, left, 16)
            shares = [part.above_bar(place) for part in parts]
            assert sum(shares) == pytest.approx(whole.above_bar(place))
