"""A job that Slurm puts back goes on soon, and not for ever."""

import json

import pytest

from emcfsys_engine.run.events import RunInterrupted
from tests.jobs.conftest import wait_for
from tests.jobs.slurm.conftest import PATIENCE_S, Slurm, SlurmBench

pytestmark = pytest.mark.slurm


def test_a_preempted_job_saves_and_goes_on_when_there_is_room(
    bench: SlurmBench, slurm: Slurm
) -> None:
    run = bench.run(seconds=1000)
    job_id = bench.submit(run, cpus=4)
    bench.await_start(run)
    bench.await_state(job_id, "running")
    urgent = slurm.ask(
        "sbatch", "--parsable", "-p", "urgent", "-N2", "-c4", "-o/dev/null", "--wrap=sleep 1000"
    )
    wait_for(lambda: isinstance(run.ending(), RunInterrupted), seconds=PATIENCE_S)
    job = bench.await_state(job_id, "queued", "failed", "done")
    assert job.state == "queued"
    assert job.slurm_id == bench.queue.get(job_id).slurm_id
    slurm.ask("scancel", urgent)
    bench.await_start(run, 2)
    job = bench.await_state(job_id, "running")
    assert (job.starts, len(slurm.calls("sbatch"))) == (2, 1)  # the same submission
    bench.queue.stop(job_id)
    assert bench.await_state(job_id, "done", "failed").reason == "stopped"


def test_a_requeued_job_starts_soon_although_slurm_sets_its_two_minutes_anew(
    bench: SlurmBench, slurm: Slurm
) -> None:
    run = bench.run(seconds=1000)
    job_id = bench.submit(run)
    bench.await_start(run)
    job = bench.await_state(job_id, "running")
    slurm.ask("scontrol", "requeue", job.slurm_id)
    wait_for(lambda: slurm.starts_in(job) < 30, seconds=PATIENCE_S, what="the first word")
    slurm.ask("scontrol", "update", f"JobId={job.slurm_id}", "StartTime=now+600")
    bench.await_start(run, 2)
    bench.await_state(job_id, "running")
    bench.queue.stop(job_id)
    assert bench.await_state(job_id, "done", "failed").state == "done"


def test_a_requeued_job_starts_soon_although_its_first_start_was_never_seen(
    bench: SlurmBench, slurm: Slurm
) -> None:
    bench.configure(slurm='extra = ["--begin=now+3"]')
    run = bench.run(seconds=1000)
    job_id = bench.submit(run)
    job = bench.await_reason(job_id, "begin time")
    bench.kill_daemon()
    bench.await_start(run)
    slurm.ask("scontrol", "requeue", job.slurm_id)
    wait_for(lambda: 60 < slurm.starts_in(job) < 600, seconds=PATIENCE_S, what="Slurm's delay")
    assert bench.queue.get(job_id).starts == 0
    bench.start()
    bench.await_start(run, 2)
    bench.await_state(job_id, "running")
    bench.queue.stop(job_id)
    assert bench.await_state(job_id, "done", "failed").state == "done"


def test_a_job_that_gets_nowhere_is_not_requeued_for_ever(bench: SlurmBench, slurm: Slurm) -> None:
    bench.configure(slurm="requeues = 1")
    run = bench.run(seconds=1000)
    job_id = bench.submit(run)
    for number in (1, 2, 3):
        bench.await_start(run, number)
        job = bench.await_state(job_id, "running")
        slurm.ask("scancel", "--signal=USR2", job.slurm_id)
        wait_for(lambda: isinstance(run.ending(), RunInterrupted), seconds=PATIENCE_S)
        wait_for(
            lambda number=number: bench.starts(run) > number or bench.state(job_id) != "running",
            seconds=PATIENCE_S,
        )
    job = bench.await_state(job_id, "interrupted", "failed", "done")
    assert job.state == "interrupted"
    assert "brought it no further" in job.reason
    assert bench.starts(run) == 3  # the first advanced, two gained nothing
    assert len(slurm.calls("sbatch")) == 1, (slurm.folder / "log" / "slurmctld.log").read_text()
    assert json.loads((run.folder / "requeues.json").read_text())["num_vain"] >= 2
