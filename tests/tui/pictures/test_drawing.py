"""Rims of classes: inside them, and none at the edge of a picture."""

import numpy as np

from emcfsys_tui.pictures.drawing import rim_of


def test_a_rim_is_inside_its_class() -> None:
    ids = np.zeros((9, 9), np.uint8)
    ids[2:7, 2:7] = 3
    rim = rim_of(ids) > 0
    assert rim[2, 2]
    assert not rim[4, 4]
    assert not rim[0, 0]
