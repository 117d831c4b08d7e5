"""A run's folder tells everything about the run."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from emcfsys_engine.errors import RunFolderError
from emcfsys_engine.files import write_whole
from emcfsys_engine.run import folder as run_module
from emcfsys_engine.run.events import (
    EventWriter,
    RunFinished,
    RunInterrupted,
    RunResumed,
    RunStarted,
)
from emcfsys_engine.run.folder import Run, new_run, open_run
from emcfsys_engine.run.records import TrainRequest


def test_runs_are_numbered_and_none_is_made_twice(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: new_run(tmp_path, TrainRequest()).id, range(24)))
    assert sorted(made) == [f"run-{number:04d}" for number in range(1, 25)]


def test_a_folder_without_a_run_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="is no run"):
        open_run(tmp_path)


def test_the_outcome_is_that_of_the_last_start(tmp_path: Path) -> None:
    run = new_run(tmp_path, TrainRequest())
    assert run.state() == "new"
    with EventWriter(run.events_file) as writer:
        writer.write(RunStarted(run=run.id, does="train"))
        assert run.state() == "lost"
        writer.write(RunInterrupted(step=3))
        assert run.outcome() == ("interrupted", "terminated")
        writer.write(RunStarted(run=run.id, does="train"))
        writer.write(RunResumed(step=3))
        assert run.state() == "lost"
        writer.write(RunFinished(reason="steps", step=5))
        assert run.outcome() == ("done", "steps")


def test_a_failed_write_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "best.safetensors"
    write_whole(file, b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run_module.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(file, b"new")
    assert file.read_bytes() == b"old"
    assert os.listdir(tmp_path) == [file.name]


def test_asking_leaves_word_for_the_worker(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert run.asked() is None
    run.ask("stop")
    assert run.asked() == "stop"


def test_a_run_of_a_command_of_a_later_version_is_named(tmp_path: Path) -> None:
    run = new_run(tmp_path, TrainRequest())
    content = run.record_file.read_text().replace('"train"', '"dream"')
    run.record_file.write_text(content)
    with pytest.raises(RunFolderError, match="asks for what this version does not know. Update"):
        run.record()
