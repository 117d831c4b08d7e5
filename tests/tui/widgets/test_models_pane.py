"""Models by IoU, and which the hot folder uses."""

import shutil
from pathlib import Path

from emcfsys_engine.project import load_project
from tests.hotfolder.test_status import finished
from tests.tui.conftest import opened, screen_text, until


async def test_models_stand_by_iou_and_a_star_says_which_the_hot_folder_uses_and_why(
    project: Path,
) -> None:
    with (project / "project.toml").open("a") as file:
        if "[hotfolder]" not in (project / "project.toml").read_text():
            file.write('\n[hotfolder]\nwatch = "incoming"\n')
    loaded = load_project(project)
    for iou in (0.910, 0.227, None, 0.850):
        finished(loaded, iou, classes=loaded.class_names)
    async with opened(project, "6", size=(100, 24)) as pilot:
        await until(pilot, lambda: "★" in screen_text(pilot))
        await until(pilot, lambda: "best IoU 0.910 of 4 finished runs" in screen_text(pilot))
        lines = [line for line in screen_text(pilot).split("\n") if "run-000" in line]
        assert [line.split("run-000")[1][0] for line in lines[:4]] == ["1", "4", "2", "3"]
        assert "★" in lines[0]


async def test_a_project_that_is_deleted_underneath_is_said_to_be_gone(demo: Path) -> None:
    async with opened(demo, "6", size=(100, 24)) as pilot:
        await until(pilot, lambda: "No model files yet" in screen_text(pilot))
        shutil.rmtree(demo)
        await until(pilot, lambda: "The project is gone" in screen_text(pilot))
        await pilot.press("3")
        await until(pilot, lambda: "The project is gone" in screen_text(pilot))
