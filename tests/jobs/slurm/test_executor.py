"""One job on Slurm from its submission to its end, with a stand-in for the worker."""

import pytest

from tests.jobs.conftest import wait_for
from tests.jobs.slurm.conftest import Slurm, SlurmBench

pytestmark = pytest.mark.slurm


def test_a_job_runs_on_a_node_and_is_done(bench: SlurmBench) -> None:
    run = bench.run("tell")
    job_id = bench.submit(run, gpus=1)
    job = bench.await_state(job_id, "done", "failed", "lost")
    assert job.state == "done", job
    assert job.slurm_id.isdecimal()
    assert bench.states(job_id) == ["queued", "running", "done"]
    assert (run.folder / "told").read_text() in ("0", "1")
    record = run.exit_record()
    assert record is not None
    assert record.exit_code == 0
    assert bench.starts(run) == 1


def test_what_a_worker_says_of_its_failure_is_the_reason(bench: SlurmBench) -> None:
    run = bench.run("fail", reason="no images", exit_code=2)
    job = bench.await_state(bench.submit(run), "failed", "done")
    assert (job.state, job.reason) == ("failed", "no images")
    assert "the stand-in works" in job.evidence


def test_a_crash_is_told_with_its_signal_and_tried_again(bench: SlurmBench) -> None:
    run = bench.run("crash", times=1)
    job_id = bench.submit(run, retries=1)
    job = bench.await_state(job_id, "failed", "done")
    assert job.state == "done", job
    assert bench.starts(run) == 2
    assert any("SIGSEGV" in line.reason for line in bench.queue.history(job_id))


def test_a_refusal_of_sbatch_is_told_in_its_words(bench: SlurmBench, slurm: Slurm) -> None:
    bench.configure(slurm='partition = "nowhere"')
    job = bench.await_state(bench.submit(bench.run()), "failed", "done")
    assert job.state == "failed"
    assert "partition" in job.reason
    assert len(slurm.calls("sbatch")) == 1


def test_cancel_lets_a_running_worker_save(bench: SlurmBench, slurm: Slurm) -> None:
    run = bench.run(seconds=1000)
    job_id = bench.submit(run)
    bench.await_start(run)
    bench.queue.cancel(job_id)
    job = bench.await_state(job_id, "cancelled", "failed", "interrupted", "done")
    assert job.state == "cancelled", job
    assert run.outcome() == ("cancelled", "")
    assert bench.starts(run) == 1


def test_cancel_ends_a_deaf_worker_after_the_grace(bench: SlurmBench) -> None:
    bench.configure("grace_s = 0.5")
    run = bench.run("ignore")
    job_id = bench.submit(run)
    bench.await_start(run)
    bench.queue.cancel(job_id)
    job = bench.await_state(job_id, "cancelled", "failed", "interrupted", "lost", "done")
    assert (job.state, job.reason) == ("cancelled", "had to be killed")


def test_a_stop_waits_as_long_as_the_worker_still_saves(bench: SlurmBench) -> None:
    bench.configure("grace_s = 7")
    run = bench.run("slow ending", seconds=20)
    job_id = bench.submit(run)
    bench.await_start(run)
    bench.await_state(job_id, "running")
    bench.queue.stop(job_id)
    job = bench.await_state(job_id, "done", "cancelled", "failed", "interrupted", "lost")
    assert (job.state, job.reason) == ("done", "stopped")
    assert (run.folder / "saving").read_bytes()
    script = (run.folder / "slurm.sh").read_text()
    assert "120 seconds to save" in script


def test_cancel_takes_a_waiting_job_out_of_slurm(bench: SlurmBench, slurm: Slurm) -> None:
    bench.configure(slurm='extra = ["--begin=now+1hour"]')
    run = bench.run()
    job_id = bench.submit(run)
    job = bench.await_reason(job_id, "waits for its begin time", "expected at")
    assert job.state == "queued"
    assert job.expected is not None
    bench.queue.cancel(job_id)
    assert bench.await_state(job_id, "cancelled", "failed").state == "cancelled"
    assert slurm.state(job).startswith("CANCELLED")
    assert bench.starts(run) == 0


def test_pause_frees_the_node_and_resume_goes_on(bench: SlurmBench, slurm: Slurm) -> None:
    run = bench.run(seconds=1000)
    job_id = bench.submit(run)
    bench.await_start(run)
    bench.queue.pause(job_id)
    bench.await_state(job_id, "paused", "failed", "done")
    assert bench.state(job_id) == "paused"
    assert not slurm.ask("squeue", "-h", "-t", "running,pending")
    bench.queue.resume(job_id)
    bench.await_start(run, 2)
    bench.await_state(job_id, "running")
    bench.queue.stop(job_id)
    assert bench.await_state(job_id, "done", "interrupted", "failed").reason == "stopped"


def test_a_job_held_by_its_user_says_how_it_is_released(bench: SlurmBench, slurm: Slurm) -> None:
    bench.configure(slurm='extra = ["--begin=now+1hour"]')
    run = bench.run()
    job_id = bench.submit(run)
    job = bench.await_reason(job_id, "begin time")
    slurm.ask("scontrol", "uhold", job.slurm_id)
    bench.await_reason(job_id, "held", f"scontrol release {job.slurm_id}")
    slurm.ask("scontrol", "release", job.slurm_id)
    slurm.ask("scontrol", "update", f"JobId={job.slurm_id}", "StartTime=now")
    assert bench.await_state(job_id, "done", "failed").state == "done"


def test_who_cancels_in_slurm_itself_is_obeyed(bench: SlurmBench, slurm: Slurm) -> None:
    run = bench.run(seconds=1000)
    job_id = bench.submit(run)
    bench.await_start(run)
    slurm.ask("scancel", bench.await_state(job_id, "running").slurm_id)
    job = bench.await_state(job_id, "interrupted", "cancelled", "failed", "done")
    assert job.state == "interrupted", job
    assert "cancelled in Slurm" in job.reason
    assert bench.starts(run) == 1


def test_two_hundred_jobs_cost_one_question_a_look(bench: SlurmBench, slurm: Slurm) -> None:
    bench.configure(slurm='extra = ["--begin=now+1hour"]')
    ids = [bench.queue.add(bench.run().folder, project_name="many", **_SMALL) for _ in range(200)]
    bench.start()
    for job_id in ids:
        bench.await_reason(job_id, "begin time")
    assert len(slurm.calls("sbatch")) == 200
    before = len(slurm.calls("squeue"))
    wait_for(lambda: len(slurm.calls("squeue")) > before + 2)
    assert {call.split()[1] for call in slurm.calls("squeue")} == {"--me"}
    assert not any("-j" in call.split() for call in slurm.calls("squeue"))
    for job_id in ids:
        bench.queue.cancel(job_id)
    for job_id in ids:
        bench.await_state(job_id, "cancelled")


_SMALL = {"cpus": 1, "gpus": 0, "slurm": True}
