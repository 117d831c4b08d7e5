"""A function that writes a project around images and masks."""

from pathlib import Path

import pytest

from emcfsys_engine.project import Project, load_project
from tests.dataset.made import TWO, Maker


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Maker:
    """Return a function that writes a project around images and masks."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def made(data: str, classes: str = TWO) -> Project:
        text = f'[project]\nname = "t"\n[classes]\n{classes}\n{data}'
        (tmp_path / "project.toml").write_text(text)
        return load_project(tmp_path)

    return made
