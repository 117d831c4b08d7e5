"""A real Slurm for the session, a queue with a real daemon beside it, and runs for a stand-in."""

import math
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import pytest

from emcfsys_engine.jobs.job import Job
from emcfsys_engine.run.folder import Run
from tests.jobs.conftest import Bench, wait_for
from tests.waiting import PATIENCE_S

HERE = Path(__file__).parent
COMMANDS = ("sbatch", "squeue", "sacct", "scancel", "scontrol", "sinfo")
REAL_PATH = f"{os.environ['PATH']}:/usr/sbin"


class Slurm:
    """A running Slurm: its environment, its daemons, and every call of its commands."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.settings = settings
        self.calls_file = folder / "calls"
        self.environment: dict[str, str] = {}

    def up(self) -> None:
        """Start what does not run; skip where Slurm cannot be had."""
        self.folder.mkdir(exist_ok=True)
        has_slurm = all(shutil.which(name, path=REAL_PATH) for name in ("slurmctld", "munged"))
        if not has_slurm and (os.geteuid() != 0 or shutil.which("apt-get") is None):
            pytest.skip("Slurm is not installed; its tests install it as root with apt")
        done = subprocess.run(
            [str(HERE / "slurm-up.sh")],
            env=self._env(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 3:
            pytest.skip(f"no Slurm can be installed here: {done.stdout.strip()[-200:]}")
        assert done.returncode == 0, done.stdout + done.stderr
        self._wrap()

    def down(self) -> None:
        """Stop everything and leave nothing."""
        subprocess.run(
            [str(HERE / "slurm-down.sh")],
            env=self._env() | {"PURGE": "1"},
            check=False,
            timeout=120,
        )

    def ask(self, *words: str) -> str:
        """Call one of Slurm's commands, uncounted."""
        real = shutil.which(words[0], path=REAL_PATH)
        assert real is not None
        env = {**os.environ, **self.environment}
        done = subprocess.run(
            [real, *words[1:]], env=env, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def state(self, job: Job) -> str:
        """Return a job's state and reason as Slurm tells them."""
        return self.ask("squeue", "-h", "-t", "all", "-j", job.slurm_id, "-o", "%T %r %N")

    def starts_in(self, job: Job) -> float:
        """Return the seconds until a waiting job may start; infinity for one that does not wait."""
        told = self.ask("squeue", "-h", "-t", "PENDING", "-j", job.slurm_id, "-o", "%S")
        try:
            return (datetime.fromisoformat(told) - datetime.now()).total_seconds()
        except ValueError:  # nothing, or N/A
            return math.inf

    def calls(self, program: str) -> list[str]:
        """Return how the daemon called one of the commands since the test began."""
        lines = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
        return [line for line in lines if line.split()[0] == program]

    def kill_controller(self, number: int = signal.SIGKILL) -> None:
        """End the controller as a crash would, or with another signal in its own good time."""
        self._kill("slurmctld", number)

    def start_controller(self, *options: str) -> None:
        """Start the controller again."""
        env = {**os.environ, **self.environment}
        subprocess.run(["/usr/sbin/slurmctld", *options], env=env, check=True, timeout=PATIENCE_S)
        wait_for(lambda: self._answers(), seconds=PATIENCE_S, what="the controller's answer")

    def kill_node(self, node: str, job: Job) -> None:
        """Let a node fail: its daemon and the step daemons of a job on it are gone at once."""
        self._kill(f"slurmd.{node}")
        for place in Path("/proc").glob("[0-9]*"):
            try:
                told = (place / "cmdline").read_bytes().split(b"\0")[0].decode()
            except OSError:
                continue
            if told.startswith(f"slurmstepd: [{job.slurm_id}."):
                os.kill(int(place.name), signal.SIGKILL)

    def _kill(self, name: str, number: int = signal.SIGKILL) -> None:
        file = self.folder / "run" / f"{name}.pid"
        pid = int(file.read_text())
        os.kill(pid, number)
        wait_for(lambda: not Path(f"/proc/{pid}/cmdline").exists(), what=f"the end of {name}")
        file.unlink(missing_ok=True)

    def _answers(self) -> bool:
        try:
            return "UP" in self.ask("scontrol", "ping")
        except subprocess.CalledProcessError:
            return False

    def _wrap(self) -> None:
        """Put commands that are counted before the real ones; all else is Slurm's own."""
        place = self.folder / "bin"
        place.mkdir(exist_ok=True)
        for name in COMMANDS:
            real = shutil.which(name, path=REAL_PATH)
            text = f'#!/bin/sh\necho {name} "$@" >>{self.calls_file}\nexec {real} "$@"\n'
            (place / name).write_text(text)
            (place / name).chmod(0o755)
        self.environment = {
            "SLURM_CONF": str(self.folder / "etc" / "slurm.conf"),
            "PATH": f"{place}:{REAL_PATH}",
        }

    def _env(self) -> dict[str, str]:
        return {**os.environ, "SLURM_TEST_DIR": str(self.folder), **self.settings}


def made_slurm(port: int, **settings: str) -> Iterator[Slurm]:
    """Yield a Slurm of its own, in a folder whose name is short enough for its sockets."""
    place = Path(tempfile.mkdtemp(prefix="slurm-", dir="/var/tmp"))
    place.chmod(0o755)
    slurm = Slurm(place, SLURM_TEST_PORT=str(port), **settings)
    try:
        slurm.up()
        yield slurm
    finally:
        slurm.down()


@pytest.fixture(scope="session")
def slurm_session() -> Iterator[Slurm]:
    """Two nodes with two stand-in GPUs each, without accounting."""
    yield from made_slurm(
        28000 + os.getpid() % 1500 * 2,
        NODES="2",
        GPUS="2",
        CPUS="4",
        KILLWAIT="5",
        SLURMD_TIMEOUT="5",
        GRACETIME="20",
    )


@pytest.fixture
def slurm(slurm_session: Slurm, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    """The session's Slurm, without jobs, and as the one that commands find."""
    slurm_session.calls_file.unlink(missing_ok=True)
    for name, text in slurm_session.environment.items():
        monkeypatch.setenv(name, text)
    yield slurm_session
    slurm_session.ask("scancel", "--me")
    wait_for(
        lambda: not slurm_session.ask("squeue", "-h"), seconds=PATIENCE_S, what="an empty Slurm"
    )


class SlurmBench(Bench):
    """A state folder and runs on a disk that the nodes share; quick looks at Slurm."""

    def configure(self, text: str = "", slurm: str = "") -> None:
        """Write the settings: a look each half second, little patience for late files."""
        jobs = text or "grace_s = 20\nretry_wait_s = 0.1"
        told = f"[jobs]\n{jobs}\n[slurm]\npoll_s = 0.5\nlate_s = 5\n{slurm}\n"
        (self.place / "settings.toml").write_text(told)

    def submit(self, run: Run, **request: object) -> int:
        """Hand a run to Slurm; one processor, no GPU unless said otherwise."""
        words = {"cpus": 1, "gpus": 0, "slurm": True, "resume": "auto", **request}
        number = self.queue.add(run.folder, project_name="test", **words)  # type: ignore[arg-type]
        self.start()
        return number

    def await_state(self, job_id: int, *states: str) -> Job:
        """Wait until a job is in one of these states, as long as a busy machine needs."""
        return self.wait(job_id, *states, seconds=PATIENCE_S)

    def await_reason(self, job_id: int, *parts: str) -> Job:
        """Wait until a job's reason says so."""

        def found() -> bool:
            return all(part in self.queue.get(job_id).reason for part in parts)

        try:
            wait_for(found, seconds=PATIENCE_S)
        except AssertionError:
            raise AssertionError(f"{self.queue.get(job_id)}: {parts}") from None
        return self.queue.get(job_id)

    def await_start(self, run: Run, number: int = 1) -> None:
        """Wait until a run's worker has begun that often; else tell what Slurm did instead."""
        try:
            wait_for(lambda: self.starts(run) >= number, seconds=PATIENCE_S, what=f"start {number}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self._story()}") from None

    def _story(self) -> str:
        """The queue, Slurm's view of it, and the last of what its controller and nodes wrote."""
        folder = Path(os.environ["SLURM_CONF"]).parent.parent
        queue = subprocess.run(["squeue", "-t", "all"], capture_output=True, text=True, check=False)
        logs = [
            file.read_text(errors="replace")[-2500:] for file in (folder / "log").glob("slurm*")
        ]
        jobs = [str(job) for job in self.queue.list()]
        return "\n".join([*jobs, queue.stdout, *logs])

    def states(self, job_id: int) -> Sequence[str]:
        """Return the states a job went through, each once in a row."""
        told = [line.state for line in self.queue.history(job_id)]
        return [one for one, before in zip(told, ["", *told], strict=False) if one != before]


@pytest.fixture
def bench(tmp_path: Path, slurm: Slurm) -> Iterator[SlurmBench]:
    """A state folder with everything around it."""
    made = SlurmBench(tmp_path)
    yield made
    made.close()
