"""A project around given data."""

from pathlib import Path

from emcfsys_engine.project import Project, load_project


def project_at(
    folder: Path, data: str, classes: str = "matrix = 0\nlarge = 1\nsmall = 2"
) -> Project:
    (folder / "project.toml").write_text(f'[project]\nname = "t"\n[classes]\n{classes}\n{data}')
    return load_project(folder)


GRAINS = {"resin": 0, "grain": 1}
