"""Pixels by chance, the same in every test."""

import numpy as np

RNG = np.random.default_rng(0)
