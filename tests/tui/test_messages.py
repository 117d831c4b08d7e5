"""What one part of the interface says to another: the newest reading stands for all before it."""

from emcfsys_tui.messages import PointRead, Reading, TabWanted, TextFound, Told


def test_only_a_newer_reading_of_the_same_kind_replaces_one_that_waits() -> None:
    first = PointRead("one")
    assert PointRead("two").can_replace(first)

    class Other(Reading):
        """A reading of another kind."""

    assert not Other().can_replace(first)


def test_what_a_person_is_told_waits_for_nothing_newer() -> None:
    assert not Told("saved").can_replace(Told("failed", severity="error"))


def test_what_a_thread_found_stays_where_it_is_wanted_and_a_wish_goes_up() -> None:
    assert not TextFound.bubble
    assert TabWanted.bubble
