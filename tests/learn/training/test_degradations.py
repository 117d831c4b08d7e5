"""Damage to micrographs: what it does to pixels, and what it leaves as it was."""

import numpy as np
import pytest

from emcfsys_engine.learn.training.degradations import DEGRADATIONS, Degradation, info_bar, rounds
from emcfsys_engine.project import UNLABELLED


def pair() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.random((50, 70)).astype(np.float32), rng.integers(0, 3, (50, 70)).astype(np.uint8)


@pytest.mark.parametrize("one", DEGRADATIONS, ids=lambda one: one.kind)
def test_damage_is_the_same_for_a_seed_and_leaves_its_input_alone(one: Degradation) -> None:
    for strength in one.strengths:
        image, labels = pair()
        made, values = one.apply(image, labels, strength, np.random.default_rng(3))
        again, _ = one.apply(image, labels, strength, np.random.default_rng(3))
        assert np.array_equal(made, again)
        assert made.dtype == np.float32
        assert made.shape == values.shape
        assert np.isfinite(made).all()
        assert np.array_equal(image, pair()[0])
        assert np.array_equal(labels, pair()[1])


def test_what_an_info_bar_hides_has_no_label() -> None:
    _, values = info_bar(*pair(), 0.2, np.random.default_rng(0))
    assert (values[:10] == UNLABELLED).all()
    assert (values[10:] != UNLABELLED).all()


def test_any_beginning_of_the_trials_has_all_kinds() -> None:
    kinds = [one.kind for one, _ in rounds()]
    assert sorted(kinds[: len(DEGRADATIONS)]) == sorted(one.kind for one in DEGRADATIONS)
