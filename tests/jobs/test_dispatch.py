"""What the daemon starts and when: dependencies, retries, groups, GPUs, notices."""

import itertools
import json
import os
import sys

import msgspec
import pytest

from emcfsys_engine.errors import QueueError
from emcfsys_engine.jobs.machine import Gpu
from emcfsys_engine.launch import processes
from emcfsys_engine.run.folder import new_run
from emcfsys_engine.run.records import WatchRequest
from tests.jobs.conftest import Bench, wait_for


def _gpus(bench: Bench, count: int) -> None:
    gpus = [Gpu(uuid=f"GPU-{n}", total_gb=8.0, free_gb=8.0) for n in range(count)]
    (bench.place / "gpus.json").write_bytes(msgspec.json.encode(gpus))
    locks = bench.place / "locks"
    locks.mkdir(exist_ok=True)
    bench.configure(f'cpu_slots = 8\ngrace_s = 5\nlock_folder = "{locks}"')


def test_job_starts_after_those_it_needs(bench: Bench) -> None:
    bench.start()
    first = bench.run(seconds=0.3)
    first_id = bench.add(first)
    second_id = bench.add(bench.run(), after=[first_id])
    second = bench.wait(second_id, "done")
    ended = bench.queue.get(first_id).ended
    assert ended is not None
    assert second.started is not None
    assert second.started >= ended


def test_job_whose_need_failed_is_cancelled(bench: Bench) -> None:
    bad_id = bench.add(bench.run("fail", reason="label 7 is no class", exit_code=2), retries=3)
    next_id = bench.add(bench.run(), after=[bad_id])
    last_id = bench.add(bench.run(), after=[next_id])
    bench.start()
    assert bench.wait(next_id, "cancelled").reason == "job 1, which it needs, is failed"
    assert bench.wait(last_id, "cancelled").starts == 0
    bad = bench.queue.get(bad_id)
    assert (bad.reason, bad.starts) == ("label 7 is no class", 1)  # bad input: never again


def test_crash_is_tried_again_with_back_off(bench: Bench) -> None:
    run = bench.run("crash", times=2, signal="SIGABRT")
    job_id = bench.add(run, retries=5)
    bench.start()
    job = bench.wait(job_id, "done")
    assert (job.starts, bench.starts(run), job.failures) == (3, 3, 0)
    reasons = [line.reason for line in bench.queue.history(job_id) if line.state == "queued"]
    assert reasons[1:] == [
        "ended by SIGABRT; starts again in 0.05 s",
        "ended by SIGABRT; starts again in 0.1 s",
    ]


def test_killed_worker_is_told_by_its_signal(bench: Bench) -> None:
    job_id = bench.add(bench.run("crash", signal="SIGKILL"))
    bench.start()
    assert bench.wait(job_id, "failed").reason == "ended by SIGKILL"


def test_worker_ended_by_a_colleague_goes_on_if_it_may(bench: Bench) -> None:
    run = bench.run(seconds=60)
    job_id = bench.add(run, resume="auto")
    bench.start()
    wait_for(lambda: bench.starts(run))
    (run.folder / "behaviour.json").write_text('{"does": "work"}')
    bench.terminate(run)
    assert bench.wait(job_id, "done").starts == 2


def test_worker_ended_by_a_colleague_is_interrupted(bench: Bench) -> None:
    run = bench.run(seconds=60)
    job_id = bench.add(run)
    bench.start()
    wait_for(lambda: bench.starts(run))
    bench.terminate(run)
    assert bench.wait(job_id, "interrupted").reason == "terminated"


def test_watch_is_started_again_when_it_dies(bench: Bench) -> None:
    request = WatchRequest(model="/m", watch="/w", output="/o")
    run = new_run(bench.project / "runs", request)
    (run.folder / "behaviour.json").write_text(json.dumps({"does": "crash", "times": 3}))
    job_id = bench.queue.add(run.folder, project_name="test")
    assert (bench.queue.get(job_id).retries, bench.queue.get(job_id).cpus) == (-1, 0)
    bench.start()
    assert bench.wait(job_id, "done").starts == 4


def test_folder_deleted_under_a_waiting_job_fails_it(bench: Bench) -> None:
    run = bench.run()
    job_id = bench.add(run)
    run.folder.rename(run.folder.with_name("gone"))
    bench.start()
    assert "is no run" in bench.wait(job_id, "failed").reason


def test_another_run_in_its_folder_is_left_alone(bench: Bench) -> None:
    run = bench.run()
    job_id = bench.add(run)
    run.folder.rename(run.folder.parent.with_name("away"))
    another = bench.run()  # a person emptied runs/, and trained in the foreground
    assert another.folder == run.folder
    bench.start()
    assert "holds another run" in bench.wait(job_id, "failed").reason
    assert bench.starts(another) == 0
    bench.queue.retry(job_id)
    bench.wait(job_id, "failed")
    assert bench.starts(another) == 0
    assert bench.wait(bench.add(another), "done").run == str(another.folder)


def test_folder_deleted_under_a_running_job_is_told(bench: Bench) -> None:
    bench.configure("cpu_slots = 8\ngrace_s = 0.5")
    run = bench.run(seconds=60)
    job_id = bench.add(run)
    bench.start()
    wait_for(lambda: bench.starts(run))
    run.folder.rename(run.folder.with_name("gone"))
    bench.kill_daemon()
    bench.start()
    assert bench.state(job_id) == "running"  # found by its token
    bench.queue.cancel(job_id)
    bench.wait(job_id, "cancelled", "failed")


def test_group_runs_as_many_at_once_as_it_may(bench: Bench) -> None:
    bench.configure("cpu_slots = 8\n[groups]\nnight = 1")
    bench.start()
    ids = [bench.add(bench.run(seconds=0.2), group="night") for _ in range(3)]
    for job_id in ids:
        bench.wait(job_id, "done")
    spans = sorted((job.started or 0.0, job.ended or 0.0) for job in bench.queue.list())
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))


def test_job_gets_its_gpu_by_uuid_and_holds_its_lease(bench: Bench) -> None:
    _gpus(bench, 2)
    run = bench.run("tell", seconds=60)
    job_id = bench.add(run, gpus=1)
    bench.start()
    told = wait_for(lambda: (run.folder / "told").exists() and (run.folder / "told").read_text())
    (gpu,) = bench.queue.get(job_id).gpu_ids
    assert told == gpu
    assert processes.num_taken(bench.place / "locks", gpu) == processes.NUM_SLOTS
    bench.queue.cancel(job_id)
    bench.wait(job_id, "cancelled")
    assert processes.num_taken(bench.place / "locks", gpu) == 0
    assert bench.queue.get(job_id).gpu_ids == ()


def test_gpu_taken_by_another_user_is_waited_for(bench: Bench) -> None:
    _gpus(bench, 1)
    held = processes.take(bench.place / "locks", "GPU-0", processes.NUM_SLOTS)
    assert held is not None
    job_id = bench.add(bench.run(), gpus=1)
    bench.start()
    wait_for(lambda: bench.queue.get(job_id).reason.startswith("waits for 1 GPU, used: GPU 0 by "))
    for descriptor in held:
        os.close(descriptor)
    bench.wait(job_id, "done")


def test_more_gpus_than_there_are_is_refused(bench: Bench) -> None:
    _gpus(bench, 1)
    usual = bench.queue.add(bench.run().folder, project_name="x")
    assert bench.queue.get(usual).gpus == 0.75  # a watch has the rest
    with pytest.raises(QueueError, match="2 are asked for, this machine has 1"):
        bench.add(bench.run(), gpus=2)


def test_job_writes_with_the_umask_of_its_submitter(bench: Bench) -> None:
    bench.start()
    modes: list[int] = []
    for umask in (0o077, 0o002):
        run = bench.run()
        before = os.umask(umask)
        try:
            job_id = bench.add(run)
        finally:
            os.umask(before)
        bench.wait(job_id, "done")
        modes.append(run.events_file.stat().st_mode & 0o777)
    assert modes == [0o600, 0o664]


def test_job_without_gpu_sees_none(bench: Bench) -> None:
    _gpus(bench, 1)
    run = bench.run("tell")
    job_id = bench.add(run, gpus=0)
    bench.start()
    bench.wait(job_id, "done")
    assert (run.folder / "told").read_text() == ""


def test_end_of_a_job_is_told_by_the_users_command(bench: Bench) -> None:
    file = bench.place / "notice"
    script = (
        "import os,pathlib,sys; p=pathlib.Path(sys.argv[1]); t=p.with_suffix('.tmp');"
        "t.write_text(os.environ['EMCFSYS_JOB']+' '+os.environ['EMCFSYS_JOB_STATE']); t.rename(p)"
    )
    command = json.dumps([sys.executable, "-c", script, str(file)])
    bench.configure(f"cpu_slots = 8\n[notify]\ncommand = {command}")
    job_id = bench.add(bench.run())
    bench.start()
    assert wait_for(lambda: file.exists() and file.read_text()) == f"{job_id} done"


def test_clock_set_back_prolongs_no_wait(bench: Bench) -> None:
    run = bench.run("crash", times=1)
    job_id = bench.add(run, retries=1)
    with bench.queue.store.transaction() as connection:
        connection.execute("UPDATE jobs SET created = created + 1e6")  # submitted in the future
    bench.start()
    job = bench.wait(job_id, "done")
    assert job.started is not None
    assert job.started < job.created
