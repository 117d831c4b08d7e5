import pytest

from emcfsys_engine.run.lines import images_per_min


@pytest.mark.parametrize(
    ("ages_s", "begun_s_ago", "rate"),
    [
        ((), 1000, 0.0),
        ((5, 10, 20), 28, 3.0),  # three in the first half minute are three a minute, not six
        ((5, 10, 20), 120, 1.5),
        ((5, 299, 301, 900), 1000, 0.4),
        ((3600,), 7200, 0.0),
    ],
)
def test_images_a_minute_are_those_of_late(
    ages_s: tuple[float, ...], begun_s_ago: float, rate: float
) -> None:
    now = 1_700_000_000.0
    assert images_per_min([now - age for age in ages_s], now - begun_s_ago, now) == rate
