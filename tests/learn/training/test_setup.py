"""Steps, minutes, or until somebody stops it: when a training is over and when it validates."""

import time
from types import SimpleNamespace
from typing import Any

import pytest

from emcfsys_engine.learn.training.checkpoint import TrainState
from emcfsys_engine.learn.training.setup import LEAST_TRUST_S, Budget


def budget(**given: Any) -> Budget:
    """Return a budget of what a plan says of steps and minutes."""
    plan = {"total_steps": None, "minutes": None, "validate_every": None, "follow": False}
    plan |= {"val_images": ()}
    return Budget(SimpleNamespace(**{**plan, **given}))  # type: ignore[arg-type]


def at(step: int, validation_s: float = 0.0) -> TrainState:
    return TrainState(step=step, validation_s=validation_s)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that a clock shows; the test moves it."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_steps_are_counted_to_the_last_one() -> None:
    found = budget(total_steps=100, validate_every=20)
    assert not found.is_over(at(99), 1.0)
    assert found.is_over(at(100), 1.0)
    assert [step for step in range(1, 61) if found.is_validation_due(at(step), 0)] == [20, 40, 60]
    assert found.progress(25, at(25)) == 0.25
    assert found.seconds_left(at(80, validation_s=3), 0.5) == 20 * 0.5 + 1 * 3


def test_minutes_leave_time_for_the_last_validation(clock: list[float]) -> None:
    found = budget(minutes=1.0)
    found.begin(elapsed_s=20.0)  # of an earlier start
    clock[0] += 28.9
    assert not found.is_over(at(9, validation_s=10), 0.0)  # 60 - 1.1 * 10 = 49
    clock[0] += 0.2
    assert found.is_over(at(9, validation_s=10), 0.0)
    assert found.seconds_left(at(9), 1.0) == pytest.approx(60 - 49.1)


def test_minutes_leave_time_to_learn_when_the_model_fails(clock: list[float]) -> None:
    found = budget(minutes=1.0, val_images=("a", "b"))
    assert found.trust_seconds() == 6.0  # a tenth of the minute
    clock[0] += 53.9
    assert not found.is_over(at(1), 0.0)
    clock[0] += 0.2
    assert found.is_over(at(1), 0.0)
    clock[0] += 1.9  # the last validation took a little of it
    assert found.trust_seconds() == pytest.approx(4.0)
    clock[0] += 60  # … or all of it
    assert found.trust_seconds() == LEAST_TRUST_S


def test_a_step_that_would_not_fit_is_not_begun(clock: list[float]) -> None:
    found = budget(minutes=1.0)
    clock[0] += 58
    assert not found.is_over(at(1), 1.9)
    assert found.is_over(at(1), 2.1)


def test_an_open_run_ends_by_a_person_with_a_falling_rate() -> None:
    found = budget()
    assert found.is_open
    assert found.seconds_left(at(5), 1.0) is None
    assert found.progress(500, at(500)) == 0.0
    found.end_soon(500)
    found.end_soon(520)  # asked again: goes on as it was
    assert not found.is_over(at(599), 0)
    assert found.is_over(at(600), 0)
    assert [found.progress(step, at(step)) for step in (500, 550, 600)] == pytest.approx(
        [0.8, 0.9, 1.0]
    )
