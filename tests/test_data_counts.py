"""Counts of a project's images are remembered until a file comes or goes."""

import os
from pathlib import Path

import pytest

from emcfsys_engine.data_counts import recall_counts, remember_counts
from emcfsys_engine.project import Project, load_project
from emcfsys_engine.settings import cache_home


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, ns=(1, 1))
    text = '[project]\nname = "p"\n[classes]\na = 0\nb = 1\n[[data]]\nimages = "images"\n'
    (tmp_path / "project.toml").write_text(text + 'masks = "masks"\n')
    return load_project(tmp_path)


def test_what_was_counted_is_known_until_a_file_comes(project: Project) -> None:
    assert recall_counts(project) is None
    remember_counts(project, 9, 4)
    assert recall_counts(project) == (9, 4)
    (project.folder / "images" / "new.tif").touch()
    assert recall_counts(project) is None


@pytest.mark.parametrize("damage", [b"", b"{", b'{"images": "x"}', b"[1]"])
def test_a_damaged_memory_is_none(damage: bytes, project: Project) -> None:
    remember_counts(project, 9, 4)
    (file,) = cache_home().glob("counts-*.json")
    file.write_bytes(damage)
    assert recall_counts(project) is None


def test_where_nothing_can_be_written_nothing_is_remembered(project: Project) -> None:
    cache_home().parent.mkdir(parents=True, exist_ok=True)
    cache_home().touch()
    remember_counts(project, 9, 4)
    assert recall_counts(project) is None
