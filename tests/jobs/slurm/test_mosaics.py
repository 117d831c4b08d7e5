"""One large image is one array of a real Slurm: its tasks, on two nodes, write one mask."""

import subprocess
import sys
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from emcfsys_engine.commands.jobs import jobs
from emcfsys_engine.jobs.control import ensure_daemon, stop_daemon
from emcfsys_engine.jobs.queue import Options, Queue, submit_run
from emcfsys_engine.run.events import ImageDone, RegionDone, RunFinished
from emcfsys_engine.run.folder import new_run
from emcfsys_engine.run.shards import Shards
from tests.jobs.conftest import wait_for
from tests.jobs.slurm.conftest import Slurm
from tests.jobs.slurm.test_training import WAIT_S, world
from tests.learn.inference.test_mosaic import (
    MOST,
    differing,
    done_by,
    mask_in,
    model,
    pixels_of,
    request_of,
    write_zarr,
)
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.slurm
__all__ = ["model", "world"]
SOON = timedelta(seconds=15)
FOLLOW = "from emcfsys_engine.commands.jobs import logs; logs()"


def test_a_mosaic_on_two_nodes_is_that_of_one_process_though_tasks_are_killed_and_requeued(
    tmp_path: Path, model: Path, slurm: Slurm
) -> None:
    image = tmp_path / "x.ome.zarr"
    write_zarr(image, pixels_of(1024, 1024))
    done_by(request_of(image, model, "alone", 0))
    request = request_of(image, model, "out", 4, shards_at_once=2)
    run = new_run(tmp_path / "out/.emcfsys", request)
    shards = Shards(run)

    def has_told(number: int) -> bool:
        file = shards.lines_file(number)
        return file.exists() and b'"became"' in file.read_bytes()

    with Queue.open() as queue:
        number = submit_run(queue, run, "mosaic", None, Options(slurm=True, gpus=0, cpus=4))
        follow = subprocess.Popen(
            [sys.executable, "-c", FOLLOW, "-f", str(number)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            ensure_daemon(queue.folder)
            wait_for(lambda: queue.get(number).slurm_id.isdecimal(), seconds=WAIT_S)
            name = queue.get(number).tasks_name

            def nodes() -> set[str]:
                return set(slurm.ask("squeue", "-h", "-t", "R", "-n", name, "-o", "%N").split())

            wait_for(lambda: len(nodes()) == 2, seconds=WAIT_S, what="a task on each node")
            array = slurm.ask("squeue", "-h", "-n", name, "-o", "%A").split()[0]
            wait_for(lambda: has_told(0), seconds=WAIT_S, what="a region of the first task")
            slurm.ask("scancel", "--signal=KILL", f"{array}_0")
            wait_for(lambda: has_told(1), seconds=WAIT_S, what="a region of the second task")
            slurm.ask("scontrol", "requeue", f"{array}_1")
            wait_for(
                lambda: "of 16 images and regions" in queue.get(number).reason,
                seconds=WAIT_S,
                what="its progress",
            )
            table = CliRunner().invoke(jobs).stdout.splitlines()
            wait_for(
                lambda: _hasten(slurm, f"{array}_1") or not queue.get(number).is_open,
                seconds=WAIT_S,
                what="its end",
            )
            assert queue.get(number).state == "done"
            told = follow.communicate(timeout=PATIENCE_S)[0]
        finally:
            follow.kill()
            stop_daemon(queue.folder)
    assert differing(mask_in(tmp_path / "alone"), mask_in(tmp_path / "out")) <= MOST
    regions = [event for event in run.events() if isinstance(event, RegionDone)]
    assert len({event.region for event in regions}) == len(regions) == 16
    assert len([event for event in run.events() if isinstance(event, ImageDone)]) == 1
    (end,) = (event for event in run.events() if isinstance(event, RunFinished))
    assert (end.done, end.failed) == (1, 0)
    assert len(table) == 2  # its titles, and one job
    assert "of 4 tasks done" in table[1]
    assert "of 4 tasks done" in told
    assert told.count(" of 16 done: ") == 16
    assert follow.returncode == 0


def _hasten(slurm: Slurm, task: str) -> None:
    """Let a requeued task start soon, whenever Slurm puts its start off by two minutes."""
    told = slurm.ask("squeue", "-h", "-t", "PENDING", "-j", task, "-o", "%r %S")
    reason, _, start = told.partition(" ")
    with suppress(ValueError, subprocess.CalledProcessError):
        if reason == "BeginTime" and datetime.fromisoformat(start) > datetime.now() + SOON:
            slurm.ask("scontrol", "update", f"JobId={task}", "StartTime=now")
