"""How a job ended, by Slurm's accounts where its controller forgot it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from emcfsys_engine.commands.doctor import examine_slurm
from tests.jobs.conftest import wait_for
from tests.jobs.slurm.conftest import PATIENCE_S, Slurm, SlurmBench, made_slurm

pytestmark = pytest.mark.slurm


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
