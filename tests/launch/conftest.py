"""A run folder for a worker that is a shell's words."""

from pathlib import Path

import pytest

from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.records import TrainRequest


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return new_run(tmp_path / "runs", TrainRequest())
