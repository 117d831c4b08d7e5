"""The folds of a cross-validation are a group of jobs on Slurm, with a stand-in for the worker."""

import json
from pathlib import Path

import pytest

from emcfsys_engine.errors import QueueError
from emcfsys_engine.jobs.queue import Options, submit_training
from emcfsys_engine.project import Project, load_project
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.groups import runs_at
from tests.jobs.slurm.conftest import Slurm, SlurmBench

pytestmark = pytest.mark.slurm


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project of three folds for Slurm; what it trains on is the stand-in's secret."""
    folder = tmp_path / "folds"
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    (folder / "project.toml").write_text(
        '[project]\nname = "folds"\n[classes]\na = 0\nb = 1\n'
        '[[data]]\nimages = "images"\nmasks = "masks"\n[training]\nkfold = 3\n'
        '[compute]\nexecutor = "slurm"\ngpus = 0\nthreads = 1\n'
    )
    return load_project(folder)


def _submitted(bench: SlurmBench, project: Project) -> tuple[list[int], list[Run]]:
    """Queue the folds, each held until its file `hold` is gone; no daemon runs yet."""
    numbers, runs = submit_training(bench.queue, project)
    for run in runs:
        (run.folder / "hold").touch()
    return numbers, runs


def test_folds_train_side_by_side_and_are_one_group(
    bench: SlurmBench, slurm: Slurm, project: Project
) -> None:
    numbers, runs = _submitted(bench, project)
    bench.start()
    for number, run in zip(numbers, runs, strict=True):
        bench.await_start(run)
        bench.await_state(number, "running")
    in_slurm = slurm.ask("squeue", "-h", "-t", "running", "-o", "%j").splitlines()
    assert sorted(in_slurm) == sorted(bench.queue.get(number).slurm_name for number in numbers)
    assert {job.group for job in bench.queue.list()} == {"kfold-0001"}
    for run in runs:
        (run.folder / "hold").unlink()
    for number in numbers:
        assert bench.await_state(number, "done", "failed", "lost").state == "done"
    found = runs_at(project.runs_folder / "kfold-0001")
    assert [run.record().fold for run in found] == [1, 2, 3]
    assert [run.outcome() for run in found] == [("done", "steps")] * 3
    assert [bench.starts(run) for run in found] == [1, 1, 1]
    assert len(slurm.calls("sbatch")) == 3


def test_a_fold_that_fails_leaves_the_others_alone_and_is_tried_again_by_itself(
    bench: SlurmBench, project: Project
) -> None:
    numbers, runs = _submitted(bench, project)
    fails = {"does": "fail", "reason": "no images", "exit_code": 2}
    (runs[1].folder / "behaviour.json").write_text(json.dumps(fails))
    bench.start()
    for run in runs:
        (run.folder / "hold").unlink()
    states = [bench.await_state(number, "done", "failed", "lost").state for number in numbers]
    assert states == ["done", "failed", "done"]
    (runs[1].folder / "behaviour.json").unlink()
    bench.queue.retry(numbers[1])
    assert bench.await_state(numbers[1], "done", "lost").state == "done"
    assert [bench.starts(run) for run in runs] == [1, 2, 1]


def test_a_limit_of_the_group_holds_on_slurm_too(
    bench: SlurmBench, slurm: Slurm, project: Project
) -> None:
    bench.configure(slurm="[groups]\nkfold-0001 = 1")
    numbers, runs = _submitted(bench, project)
    bench.start()
    for place, run in enumerate(runs):
        bench.await_start(run)
        for number in numbers[place + 1 :]:
            bench.await_reason(number, "others of group kfold-0001")
        assert len(slurm.calls("sbatch")) == place + 1
        (run.folder / "hold").unlink()
    for number in numbers:
        assert bench.await_state(number, "done", "failed", "lost").state == "done"


def test_folds_that_slurm_could_not_do_leave_nothing_behind(
    bench: SlurmBench, project: Project
) -> None:
    with pytest.raises(QueueError, match="whole ones"):
        submit_training(bench.queue, project, Options(gpus=0.5))
    assert not bench.queue.list()
    assert not list(project.runs_folder.iterdir())
