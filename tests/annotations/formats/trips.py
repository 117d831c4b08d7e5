"""Small masks by chance, and shapes read back."""

from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from emcfsys_engine.annotations.files import read_annotations
from tests.annotations.painted import rasterise


@st.composite
def small_masks(draw: st.DrawFn) -> np.ndarray:
    height, width = draw(st.integers(1, 14)), draw(st.integers(1, 14))
    seed = draw(st.integers(0, 2**32 - 1))
    share = draw(st.floats(0.05, 0.95))
    rng = np.random.default_rng(seed)
    return np.where(
        rng.random((height, width)) < share, rng.integers(0, 3, (height, width)), 0
    ).astype(np.uint8)


NAMES = {0: "matrix", 1: "large", 2: "small", 3: "mito", 4: "synapse"}


def read_back(file: Path, shape: tuple[int, int]) -> np.ndarray:
    ids = {name: value for value, name in NAMES.items()}
    annotation = read_annotations(file)[0]
    pairs = [(drawn, ids[drawn.label]) for drawn in annotation.shapes_in(shape)]
    return rasterise(pairs, shape, background=0)
