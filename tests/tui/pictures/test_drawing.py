"""Rims of classes: inside them, and none at the edge of a picture."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from emcfsys_tui.pictures.drawing import calmed, rim_of


def test_a_rim_is_inside_its_class() -> None:
    ids = np.zeros((9, 9), np.uint8)
    ids[2:7, 2:7] = 3
    rim = rim_of(ids) > 0
    assert rim[2, 2]
    assert not rim[4, 4]
    assert not rim[0, 0]


PICTURES = st.integers(1, 6).flatmap(
    lambda lines: arrays(np.uint8, (2 * lines, 9), elements=st.integers(0, 255))
)


@given(PICTURES)
def test_no_grey_goes_further_than_an_edge_is_high(grey: np.ndarray) -> None:
    made = calmed(grey)
    assert made.shape == grey.shape
    assert np.abs(made.astype(int) - grey).max() <= 64 + 6  # the tolerance, half a grey's step


@given(PICTURES, st.data())
def test_greys_below_outlines_stay_as_they_are(grey: np.ndarray, data: st.DataObject) -> None:
    colours = data.draw(arrays(np.uint8, grey.shape, elements=st.integers(0, 2)))
    assert (calmed(grey, colours)[colours > 0] == grey[colours > 0]).all()


def test_noise_becomes_stretches_and_an_edge_stays() -> None:
    noise = np.random.default_rng(0).normal(0, 10, (40, 44))
    clean = np.where(np.arange(44) < 22, 60, 190)
    grey = np.clip(clean + noise, 0, 255).astype(np.uint8)
    made = calmed(grey)
    num_steps, of = (np.count_nonzero(np.diff(one.astype(int), axis=1)) for one in (made, grey))
    assert num_steps < 0.6 * of
    assert abs(made[:, :22].mean() - 60) < 6
    assert abs(made[:, 22:].mean() - 190) < 6
    assert (made[:, :22] < 125).all()
    assert (made[:, 22:] > 125).all()


def test_a_picture_of_an_odd_height_keeps_its_last_line() -> None:
    grey = np.linspace(0, 255, 45).astype(np.uint8).reshape(5, 9)
    assert np.abs(calmed(grey)[-1].astype(int) - grey[-1]).max() <= 6
