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


def back_before_checkpoints(run: Run) -> None:
    """Leave of a run what a reboot before its first checkpoint leaves."""
    run.checkpoint_file.unlink(missing_ok=True)
    lines = (
        run.events_file.read_bytes().splitlines(keepends=True) if run.events_file.exists() else []
    )
    saved = (n for n, line in enumerate(lines) if b'"checkpoint_saved"' in line)
    if (first := next(saved, None)) is not None:
        run.events_file.write_bytes(b"".join(lines[:first]))
