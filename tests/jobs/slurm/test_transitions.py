"""How a job ended, by Slurm's accounts where its controller forgot it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from emcfsys_engine.commands.doctor import examine_slurm
from tests.jobs.conftest import wait_for
from tests.jobs.slurm.conftest import PATIENCE_S, Slurm, SlurmBench, made_slurm


@pytest.fixture
def accounted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    """A Slurm of one node that keeps accounts."""
    for slurm in made_slurm(
        31100 + os.getpid() % 500 * 2, NODES="1", GPUS="1", CPUS="2", ACCT="1", KILLWAIT="2"
    ):
        for name, text in slurm.environment.items():
            monkeypatch.setenv(name, text)
        yield slurm


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


pytestmark = pytest.mark.slurm


def test_a_submission_waits_for_the_controller(bench: SlurmBench, slurm: Slurm) -> None:
    slurm.kill_controller()
    try:
        job_id = bench.submit(bench.run())
        job = bench.await_reason(job_id, "does not take it yet")
        assert job.state == "queued"
    finally:
        slurm.start_controller()
    assert bench.await_state(job_id, "done", "failed").state == "done"


def test_a_waiting_job_that_the_controller_forgot_is_submitted_again(
    bench: SlurmBench, slurm: Slurm
) -> None:
    bench.configure(slurm='extra = ["--begin=now+1hour"]')
    run = bench.run()
    job_id = bench.submit(run)
    first = bench.await_reason(job_id, "begin time")
    slurm.kill_controller()
    slurm.start_controller("-c")
    job = bench.await_reason(job_id, "submitted")
    job = bench.await_reason(job_id, "begin time")
    assert job.token != first.token
    assert bench.starts(run) == 0
    slurm.ask("scontrol", "update", f"JobId={job.slurm_id}", "StartTime=now")
    assert bench.await_state(job_id, "done", "failed").state == "done"


def test_a_daemon_that_died_in_the_middle_of_a_submission_finds_its_job(
    bench: SlurmBench, slurm: Slurm
) -> None:
    run = bench.run()
    (run.folder / "hold").touch()
    job_id = bench.submit(run)
    bench.await_start(run)
    job = bench.await_state(job_id, "running")
    bench.kill_daemon()
    with bench.queue.store.transaction() as connection:  # as if sbatch had never answered
        connection.execute("UPDATE jobs SET slurm_id = '?', state = 'queued'")
    (run.folder / "hold").unlink()
    bench.start()
    assert bench.await_state(job_id, "done", "failed", "lost").state == "done"
    assert bench.queue.get(job_id).slurm_id == job.slurm_id
    assert len(slurm.calls("sbatch")) == 1


def test_what_needs_a_job_that_failed_is_cancelled(bench: SlurmBench, slurm: Slurm) -> None:
    first = bench.run("fail", reason="no images", exit_code=2)
    bench.configure(slurm='extra = ["--begin=now+3"]')
    needed = bench.submit(first)
    run = bench.run()
    job_id = bench.submit(run, after=(needed,))
    bench.await_reason(job_id, "Slurm", "waits for the jobs it needs")
    assert any("--dependency=afterok" in call for call in slurm.calls("sbatch"))
    assert bench.await_state(needed, "failed", "done").state == "failed"
    job = bench.await_state(job_id, "cancelled", "failed", "done")
    assert (job.state, bench.starts(run)) == ("cancelled", 0)
    assert "need" in job.reason


def test_what_needs_a_job_starts_after_it(bench: SlurmBench, slurm: Slurm) -> None:
    first = bench.run()
    (first.folder / "hold").touch()
    needed = bench.submit(first)
    bench.await_start(first)
    bench.await_state(needed, "running")
    run = bench.run()
    job_id = bench.submit(run, after=(needed,))
    bench.await_reason(job_id, "waits for the jobs it needs", "Slurm")
    assert any("--kill-on-invalid-dep=yes" in call for call in slurm.calls("sbatch"))
    (first.folder / "hold").unlink()
    assert bench.await_state(job_id, "done", "failed", "cancelled").state == "done"
