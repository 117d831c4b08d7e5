"""Which [[data]] table of a project labels belong to, when a command is given their place."""

from pathlib import Path

from emcfsys_engine.annotations.pairing import root_of
from emcfsys_engine.project import Project, Source


def source_of(project: Project, place: str, base: Path) -> Source | None:
    """Return the table whose own masks or annotations lie at a place, or have it inside them.

    What its [data.labels] says holds for these: predictions elsewhere hold the classes' values.
    """
    wanted = _resolved(place, base)
    for source in project.data:
        own = source.masks or source.annotations
        if own is not None:
            root = _resolved(own, project.folder)
            if wanted == root or root in wanted.parents:
                return source
    return None


def _resolved(pattern: str, base: Path) -> Path:
    """Return the folder or file that a pattern begins at."""
    whole = base / Path(pattern).expanduser()
    return (whole if whole.exists() else root_of(pattern, base)).resolve()
