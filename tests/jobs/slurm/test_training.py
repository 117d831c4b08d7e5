"""The real worker on a real Slurm: the same weights as anywhere, on one node and on two."""

import contextlib
import os
import re
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file

from emcfsys_engine.jobs.control import ensure_daemon, stop_daemon
from emcfsys_engine.jobs.queue import Options, Queue, submit_run
from emcfsys_engine.launch.start import holder
from emcfsys_engine.learn.training.run import read_plan
from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import RunResumed, StepDone, ValidationDone
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.records import TrainRequest
from tests.jobs.conftest import wait_for
from tests.jobs.slurm.conftest import Slurm
from tests.learn.conftest import project_folder, run_here

pytestmark = pytest.mark.slurm
WAIT_S = 200.0
__all__ = ["project_folder"]


@pytest.fixture(autouse=True)
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slurm: Slurm) -> None:
    """A queue and settings of our own; quick looks at Slurm; the package that is tested."""
    place = tmp_path / "config" / "emcfsys"
    place.mkdir(parents=True)
    (place / "config.toml").write_text("[slurm]\npoll_s = 0.5\nlate_s = 10\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("EMCFSYS_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def _run(folder: Path, *overrides: str) -> Run:
    words = ["model.backbone=test_convnext", "compute.gpus=0", "compute.threads=1"]
    project = load_project(folder, [*words, *overrides])
    return new_run(folder / "runs", TrainRequest(), project=project, resume="auto")


def _submit(queue: Queue, run: Run) -> int:
    number = submit_run(queue, run, "tiny", run.record().project, Options())
    ensure_daemon(queue.folder)
    return number


def _steps(run: Run) -> list[int]:
    return [event.step for event in run.events() if isinstance(event, StepDone)]


def _end_of(queue: Queue, number: int) -> str:
    def ended() -> bool:
        return not queue.get(number).is_open

    job = queue.get(number)
    wait_for(ended, seconds=WAIT_S, what=f"the end of {job}")
    return queue.get(number).state


def test_warned_of_its_time_limit_a_training_is_requeued_and_ends_with_the_same_weights(
    project_folder: Path, slurm: Slurm
) -> None:
    settings = ("training.steps=40", "training.validate_every=20", "training.batch=2")
    cluster = ("compute.executor=slurm", 'compute.slurm.time="30"', "compute.slurm.warn_s=600")
    unbroken, warned = _run(project_folder, *settings), _run(project_folder, *settings, *cluster)
    assert run_here(unbroken) == 0
    with Queue.open() as queue:
        try:
            number = _submit(queue, warned)
            wait_for(lambda: _steps(warned), seconds=WAIT_S, what="the first step")
            held_by = holder(warned)
            assert held_by is not None
            os.kill(held_by.worker, signal.SIGSTOP)  # time passes while it stands still
            job = queue.get(number)
            slurm.ask("scontrol", "update", f"JobId={job.slurm_id}", "TimeLimit=10")
            wait_for(lambda: _is_warned(held_by.worker), seconds=WAIT_S, what="Slurm's warning")
            slurm.ask("scontrol", "update", f"JobId={job.slurm_id}", "TimeLimit=60")
            with contextlib.suppress(ProcessLookupError):
                os.kill(held_by.worker, signal.SIGCONT)
            assert _end_of(queue, number) == "done", queue.get(number)
            assert queue.get(number).starts == 2
            assert "requeued, to go on from step" in warned.log_file.read_text()
        finally:
            stop_daemon(queue.folder)
    assert any(isinstance(event, RunResumed) for event in warned.events())
    weights, wanted = load_file(warned.final_model), load_file(unbroken.final_model)
    assert weights.keys() == wanted.keys()
    assert all(torch.equal(weights[name], wanted[name]) for name in wanted)


def _is_warned(pid: int) -> bool:
    """Tell whether a process that stands still was warned by Slurm, or even woken by that."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True
    pending = re.findall(r"^(?:SigPnd|ShdPnd):\s*(\w+)$", text, re.MULTILINE)
    return any(int(word, 16) >> (signal.SIGUSR2 - 1) & 1 for word in pending)


def test_two_nodes_with_two_processes_each_train_as_one_process(
    project_folder: Path, slurm: Slurm
) -> None:
    settings = ["training.batch=4", "training.validate_every=2"]
    planned = _run(project_folder, "training.steps=1", *settings)
    assert run_here(planned) == 0
    settings.append("training.steps=2")
    alone = _run(project_folder, *settings)
    together = _run(
        project_folder,
        *(*settings, "compute.executor=slurm", "compute.nodes=2", "compute.processes=2"),
    )
    for run, processes in ((alone, 1), (together, 4)):
        plan = read_plan(planned)
        network = msgspec.structs.replace(plan.network, norm="group", drop_path=0.0)
        plan = msgspec.structs.replace(
            plan, network=network, precision="float32", processes=processes
        )
        run.plan_file.write_bytes(msgspec.json.encode(plan))
    assert run_here(alone) == 0
    with Queue.open() as queue:
        try:
            number = _submit(queue, together)
            assert _end_of(queue, number) == "done", together.log_file.read_text()
            job = queue.get(number)
        finally:
            stop_daemon(queue.folder)
    assert slurm.ask("squeue", "-h", "-t", "all", "-j", job.slurm_id, "-o", "%D %N") == "2 n[1-2]"
    ours, theirs = (_told(run, StepDone) for run in (together, alone))
    assert ours[0].loss == pytest.approx(theirs[0].loss, rel=1e-6)
    our, their = (_told(run, ValidationDone)[-1] for run in (together, alone))
    assert (our.step, their.step) == (2, 2)
    assert our.train_loss == pytest.approx(their.train_loss, rel=1e-4)
    assert our.val_loss == pytest.approx(their.val_loss, rel=1e-4)
    weights, wanted = (_all_weights(run) for run in (together, alone))
    # Adam divides by the gradient's size: where that is nothing but rounding, so is the step.
    assert float((weights - wanted).norm() / wanted.norm()) <= 5e-4
    record = together.exit_record()
    assert record is not None
    assert record.exit_code == 0


def _told(run: Run, kind: type[Any]) -> list[Any]:
    return [event for event in run.events() if isinstance(event, kind)]


def _all_weights(run: Run) -> torch.Tensor:
    """Return all weights of a run's final model as one vector."""
    loaded = load_file(run.final_model)
    return torch.cat([loaded[name].double().flatten() for name in sorted(loaded)])
