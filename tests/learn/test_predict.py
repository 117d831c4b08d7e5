"""The import path that other people's scripts have stays."""

from emcfsys_engine.learn.inference import predictor
from emcfsys_engine.learn.predict import Predictor


def test_the_predictor_is_found_under_its_old_name() -> None:
    assert Predictor is predictor.Predictor
