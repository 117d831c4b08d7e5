"""A run keeps its letter and colour."""

from emcfsys_tui.widgets.run_rows import own_places


def test_a_run_keeps_its_letter_and_colour_whatever_is_drawn_beside_it() -> None:
    alone = own_places(["run-0003", "run-0004"], 6)
    more = own_places(["run-0001", "run-0003", "run-0004", "run-0012"], 6)
    assert alone == {"run-0003": 2, "run-0004": 3}
    assert alone.items() <= more.items()
    assert len(set(own_places([f"run-{n * 6:04d}" for n in range(1, 7)], 6).values())) == 6
