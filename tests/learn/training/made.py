"""A training that was asked for, and its command."""

import sys
from pathlib import Path

from emcfsys_engine.project import load_project
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.records import TrainRequest

CLI = [sys.executable, "-m", "emcfsys_engine"]


def new_training(folder: Path, steps: int) -> Run:
    overrides = [f"training.steps={steps}", "training.validate_every=3", "training.patience=0"]
    project = load_project(folder, overrides)
    return new_run(folder / "runs", TrainRequest(), project=project)
