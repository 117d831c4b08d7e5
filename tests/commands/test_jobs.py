"""jobs, logs, cancel and their kin: answers on stdout, the story on stderr, exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from emcfsys_engine.commands import jobs as job_commands
from emcfsys_engine.errors import QueueError
from emcfsys_engine.jobs import transitions
from emcfsys_engine.jobs.control import DaemonLock
from emcfsys_engine.jobs.job import what_they_wait_for
from tests.commands.made import say
from tests.jobs.conftest import Bench, wait_for
from tests.waiting import PATIENCE_S

ROOT = Path(__file__).parents[2]


def test_jobs_json_is_one_document_with_the_ended_ones(home: Bench) -> None:
    home.add(home.run())
    home.queue.cancel(home.add(home.run(), priority=2, group="night"))
    document = json.loads(say(job_commands.jobs, "--json"))
    assert [job["id"] for job in document["jobs"]] == [1, 2]
    assert document["jobs"][1]["state"] == "cancelled"
    assert {"run", "project", "kind", "priority", "created", "reason"} <= set(document["jobs"][0])


def test_jobs_are_listed_in_the_order_in_which_they_start(home: Bench) -> None:
    home.add(home.run())
    home.add(home.run(), priority=1)
    home.add(home.run(), after=[1])
    lines = say(job_commands.jobs).splitlines()
    assert lines[0].startswith("ID  STATE")
    assert [line.split()[0] for line in lines[1:]] == ["2", "1", "3"]
    assert lines[3].endswith("after job 1")


def test_a_job_that_waits_says_behind_which_one_and_why(home: Bench) -> None:
    first, second, third = (home.add(home.run()) for _ in range(3))
    transitions.explain(home.queue.store, home.queue.get(second), "waits for 1 GPU")
    transitions.explain(home.queue.store, home.queue.get(third), "could not be started: later")
    fourth = home.add(home.run(), after=[first])
    assert what_they_wait_for(home.queue.list()) == {
        second: f"behind job {first}: waits for 1 GPU",
        third: "could not be started: later",
        fourth: f"after job {first}",
    }


def test_escapes_in_names_do_not_reach_the_terminal(home: Bench) -> None:
    run = home.run()
    job_id = home.queue.add(run.folder, project_name="a\x1b[31mb\nc", cpus=1)
    with home.queue.store.transaction() as connection:
        connection.execute("UPDATE jobs SET reason = 'x\x1b]0;y\x07' WHERE id = ?", (job_id,))
    assert "\x1b" not in say(job_commands.jobs)


def test_commands_move_jobs_about(home: Bench) -> None:
    for group in ("a", "b", "b"):
        home.add(home.run(), group=group)
    assert say(job_commands.pause, "--group", "b").splitlines() == [
        "job 2 is paused",
        "job 3 is paused",
    ]
    say(job_commands.move, "3", "--first")
    assert home.queue.get(3).position < home.queue.get(1).position
    assert "cancelled" in say(job_commands.cancel, "1", "3")
    with pytest.raises(QueueError, match="job 1: is cancelled, so not paused"):
        say(job_commands.pause, "1")


def test_logs_tell_events_and_the_workers_own_words(home: Bench) -> None:
    job_id = home.add(home.run())
    home.start()
    home.wait(job_id, "done")
    told = say(job_commands.logs)
    assert "step 1  loss 0.5000" in told
    assert "finished (steps)" in told
    assert "the stand-in works" in told
    assert say(job_commands.logs, "-n", "1").count("\n") == 1


def test_logs_follow_until_the_job_ends(home: Bench) -> None:
    run = home.run(seconds=60)
    job_id = home.add(run)
    home.start()
    command = [sys.executable, "-c", "from emcfsys_engine.commands.jobs import logs; logs()", "-f"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as follower:
        assert follower.stdout is not None
        assert "started" in follower.stdout.readline()
        home.queue.stop(job_id)
        rest, story = follower.communicate(timeout=PATIENCE_S)
    assert "finished (stopped)" in rest
    assert story == f"job {job_id} is done: stopped\n"
    assert follower.returncode == 0


def test_followed_job_that_fails_ends_with_1(home: Bench) -> None:
    home.wait(home.add(home.run("crash")), "failed") if home.start().running else None
    result = CliRunner().invoke(job_commands.logs, ["-f"])
    assert result.exit_code == 1
    assert "job 1 is failed: ended by SIGSEGV" in result.stderr


def test_cancel_of_a_running_job_wakes_a_daemon(home: Bench) -> None:
    job = home.queue.get(home.add(home.run()))
    assert transitions.claim(home.queue.store, job, token="gone", gpu_ids=(), events_offset=0)
    assert say(job_commands.cancel, "1") == "job 1 is stopping\n"
    assert DaemonLock(home.folder).status().running
    home.wait(1, "cancelled")


def test_slow_wait_does_not_import_torch(home: Bench) -> None:
    script = (
        "import sys; import emcfsys_engine.jobs.daemon, emcfsys_engine.commands.jobs;"
        "heavy = {'torch', 'numpy', 'PIL', 'textual'} & set(sys.modules); sys.exit(str(heavy or 0))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.stderr.strip() == "0"
    assert wait_for(lambda: True)
