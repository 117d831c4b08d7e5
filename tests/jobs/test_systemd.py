"""The unit that starts the daemon with the machine."""

import sys
from pathlib import Path

import pytest

from emcfsys_engine.jobs import systemd
from tests.jobs.conftest import Bench


def test_unit_runs_this_interpreter_and_leaves_jobs_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(bench.place))  # no systemctl, no loginctl
    monkeypatch.setenv("XDG_CONFIG_HOME", str(bench.place / "config"))
    made = systemd.install(bench.folder)
    text = made.file.read_text()
    assert f'"{sys.executable}" "-m" "emcfsys_engine.jobs.daemon" "{bench.folder}"' in text
    assert "KillMode=process" in text
    assert not made.is_enabled
    assert "there is no systemd here" in made.notes[0]
    assert "enable-linger" in made.notes[1]
    odd = systemd.unit_text(Path('/a b/50%/$x"'))
    assert '"/a b/50%%/$$x\\""' in odd


def test_a_unit_that_a_person_changed_is_kept_beside_the_new_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(bench.place))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(bench.place / "config"))
    file = systemd.install(bench.folder).file
    for number in (1, 2):
        mine = file.read_text() + f"# CUDA_VISIBLE_DEVICES={number}\n"
        file.write_text(mine)
        made = systemd.install(bench.folder)
        assert file.with_name(f"{file.name}.before-{number}").read_text() == mine
        assert f"kept as {file.name}.before-{number}" in made.notes[0]
    again = systemd.install(bench.folder)
    assert len(list(file.parent.iterdir())) == 3
    assert "kept as" not in again.notes[0]
