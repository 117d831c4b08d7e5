"""What is left of a job is judged by what is done, and only when there is enough of that."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emcfsys_engine.learn.inference.compiled import Pace


class _Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@given(
    each_s=st.floats(0.5, 500),
    num_images=st.integers(1, 5000),
    done=st.integers(0, 5000),
    share=st.floats(0, 1),
)
def test_at_an_even_pace_the_rest_takes_its_share(
    each_s: float, num_images: int, done: int, share: float
) -> None:
    clock = _Clock()
    pace = Pace(num_images, clock)
    for _ in range(min(done, num_images)):
        pace.image_done()
    parts = min(done, num_images) + (share if done < num_images else 0.0)
    clock.now += parts * each_s
    left_s = pace.left_s(parts - min(done, num_images))
    if parts * each_s < 10 - 1e-6:
        assert left_s == 0  # too early to tell
    elif parts * each_s > 10 + 1e-6:
        assert left_s == pytest.approx((num_images - parts) * each_s, rel=1e-6, abs=1e-6)


def test_nothing_is_left_of_a_job_that_did_more_than_it_was_told() -> None:
    clock = _Clock()
    pace = Pace(1, clock)
    pace.image_done()
    pace.image_done()
    clock.now += 60
    assert pace.left_s() == 0
