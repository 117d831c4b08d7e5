"""Jobs on Slurm while others come first, and nodes, controllers and daemons fail."""

import json
import signal

import pytest

from emcfsys_engine.run.events import RunInterrupted
from tests.jobs.conftest import wait_for
from tests.slurm.conftest import PATIENCE_S, Slurm, SlurmBench

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(300)]


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


def test_a_submission_waits_for_the_controller(bench: SlurmBench, slurm: Slurm) -> None:
    slurm.kill_controller()
    try:
        job_id = bench.submit(bench.run())
        job = bench.await_reason(job_id, "does not take it yet")
        assert job.state == "queued"
    finally:
        slurm.start_controller()
    assert bench.await_state(job_id, "done", "failed").state == "done"


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
