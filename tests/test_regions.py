"""Regions: as people write them, and cut so that no two touch one chunk."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emcfsys_engine.errors import InputError
from emcfsys_engine.regions import (
    Region,
    chunk_px,
    cut_of,
    cuts,
    ending_of,
    region_in,
    written,
)

LENGTHS = st.one_of(st.integers(1, 3000), st.integers(1, 120_000))


@given(height=LENGTHS, width=LENGTHS, most_px=st.integers(1, 64).map(lambda n: 256 * n))
def test_regions_cover_an_image_once_and_no_two_have_a_chunk_in_common(
    height: int, width: int, most_px: int
) -> None:
    down, across = cut_HW = cut_of((height, width), most_px)
    every = list(cuts((height, width), cut_HW)) if height * width // (down * across) < 5000 else []
    if height * width <= most_px**2:
        assert every == [Region(0, height, 0, width)]
        return
    chunk = chunk_px(most_px)
    assert max(cut_HW) <= most_px
    assert down % chunk == across % chunk == 0
    assert sum(one.pixels for one in every) == (height * width if every else 0)
    # Each has a block of chunks of its own, which is one file.
    assert len({(one.top // down, one.left // across) for one in every}) == len(every)
    for one in every:
        assert one.top % down == one.left % across == 0
        assert one.bottom in (one.top + down, height)
        assert one.right in (one.left + across, width)


def test_regions_of_an_image_are_about_as_large_as_one_another() -> None:
    assert cut_of((9000, 9000), 8192) == (5120, 5120)
    assert cut_of((100_000, 100_000), 8192) == (8192, 8192)
    assert cut_of((8192, 8192), 8192) == (8192, 8192)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("0:10,5:20", Region(0, 10, 5, 20)),
        (" 2 : , : 7 ", Region(2, 30, 0, 7)),
        (":,:", Region(0, 30, 0, 40)),
        (":30,:40", Region(0, 30, 0, 40)),
    ],
)
def test_a_region_is_rows_then_columns_and_an_end_left_out_is_the_images(
    text: str, found: Region
) -> None:
    assert region_in(written(text), (30, 40), "x.tif") == found
    assert str(found) == f"{found.top}:{found.bottom},{found.left}:{found.right}"


@pytest.mark.parametrize(
    "text", ["", "5", "0:10", "0:10,", "10:5,0:9", "3:3,0:9", "0:9,:0", "-1:4,0:9", "a:b,c:d"]
)
def test_what_is_no_region_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InputError, match="--region.*Use ROW:ROW,COLUMN:COLUMN"):
        written(text)


@pytest.mark.parametrize("text", ["0:31,0:9", "0:9,0:41", "30:,:", ":,40:"])
def test_a_region_that_leaves_the_image_is_told_with_the_images_size(text: str) -> None:
    with pytest.raises(InputError, match="x.tif: has 30 rows and 40 columns: region .* leaves it"):
        region_in(text, (30, 40), "x.tif")


def test_the_names_of_files_say_the_region() -> None:
    assert ending_of("") == ""
    assert ending_of("0:10,5:") == ".r0-10.c5-"
