"""The worker of a run in shards has an output folder for itself."""

import os
from pathlib import Path

import pytest

from emcfsys_engine.errors import InputError
from emcfsys_engine.files import DiskFullError
from emcfsys_engine.run.events import RunFailed
from emcfsys_engine.run.folder import new_run
from emcfsys_engine.run.records import MeasureRequest
from emcfsys_engine.shards import runner
from emcfsys_engine.shards.runner import only_one
from tests.contracts.test_import_cost import loaded_after
from tests.shards.made import Here, run_here
from tests.tools.drawn_masks import blobs, save_mask


def test_two_people_who_start_the_same_are_told(tmp_path: Path) -> None:
    lock = only_one(tmp_path / "out")
    with pytest.raises(InputError, match="another run in shards writes into it"):
        only_one(tmp_path / "out")
    os.close(lock)
    os.close(only_one(tmp_path / "out"))


class _InVain(Here):
    """A task that could not even say that its disk is full."""

    def __init__(self, run: object, environment: object) -> None:
        self.returncode = InputError.exit_code


def test_tasks_that_end_without_a_word_on_a_full_disk_are_told_as_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: object) -> None:
        raise DiskFullError(tmp_path)

    save_mask(tmp_path / "masks/a.png", blobs(1), (5.0, 5.0))
    request = MeasureRequest(masks=str(tmp_path / "masks"), out=str(tmp_path / "out"))
    monkeypatch.setattr(runner, "started", _InVain)
    for number, words in enumerate(("see log.txt.", "is full. Free some space, then go on.")):
        run = new_run(tmp_path / "out/.emcfsys", request)
        if number:
            monkeypatch.setattr(runner, "refuse_full", full)
        assert run_here(run) == 1
        (ending,) = (event for event in run.events() if isinstance(event, RunFailed))
        assert f"{words} What is done is kept" in ending.reason


def test_a_run_in_shards_is_begun_without_torch() -> None:
    modules = "emcfsys_engine.learn.worker, emcfsys_engine.shards.runner"
    loaded = loaded_after(f"import {modules}, emcfsys_engine.shards.task")
    assert not loaded & {"torch", "timm", "segmentation_models_pytorch", "scipy", "skimage"}
