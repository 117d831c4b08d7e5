"""A queue's home for commands."""

import pytest

from tests.jobs.conftest import Bench, bench

__all__ = ["bench"]


@pytest.fixture
def home(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setenv("EMCFSYS_HOME", str(bench.folder))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(bench.place / "config"))
    return bench
