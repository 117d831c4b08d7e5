"""The demo trains through Slurm from the interface."""

import shutil
from pathlib import Path

import pytest

from emcfsys_engine.jobs.control import stop_daemon
from emcfsys_engine.jobs.queue import Queue
from emcfsys_engine.run.folder import Run
from emcfsys_tui.widgets.list import Rows
from emcfsys_tui.widgets.train_pane import TrainPane
from tests.jobs.slurm.conftest import Slurm
from tests.tui.conftest import opened, until

pytestmark = pytest.mark.slurm
ROOT = Path(__file__).parents[3]


async def test_the_interface_submits_to_slurm_and_shows_the_job_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slurm: Slurm
) -> None:
    place = tmp_path / "config" / "emcfsys"
    place.mkdir(parents=True)
    (place / "config.toml").write_text("[slurm]\npoll_s = 0.5\n")
    for name, text in {
        "XDG_CONFIG_HOME": tmp_path / "config",
        "EMCFSYS_HOME": tmp_path / "state",
        "PYTHONPATH": ROOT,
        "OMP_NUM_THREADS": 1,
    }.items():
        monkeypatch.setenv(name, str(text))
    demo = tmp_path / "demo"
    shutil.copytree(ROOT / "projects" / "demo", demo, ignore=shutil.ignore_patterns("runs"))
    text = (demo / "project.toml").read_text().partition("[training]")[0]
    text += (
        "\n[training]\nsteps = 2\npatch_px = 64\nbatch = 2\n"
        '[compute]\nexecutor = "slurm"\ngpus = 0\nthreads = 1\n'
    )
    (demo / "project.toml").write_text(text)
    try:
        async with opened(demo, "2", size=(160, 40)) as pilot:
            pane = pilot.app.screen.query_one(TrainPane)
            await until(pilot, lambda: bool(pane.verdict.command))
            await pilot.press("s")
            with Queue.open() as queue:
                await until(pilot, lambda: queue.list())
                await until(pilot, lambda: queue.get(1).slurm_id.isdecimal())
                await until(pilot, lambda: queue.get(1).state == "running")
                await pilot.press("5")
                rows = pilot.app.screen.query_one("JobsPane Rows", Rows)
                await until(pilot, lambda: _says(rows, "Slurm "))
                await until(pilot, lambda: not queue.get(1).is_open, limit_s=200)
                assert queue.get(1).state == "done", queue.get(1)
                await until(pilot, lambda: _says(rows, "done"))
                assert Run(Path(queue.get(1).run)).final_model.exists()
    finally:
        stop_daemon(tmp_path / "state")


def _says(rows: Rows, text: str) -> bool:
    return any(text in cell for row in rows.rows for cell in row.cells)
