import pytest

from emcfsys_engine.run.lines import images_per_min


@pytest.mark.parametrize(
    ("ages_s", "rate"), [((), 0), ((0, 10, 59), 3), ((5, 60, 61, 900), 1), ((3600, -5), 0)]
)
def test_images_a_minute_are_those_of_the_last_minute(ages_s: tuple[float, ...], rate: int) -> None:
    now = 1_700_000_000.0
    assert images_per_min([now - age for age in ages_s], now) == rate
