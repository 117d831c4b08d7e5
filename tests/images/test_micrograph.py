"""Units in every spelling."""

import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emcfsys_engine.images.micrograph import ImageRef, ImageRefs, nm_per


@pytest.mark.parametrize(
    ("unit", "nm"),
    [
        ("microns", 1e3), ("micrometers", 1e3), ("Micrometres", 1e3), ("nanometers", 1.0),
        ("angstroms", 0.1), ("Ångström", 0.1), ("Å", 0.1), ("µm", 1e3), ("millimeters", 1e6),
        ("m", 1e9), ("pixels", None), ("1/nm", None), ("s", None), ("ms", None), ("inches", None),
    ],
)  # fmt: skip
def test_units_are_read_in_every_spelling_and_none_is_guessed(unit: str, nm: float | None) -> None:
    assert nm_per(unit) == nm


_REFS = st.builds(
    lambda name, plane: ImageRef(path=Path("/in") / name, plane=plane),
    st.text("ab\udcff", min_size=1, max_size=3),
    st.none() | st.integers(0, 3),
)


@given(st.lists(_REFS, max_size=8))
def test_a_listing_is_the_images_that_it_was_given(given_refs: list[ImageRef]) -> None:
    refs = ImageRefs(given_refs)
    assert list(refs) == given_refs
    assert refs == given_refs
    assert refs[1:] == given_refs[1:]
    assert refs.chosen([len(given_refs) - 1] * bool(given_refs)) == given_refs[-1:]
    named = [(n, str(ref.path), ref.plane) for n, ref in enumerate(given_refs)]
    assert list(refs.files()) == named
    assert [refs.name_of(n) for n in range(len(refs))] == [name for _, name, _ in named]
    assert ImageRefs.of(refs) is refs


@given(st.lists(_REFS, max_size=8))
def test_sorting_is_by_name_and_leaves_planes_in_their_order(given_refs: list[ImageRef]) -> None:
    refs = ImageRefs(given_refs)
    refs.sort()
    assert list(refs) == sorted(given_refs, key=lambda ref: str(ref.path))


def test_an_image_takes_less_than_half_of_what_it_takes_in_a_list() -> None:
    def taken(gather: Callable[[Iterator[ImageRef]], Sequence[ImageRef]]) -> int:
        tracemalloc.start()
        try:
            refs = gather(ImageRef(path=Path(f"/in/{n:07d}.tif")) for n in range(20_000))
            assert {str(ref) for ref in refs[:2]} == {"/in/0000000.tif", "/in/0000001.tif"}
            return tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()

    assert taken(ImageRefs) < taken(list) / 2
