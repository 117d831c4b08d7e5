"""The predictor under the name that other people's scripts import; it lives in inference."""

from emcfsys_engine.learn.inference.predictor import Predictor

__all__ = ["Predictor"]
