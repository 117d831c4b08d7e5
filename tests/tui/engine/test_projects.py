"""Which projects there are, and how many images each has."""

from pathlib import Path

import pytest

from emcfsys_engine.errors import InputError
from emcfsys_engine.project import load_project
from emcfsys_tui.engine.projects import count_images, find_projects, look_into
from emcfsys_tui.settings import Memory
from emcfsys_tui.view_models import NewProject


def test_projects_beside_us_and_recent_ones_are_found_once(demo: Path, world: Path) -> None:
    demo.rename(world / "elsewhere")
    (world / "projects").mkdir()
    for name in ("b", "a", "none"):
        (world / "projects" / name).mkdir()
    for name in ("a", "b"):
        (world / "projects" / name / "project.toml").touch()
    gone, near = str(world / "gone"), str(world / "projects" / "a")
    found = find_projects(Memory(recent=(str(world / "elsewhere"), gone, near)))
    assert [folder.name for folder in found] == ["a", "b", "elsewhere"]


def test_images_and_their_labels_are_counted_by_names(demo: Path) -> None:
    images, labels = count_images(load_project(demo))
    assert images >= labels > 0


def test_a_folder_without_images_is_refused_with_the_engines_words(world: Path) -> None:
    (world / "empty").mkdir()
    with pytest.raises(InputError, match="image"):
        look_into(NewProject(folder=world / "empty"))
