"""Names of micrographs and of what is never data."""

from emcfsys_engine.suffixes import MICROGRAPH_SUFFIXES, OTHER_PICTURE_SUFFIXES, is_left_alone


def test_leftovers_of_systems_are_no_data() -> None:
    assert is_left_alone(".DS_Store")
    assert is_left_alone("Thumbs.db")
    assert not is_left_alone("a.tif")


def test_no_kind_is_both_read_and_left_out() -> None:
    assert not MICROGRAPH_SUFFIXES & OTHER_PICTURE_SUFFIXES
    assert all(one == one.lower() and one.startswith(".") for one in MICROGRAPH_SUFFIXES)
