"""Folders of what a run's disk did not take."""

from pathlib import Path

import pytest

from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.rescue import rescue_folder, rescued


def test_each_start_has_a_folder_of_its_own_and_all_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    run, other = Run(tmp_path / "a/run-0001"), Run(tmp_path / "b/run-0001")
    assert rescued(run) == []
    made: list[Path] = []
    for _ in range(3):
        made.append(rescue_folder(run))
        made[-1].mkdir(parents=True)
    assert rescued(run) == made
    assert rescued(other) == []
