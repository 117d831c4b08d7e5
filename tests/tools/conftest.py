"""What tests of the tools share: the learn room's model file and its command line."""

from tests.learn.conftest import engine_here, model_file

__all__ = ["engine_here", "model_file"]
