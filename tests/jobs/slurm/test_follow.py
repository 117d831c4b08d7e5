"""Jobs on Slurm while others come first, and nodes, controllers and daemons fail."""

import signal

import pytest

from tests.jobs.conftest import wait_for
from tests.jobs.slurm.conftest import PATIENCE_S, Slurm, SlurmBench

pytestmark = pytest.mark.slurm


def test_a_failed_node_is_left_for_another(bench: SlurmBench, slurm: Slurm) -> None:
    run = bench.run(seconds=1000)
    job_id = bench.submit(run)
    bench.await_start(run)
    job = bench.await_state(job_id, "running")
    node = slurm.state(job).split()[-1]
    slurm.kill_node(node, job)
    try:
        bench.await_start(run, 2)
        wait_for(lambda: slurm.state(job).startswith("RUNNING"), seconds=PATIENCE_S)
        assert slurm.state(job).split()[-1] != node
    finally:
        slurm.up()
    bench.await_state(job_id, "running")
    bench.queue.stop(job_id)
    assert bench.await_state(job_id, "done", "failed", "interrupted").state == "done"


def test_a_job_runs_on_while_the_controller_is_away(bench: SlurmBench, slurm: Slurm) -> None:
    run = bench.run(seconds=1000)
    job_id = bench.submit(run)
    bench.await_start(run)
    bench.await_state(job_id, "running")
    slurm.kill_controller(signal.SIGTERM)
    try:
        job = bench.await_reason(job_id, "cannot be asked")
        assert job.state == "running"
    finally:
        slurm.start_controller()
    bench.await_reason(job_id, "runs on")
    bench.queue.stop(job_id)
    assert bench.await_state(job_id, "done", "failed").state == "done"


def test_a_run_that_the_controller_forgot_is_still_told_by_its_folder(
    bench: SlurmBench, slurm: Slurm
) -> None:
    run = bench.run(seconds=0.0)
    (run.folder / "hold").touch()
    job_id = bench.submit(run)
    bench.await_start(run)
    bench.await_state(job_id, "running")
    bench.kill_daemon()
    (run.folder / "hold").unlink()
    wait_for(run.exit_record, seconds=PATIENCE_S)
    wait_for(lambda: not slurm.ask("squeue", "-h"), seconds=PATIENCE_S)
    slurm.kill_controller()
    slurm.start_controller("-c")  # a cold start: every job is forgotten
    assert not slurm.ask("squeue", "-h", "-t", "all")
    bench.start()
    job = bench.await_state(job_id, "done", "failed", "lost", "interrupted")
    assert (job.state, job.reason) == ("done", "steps")
    assert bench.starts(run) == 1


@pytest.mark.parametrize("is_forgotten", [False, True])
def test_a_run_that_ended_is_waited_for_while_its_disk_is_away_here(
    bench: SlurmBench, slurm: Slurm, is_forgotten: bool
) -> None:
    """A mount that came late after a reboot: finished jobs failed, or were submitted again."""
    run = bench.run(seconds=0.0)
    (run.folder / "hold").touch()
    job_id = bench.submit(run)
    bench.await_start(run)
    bench.await_state(job_id, "running")
    bench.kill_daemon()
    (run.folder / "hold").unlink()
    wait_for(run.exit_record, seconds=PATIENCE_S)
    wait_for(lambda: not slurm.ask("squeue", "-h"), seconds=PATIENCE_S)
    if is_forgotten:
        slurm.kill_controller()
        slurm.start_controller("-c")
    here, aside = run.folder.parent, run.folder.parent.with_name("disk")
    here.rename(aside)
    here.mkdir()  # an empty mount point
    bench.start()
    job = bench.await_reason(job_id, "its disk may be away")
    assert job.state == "running"
    here.rmdir()
    aside.rename(here)
    job = bench.await_state(job_id, "done", "failed", "lost", "interrupted")
    assert (job.state, job.reason) == ("done", "steps")
    assert bench.starts(run) == 1
