"""A training that was asked for, and its command."""

import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from emcfsys_engine.colours import colours_for
from emcfsys_engine.dataset.deals import Fingerprint
from emcfsys_engine.dataset.follow import gather_some
from emcfsys_engine.images.normalise import Normaliser
from emcfsys_engine.learn.device import choose_device
from emcfsys_engine.learn.networks.network import build_network
from emcfsys_engine.learn.run_disk import RunDisk
from emcfsys_engine.learn.training.dataset import Dataset, load_item
from emcfsys_engine.learn.training.plan import Plan, make_plan
from emcfsys_engine.learn.training.setup import TrainingSetup
from emcfsys_engine.model_card import ModelCard
from emcfsys_engine.project import Project, load_project
from emcfsys_engine.run.events import Event
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


def made_setup(folder: Path, *overrides: str) -> tuple[TrainingSetup, list[Event]]:
    """Return what a training works with, as its worker makes it, and what it says."""
    project = load_project(folder, overrides)
    samples = gather_some(project).samples
    train, val = (
        Dataset([one for one in samples if one.split == side], project, Normaliser())
        for side in ("train", "val")
    )
    prints: dict[str, Fingerprint] = {}
    for one in samples:
        load_item(one, project, Normaliser(), prints)
    plan = make_plan(project, train, val, choose_device(None), 1)
    plan = msgspec.structs.replace(plan, fingerprints=prints)
    told: list[Event] = []
    return setup_of(project, plan, train, val, told.append), told


def setup_of(
    project: Project, plan: Plan, train: Dataset, val: Dataset, emit: Callable[[Event], None]
) -> TrainingSetup:
    """Return what a training by a plan works with, in a new run."""
    card = ModelCard(
        network=plan.network,
        classes=project.class_names,
        class_values=project.class_values,
        colours=colours_for(len(project.classes)),
        patch_px=plan.patch_px,
    )
    run = new_run(project.runs_folder, TrainRequest(), project=project)
    return TrainingSetup(
        run=run,
        disk=RunDisk(run),
        project=project,
        plan=plan,
        card=card,
        network=build_network(plan.network),
        train=train,
        val=val,
        emit=emit,
        stop_request=lambda: None,
    )
