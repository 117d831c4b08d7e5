"""The commands as a person types them: answers on stdout, the story on stderr, exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from emcfsys_engine.commands import jobs as job_commands
from emcfsys_engine.commands import submit as submit_commands
from emcfsys_engine.commands import system as daemon_commands
from emcfsys_engine.commands.doctor import examine_jobs
from emcfsys_engine.errors import DaemonError, InputError, QueueError
from emcfsys_engine.jobs import systemd, transitions
from emcfsys_engine.jobs.control import DaemonLock
from emcfsys_engine.jobs.job import what_they_wait_for
from emcfsys_engine.jobs.machine import Gpu
from emcfsys_engine.jobs.queue import Queue
from emcfsys_engine.launch import processes
from emcfsys_engine.launch.start import processes_of
from emcfsys_engine.run.folder import Run
from tests.jobs.conftest import Bench, wait_for

ROOT = Path(__file__).parents[2]


@pytest.fixture
def home(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setenv("EMCFSYS_HOME", str(bench.folder))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(bench.place / "config"))
    return bench


def _say(command: object, *words: str) -> str:
    result = CliRunner().invoke(command, words, catch_exceptions=False)  # type: ignore[arg-type]
    assert result.exit_code == 0, result.output
    return result.stdout


def test_jobs_json_is_one_document_with_the_ended_ones(home: Bench) -> None:
    home.add(home.run())
    home.queue.cancel(home.add(home.run(), priority=2, group="night"))
    document = json.loads(_say(job_commands.jobs, "--json"))
    assert [job["id"] for job in document["jobs"]] == [1, 2]
    assert document["jobs"][1]["state"] == "cancelled"
    assert {"run", "project", "kind", "priority", "created", "reason"} <= set(document["jobs"][0])


def test_jobs_are_listed_in_the_order_in_which_they_start(home: Bench) -> None:
    home.add(home.run())
    home.add(home.run(), priority=1)
    home.add(home.run(), after=[1])
    lines = _say(job_commands.jobs).splitlines()
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
    assert "\x1b" not in _say(job_commands.jobs)


def test_commands_move_jobs_about(home: Bench) -> None:
    for group in ("a", "b", "b"):
        home.add(home.run(), group=group)
    assert _say(job_commands.pause, "--group", "b").splitlines() == [
        "job 2 is paused",
        "job 3 is paused",
    ]
    _say(job_commands.move, "3", "--first")
    assert home.queue.get(3).position < home.queue.get(1).position
    assert "cancelled" in _say(job_commands.cancel, "1", "3")
    with pytest.raises(QueueError, match="job 1: is cancelled, so not paused"):
        _say(job_commands.pause, "1")


def test_logs_tell_events_and_the_workers_own_words(home: Bench) -> None:
    job_id = home.add(home.run())
    home.start()
    home.wait(job_id, "done")
    told = _say(job_commands.logs)
    assert "step 1  loss 0.5000" in told
    assert "finished (steps)" in told
    assert "the stand-in works" in told
    assert _say(job_commands.logs, "-n", "1").count("\n") == 1


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
        rest, story = follower.communicate(timeout=120)
    assert "finished (stopped)" in rest
    assert story == f"job {job_id} is done: stopped\n"
    assert follower.returncode == 0


def test_followed_job_that_fails_ends_with_1(home: Bench) -> None:
    home.wait(home.add(home.run("crash")), "failed") if home.start().running else None
    result = CliRunner().invoke(job_commands.logs, ["-f"])
    assert result.exit_code == 1
    assert "job 1 is failed: ended by SIGSEGV" in result.stderr


def test_daemon_starts_tells_and_stops(home: Bench) -> None:
    assert json.loads(_say(daemon_commands.daemon, "status", "--json"))["running"] is False
    assert "runs since" in _say(daemon_commands.daemon, "start")
    status = json.loads(_say(daemon_commands.daemon, "status", "--json"))
    assert status["running"] is True
    assert status["pid"] == DaemonLock(home.folder).status().pid
    _say(daemon_commands.daemon, "restart")
    assert DaemonLock(home.folder).status().pid != status["pid"]
    assert _say(daemon_commands.daemon, "stop") == "daemon stopped\n"
    assert _say(daemon_commands.daemon, "stop") == "no daemon was running\n"


def test_daemon_in_the_foreground_refuses_beside_another(home: Bench) -> None:
    home.start()
    with pytest.raises(DaemonError, match="running already") as caught:
        _say(daemon_commands.daemon, "run")
    assert caught.value.exit_code == 3


def test_cancel_of_a_running_job_wakes_a_daemon(home: Bench) -> None:
    job = home.queue.get(home.add(home.run()))
    assert transitions.claim(home.queue.store, job, token="gone", gpu_ids=(), events_offset=0)
    assert _say(job_commands.cancel, "1") == "job 1 is stopping\n"
    assert DaemonLock(home.folder).status().running
    home.wait(1, "cancelled")


def test_unit_runs_this_interpreter_and_leaves_jobs_alone(
    home: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(home.place))  # no systemctl, no loginctl
    made = systemd.install(home.folder)
    text = made.file.read_text()
    assert f'"{sys.executable}" "-m" "emcfsys_engine.jobs.daemon" "{home.folder}"' in text
    assert "KillMode=process" in text
    assert not made.is_enabled
    assert "there is no systemd here" in made.notes[0]
    assert "enable-linger" in made.notes[1]
    odd = systemd.unit_text(Path('/a b/50%/$x"'))
    assert '"/a b/50%%/$$x\\""' in odd


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


def test_doctor_names_who_holds_a_gpu(home: Bench) -> None:
    gpu = Gpu(uuid="GPU-1", name="H100", index=3, total_gb=80, free_gb=20, process_ids=(4711,))
    (home.place / "gpus.json").write_bytes(msgspec.json.encode([gpu]))
    home.configure(f'lock_folder = "{home.place}"')

    def line() -> str:
        return {found.what: found for found in examine_jobs(home.folder, home.machine)}[
            "GPU 3"
        ].found

    assert "used without a lease by processes 4711" in line()
    held = processes.take(home.place, "GPU-1", 2)
    assert held is not None
    assert "leased by" in line()
    assert "2/8" in line()
    for descriptor in held:
        os.close(descriptor)


def test_doctor_makes_no_queue(home: Bench) -> None:
    states = {found.what: found.found for found in examine_jobs(home.folder, home.machine)}
    assert states["job queue"].startswith("none yet")
    assert not home.folder.exists()


@pytest.fixture
def project_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    (folder / "project.toml").write_text(
        '[project]\nname = "p"\n[classes]\na = 0\nb = 1\n'
        '[[data]]\nimages = "images"\nmasks = "masks"\n[compute]\ngpus = 0\n'
    )
    return folder


def test_folds_are_jobs_of_one_group(
    home: Bench, project_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit_commands, "ensure_daemon", lambda: None)
    words = ("train", str(project_folder), "--set", "training.kfold=3")
    assert _say(submit_commands.submit, *words).split() == ["1", "2", "3"]
    jobs = home.queue.list()
    assert {job.group for job in jobs} == {"kfold-0001"}
    assert [Run(Path(job.run)).record().fold for job in jobs] == [1, 2, 3]
    assert _say(submit_commands.submit, *words, "--group", "night").split() == ["4", "5", "6"]
    assert {job.group for job in home.queue.list()} == {"kfold-0001", "night"}


def test_a_refused_training_leaves_no_folds_behind(
    home: Bench, project_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit_commands, "ensure_daemon", lambda: None)
    words = ("train", str(project_folder), "--set", "training.kfold=3", "--gpus", "64")
    result = CliRunner().invoke(submit_commands.submit, words)
    assert isinstance(result.exception, QueueError)
    assert not home.queue.list()
    assert not list((project_folder / "runs").iterdir())


def test_as_many_gpus_are_asked_for_as_there_are_processes(
    home: Bench, project_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(submit_commands, "ensure_daemon", lambda: None)

    def add(queue: Queue, folder: Path, **options: object) -> int:
        asked.append((Run(folder), options["gpus"]))
        return len(asked)

    monkeypatch.setattr(Queue, "add", add)
    for words in (("--set", "compute.gpus=4"), ("--gpus", "2"), ("--gpus", "0.5"), ("--gpus", "0")):
        _say(submit_commands.submit, "train", str(project_folder), *words)
    records = [run.record() for run, _ in asked]  # type: ignore[attr-defined]
    assert [gpus for _, gpus in asked] == [4.0, 2.0, 0.5, 0.0]  # type: ignore[misc]
    assert [processes_of(record.project) for record in records] == [4, 2, 1, 1]


def test_an_ended_training_is_queued_with_more_steps_and_nothing_else(
    home: Bench, project_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit_commands, "ensure_daemon", lambda: None)
    _say(submit_commands.submit, "train", str(project_folder))
    home.queue.cancel(1)
    run = project_folder / "runs" / "run-0001"
    extend = ("extend", str(run), "--set")
    with pytest.raises(InputError, match="cannot change a resumed run"):
        _say(submit_commands.submit, *extend, "model.head=pspnet")
    assert _say(submit_commands.submit, *extend, "training.steps=500").strip() == "2"
    project = Run(run).record().project
    assert project is not None and project.training.steps == 500
    with pytest.raises(QueueError, match="is job 2 of the queue"):
        _say(submit_commands.submit, *extend, "training.steps=600")
    project = Run(run).record().project
    assert project is not None and project.training.steps == 500


def test_an_extension_that_is_cancelled_while_it_waits_leaves_no_trace(
    home: Bench, project_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit_commands, "ensure_daemon", lambda: None)
    _say(submit_commands.submit, "train", str(project_folder))
    home.queue.cancel(1)
    run = Run(project_folder / "runs" / "run-0001")
    before = run.record_file.read_bytes()
    for number, steps in ((2, 500), (3, 900)):
        words = ("extend", str(run.folder), "--set", f"training.steps={steps}")
        assert _say(submit_commands.submit, *words).strip() == str(number)
        assert run.record_file.read_bytes() != before
        home.queue.pause(number)
        home.queue.cancel(number)
        assert run.record_file.read_bytes() == before
