"""The engine's front door: names are imported on first use, so that `--help` stays fast."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from emcfsys_engine.errors import EmcfError, InputError, ProjectError, ProjectFaults
    from emcfsys_engine.project import Project, load_project
    from emcfsys_engine.run.events import Event, EventReader
    from emcfsys_engine.run.folder import Run, new_run, open_run

__all__ = [
    "EmcfError",
    "Event",
    "EventReader",
    "InputError",
    "Project",
    "ProjectError",
    "ProjectFaults",
    "Run",
    "__version__",
    "load_project",
    "new_run",
    "open_run",
]

_HOME_OF = {
    "EmcfError": "errors",
    "Event": "run.events",
    "EventReader": "run.events",
    "InputError": "errors",
    "Project": "project",
    "ProjectError": "errors",
    "ProjectFaults": "errors",
    "Run": "run.folder",
    "load_project": "project",
    "new_run": "run.folder",
    "open_run": "run.folder",
}


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(import_module(f"emcfsys_engine.{_HOME_OF[name]}"), name)
    raise AttributeError(f"module 'emcfsys_engine' has no attribute {name!r}")
