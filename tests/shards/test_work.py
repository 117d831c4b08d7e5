"""A run has the shards of its own command, or none."""

from pathlib import Path

import pytest

from emcfsys_engine.errors import RunFolderError
from emcfsys_engine.run.folder import new_run
from emcfsys_engine.run.records import PredictRequest, TrainRequest
from emcfsys_engine.shards.work import work_of


def test_a_run_of_a_command_without_shards_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="a train run has no shards"):
        work_of(new_run(tmp_path, TrainRequest()))


def test_a_run_gets_the_work_of_its_command(tmp_path: Path) -> None:
    request = PredictRequest(model="/m", inputs=("/in",), out="/out", shards=2)
    work = work_of(new_run(tmp_path, request))
    assert work.request == request
    assert work.called == "images"
