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
    made = systemd.install(bench.folder)
    text = made.file.read_text()
    assert f'"{sys.executable}" "-m" "emcfsys_engine.jobs.daemon" "{bench.folder}"' in text
    assert "KillMode=process" in text
    assert not made.is_enabled
    assert "there is no systemd here" in made.notes[0]
    assert "enable-linger" in made.notes[1]
    odd = systemd.unit_text(Path('/a b/50%/$x"'))
    assert '"/a b/50%%/$$x\\""' in odd
