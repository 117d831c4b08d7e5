"""Around jobs on Slurm: doctor, the table, the interface, accounts, what may be asked."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from emcfsys_engine.commands.doctor import examine_slurm
from emcfsys_engine.commands.jobs import table_of
from emcfsys_engine.errors import QueueError
from emcfsys_tui.engine.jobs import QueueReader
from tests.jobs.conftest import wait_for
from tests.slurm.conftest import PATIENCE_S, Slurm, SlurmBench, made_slurm

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(300)]


@pytest.fixture
def accounted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    """A Slurm of one node that keeps accounts."""
    for slurm in made_slurm(
        31100 + os.getpid() % 500 * 2, NODES="1", GPUS="1", CPUS="2", ACCT="1", KILLWAIT="2"
    ):
        for name, text in slurm.environment.items():
            monkeypatch.setenv(name, text)
        yield slurm


def test_doctor_sees_the_cluster(slurm: Slurm) -> None:
    lines = {line.what: line for line in examine_slurm()}
    assert {line.state for line in lines.values()} == {"ok"}
    assert "controller answers" in lines["Slurm"].found
    assert lines["Slurm partitions"].found == "gpu (default), urgent"
    assert lines["Slurm GPUs"].found == "gpu: 2 × 2, urgent: 2 × 2"
    assert "off" in lines["Slurm accounting"].found
    assert "scancel kills after 5 s" in lines["Slurm's grace"].found


def test_doctor_says_that_there_is_no_slurm_and_that_none_answers(slurm: Slurm) -> None:
    assert examine_slurm({"PATH": "/nowhere"})[0].state == "ok"
    slurm.kill_controller()
    try:
        line = examine_slurm()[0]
    finally:
        slurm.start_controller()
    assert line.state == "fail"
    assert "controller" in line.found


def test_table_and_interface_show_why_a_job_waits_and_until_when(
    bench: SlurmBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.configure(slurm='extra = ["--begin=now+1hour"]')
    job_id = bench.submit(bench.run())
    local = bench.add(bench.run())
    job = bench.await_reason(job_id, "begin time; expected at")
    bench.await_state(local, "done")
    told = table_of(bench.queue.list())
    assert f"Slurm {job.slurm_id}: waits for its begin time; expected at" in told
    monkeypatch.setenv("EMCFSYS_HOME", str(bench.folder))
    shown = QueueReader().read()
    assert shown is not None
    rows = {row.id: row for row in shown.queue.jobs}
    assert rows[job_id].reason == job.reason
    assert (rows[job_id].state, rows[local].state) == ("queued", "done")


def test_accounts_tell_what_the_controller_forgot(accounted: Slurm, tmp_path: Path) -> None:
    assert "on" in {line.what: line.found for line in examine_slurm()}["Slurm accounting"]
    bench = SlurmBench(tmp_path)
    try:
        run = bench.run("ignore")
        job_id = bench.submit(run)
        bench.await_start(run)
        job = bench.await_state(job_id, "running")
        bench.kill_daemon()
        accounted.ask("scancel", job.slurm_id)
        wait_for(lambda: not accounted.ask("squeue", "-h"), seconds=PATIENCE_S)
        wait_for(lambda: _account(accounted, job.slurm_id), seconds=PATIENCE_S)
        accounted.kill_controller()
        accounted.start_controller("-c")
        bench.start()
        ended = bench.await_state(job_id, "failed", "interrupted", "done", "lost")
        assert ended.state == "interrupted"
        assert "cancelled in Slurm" in ended.reason  # without accounts: forgotten
        assert accounted.calls("sacct")
    finally:
        bench.close()


def _account(slurm: Slurm, number: str) -> str:
    """Return how a job ended, once the accounts know."""
    told = slurm.ask("sacct", "-X", "-n", "-P", "-o", "State", "-j", number).partition("\n")[0]
    word = told.split(" ")[0]
    return "" if word in ("", "RUNNING", "PENDING") else word


def test_what_slurm_could_not_do_is_refused_at_submission(
    bench: SlurmBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(QueueError, match="whole ones"):
        bench.submit(bench.run(), gpus=0.5)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(QueueError, match="no sbatch here"):
        bench.submit(bench.run())


def test_a_prolog_runs_before_the_worker_on_the_node(bench: SlurmBench) -> None:
    place = bench.project / "told"
    bench.configure(slurm=f'prolog = ["test -e {place} || hostname >{place}"]')
    assert bench.await_state(bench.submit(bench.run()), "done", "failed").state == "done"
    assert place.read_text().strip()


def test_a_job_without_a_gpu_sees_none(bench: SlurmBench) -> None:
    run = bench.run("tell")
    assert bench.await_state(bench.submit(run, gpus=0), "done", "failed").state == "done"
    assert (run.folder / "told").read_text() == ""
