"""What the batch script asks for, and what it does before the worker."""

import subprocess
from pathlib import Path

import pytest

from emcfsys_engine.errors import QueueError, SlurmError
from emcfsys_engine.jobs.job import Cluster, Kind, SlurmOrder
from emcfsys_engine.jobs.machine import WantedCompute
from emcfsys_engine.jobs.slurm import client
from emcfsys_engine.jobs.slurm.script import script_of, settle_order
from emcfsys_engine.project_tables import Compute
from emcfsys_engine.run.folder import new_run
from emcfsys_engine.run.records import TrainRequest
from emcfsys_engine.settings import Config
from tests.jobs.made import job_with
from tests.jobs.slurm.conftest import SlurmBench

pytestmark = pytest.mark.slurm


def test_what_slurm_could_not_do_is_refused_at_submission(
    bench: SlurmBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(QueueError, match="whole ones"):
        bench.submit(bench.run(), gpus=0.5)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(QueueError, match="no sbatch here"):
        bench.submit(bench.run())


@pytest.mark.parametrize(("kind", "nodes"), [("train", 3), ("watch", 1), ("predict", 1)])
def test_only_a_training_takes_the_several_nodes_of_its_project(
    kind: Kind, nodes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_: Cluster) -> None:
        raise SlurmError("sinfo: the controller is away", may_pass=True)

    monkeypatch.setattr(client, "find_cluster", lambda _: Cluster(bin="/usr/bin"))
    monkeypatch.setattr(client, "partitions", away)
    compute = Compute(executor="slurm", nodes=3)
    _, order = settle_order(WantedCompute(kind=kind, gpus=0), compute, Config())
    assert order.nodes == nodes


def test_a_prolog_runs_before_the_worker_on_the_node(bench: SlurmBench) -> None:
    place = bench.project / "told"
    bench.configure(slurm=f'prolog = ["test -e {place} || hostname >{place}"]')
    assert bench.await_state(bench.submit(bench.run()), "done", "failed").state == "done"
    assert place.read_text().strip()


def test_a_job_without_a_gpu_sees_none(bench: SlurmBench) -> None:
    run = bench.run("tell")
    assert bench.await_state(bench.submit(run, gpus=0), "done", "failed").state == "done"
    assert (run.folder / "told").read_text() == ""


def test_nothing_that_lies_in_the_submitters_folder_is_run(
    bench: SlurmBench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    there, seen = tmp_path / "data", tmp_path / "seen"
    there.mkdir()
    (there / "json.py").write_text(f"open({str(seen)!r}, 'w').close()")
    monkeypatch.chdir(there)
    run = bench.run()
    assert run.record().folder == str(there)
    assert bench.await_state(bench.submit(run), "done", "failed").state == "done"
    assert not seen.exists()


@pytest.mark.parametrize("name", ["a\ntouch ran\n#", "a'\ntouch ran\n'", "$(touch ran)", "a\rb"])
def test_the_name_of_a_runs_folder_is_no_line_of_the_script(name: str, tmp_path: Path) -> None:
    run = new_run(tmp_path / "runs", TrainRequest())
    folder = run.folder.rename(run.folder.with_name(name))
    job = job_with(1, run=str(folder), executor="slurm", resume="auto", token="t")
    srun = tmp_path / "srun"
    srun.write_text("#!/bin/sh\nexit 0\n")
    srun.chmod(0o755)
    script = script_of(job, SlurmOrder(cluster=Cluster(bin=str(tmp_path))))
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    subprocess.run(["bash", "-c", script], cwd=tmp_path, env=path, check=False, timeout=60)
    assert not (tmp_path / "ran").exists()
