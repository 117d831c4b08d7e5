"""Whose project a run is of: paths in its run.json are found again wherever that lies now."""

from pathlib import Path

import msgspec

from emcfsys_engine.files import identity_of
from emcfsys_engine.run.records import RunRecord, with_paths

_HERE = "./"  # of a path in the project's folder, in run.json


def portable(record: RunRecord, folder: Path) -> RunRecord:
    """Return a record as it is written: what is inside the project, by its path in it.

    `folder`: of the run, absolute.
    """
    project = record.project
    if project is None or not _are_one(folder.parent, project.runs_folder):
        return record
    home = project.folder

    def inside(text: str) -> str:
        path = Path(text)
        return str(path.relative_to(home)) if path.is_relative_to(home) else text

    def marked(text: str) -> str:
        path = Path(text)
        return f"{_HERE}{path.relative_to(home)}" if path.is_relative_to(home) else text

    record = msgspec.structs.replace(record, home=str(home))
    return with_paths(record, inside, inside(project.file_name), marked)


def found_here(record: RunRecord, folder: Path) -> RunRecord:
    """Return a record with absolute paths, where the project is now: it may be a copy.

    `folder`: of the run, absolute.
    """
    project = record.project
    if project is None:
        return record
    is_old = project.file.is_absolute()  # as older versions wrote it
    before = project.folder if is_old else Path(record.home or folder.parent.parent)
    home = _home(folder, before)
    file = home / project.file.name
    if is_old and (folder.parent.name != "runs" or not file.is_file()):
        return record

    def here(text: str) -> str:
        path = Path(text)
        if is_old and path.is_relative_to(before):
            return str(home / path.relative_to(before))
        return str(home / path) if text.startswith(_HERE) else text

    def of_data(text: str) -> str:  # relative ones are the person's own words
        return here(text) if Path(text).is_absolute() else text

    return with_paths(record, of_data, str(file), here)


def is_of(record: RunRecord, project_folder: Path) -> bool:
    """Tell whether a run, as its record was found, is of a project rather than of another's.

    Projects whose folders of runs are links to one see each other's.
    """
    project = record.project
    return project is None or _are_one(project.folder, project_folder)


def _home(folder: Path, before: Path) -> Path:
    """Return the folder of a run's project: where it was, while its runs are still these ones."""
    here = folder.parent.parent
    return before if before != here and _are_one(before / "runs", folder.parent) else here


def _are_one(one: Path, other: Path) -> bool:
    """Tell whether two paths lead to one folder, that is there."""
    return one == other or identity_of(one) == identity_of(other) is not None
