import pytest

from emcfsys_engine.run.events import RegionDone
from emcfsys_engine.run.lines import images_per_min, line_of


@pytest.mark.parametrize(
    ("ages_s", "rate"), [((), 0), ((0, 10, 59), 3), ((5, 60, 61, 900), 1), ((3600, -5), 0)]
)
def test_images_a_minute_are_those_of_the_last_minute(ages_s: tuple[float, ...], rate: int) -> None:
    now = 1_700_000_000.0
    assert images_per_min([now - age for age in ages_s], now) == rate


def test_of_a_region_its_words_come_before_a_long_path() -> None:
    region = RegionDone(image="/data/" + "x" * 90, region=(0, 256, 256, 512), of=4, seconds=1.0)
    assert line_of(region).startswith("region 0:256,256:512 of 4 done: /data/x")
