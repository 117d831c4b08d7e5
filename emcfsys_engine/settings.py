"""~/.config/emcfsys/config.toml: the user's own settings, and the only commands we execute."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import tomli
from msgspec import Meta

from emcfsys_engine.errors import ProjectError, ProjectFaults
from emcfsys_engine.project_faults import check_table, nearest
from emcfsys_engine.slurm_settings import SlurmDefaults, check_slurm

Argv = tuple[Annotated[str, Meta(min_length=1)], ...]
Seconds = Annotated[float, Meta(ge=0, le=86400)]


class Notify(msgspec.Struct, frozen=True, kw_only=True):
    """[notify]: what is executed when a job ended; facts come as EMCFSYS_JOB_… variables."""

    command: Argv = ()


class Hooks(msgspec.Struct, frozen=True, kw_only=True):
    """[hooks]: what is executed after an image of a hot folder has its mask; no shell."""

    image_done: Argv = ()


class JobSettings(msgspec.Struct, frozen=True, kw_only=True):
    """[jobs]: how the daemon shares the machine out."""

    grace_s: Seconds = 30.0  # between the request to end and the kill
    cpu_slots: Annotated[int, Meta(ge=1, le=4096)] | None = None  # None: one a usable core
    retry_wait_s: Seconds = 5.0  # before the first restart after a crash; doubles each time
    retry_longest_s: Seconds = 600.0
    backfill_s: Seconds = 600.0  # after that wait for a GPU, later jobs no longer overtake
    lock_folder: str | None = None  # of the GPU slot files; None: the machine's shared one


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The user's settings; every key has a good default."""

    notify: Notify = Notify()
    hooks: Hooks = Hooks()
    jobs: JobSettings = JobSettings()
    slurm: SlurmDefaults = SlurmDefaults()
    groups: dict[str, Annotated[int, Meta(ge=1)]] = {}  # [groups]: how many of a group run at once


_TABLES: Mapping[str, type[msgspec.Struct]] = {
    "notify": Notify,
    "hooks": Hooks,
    "jobs": JobSettings,
}


def config_file(environment: Mapping[str, str] = os.environ) -> Path:
    """Return where the user's settings are, whether there are any or not."""
    base = environment.get("XDG_CONFIG_HOME")
    home = Path(base) if base and Path(base).is_absolute() else Path.home() / ".config"
    return home / "emcfsys" / "config.toml"


def cache_home(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of what can be had again: facts of files, weights, compiled code."""
    base = environment.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "emcfsys"


def load_config(file: Path | None = None) -> Config:
    """Read the user's settings; without a file all are the defaults.

    Raises: ProjectFaults with every fault at once; ProjectError if it cannot be read, or if others
    may write it: it says what is executed.
    """
    file = file or config_file()
    document = _read(file)
    if document is None:
        return Config()
    faults: list[ProjectError] = []
    for key in document:
        if key not in (*_TABLES, "slurm", "groups"):
            remedy = nearest(key, [*_TABLES, "slurm", "groups"])
            faults.append(ProjectError(file, key, "is no table of config.toml", remedy))
    tables: dict[str, Any] = {
        name: check_table(file, name, document.get(name, {}), kind, faults)
        for name, kind in _TABLES.items()
    }
    tables["slurm"] = check_slurm(file, "slurm", document.get("slurm", {}), SlurmDefaults, faults)
    groups = _groups(file, document.get("groups", {}), faults)
    if faults:
        raise ProjectFaults(faults)
    return Config(**tables, groups=groups)


def _groups(file: Path, given: Any, faults: list[ProjectError]) -> dict[str, int]:
    try:
        return msgspec.convert(given, dict[str, Annotated[int, Meta(ge=1)]])
    except msgspec.ValidationError as error:
        remedy = "Write lines like night = 2: how many of a group run at once"
        faults.append(ProjectError(file, "groups", f"does not fit: {error}", remedy))
        return {}


def _read(file: Path) -> dict[str, Any] | None:
    try:
        with file.open("rb") as stream:
            status = os.fstat(stream.fileno())
            if status.st_uid not in (os.geteuid(), 0) or status.st_mode & 0o002:
                what = "may be written by others, and says what is executed"
                raise ProjectError(file, "", what, f"Own it and run chmod o-w {file}")
            return tomli.loads(stream.read().decode())
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise ProjectError(file, "", "is no UTF-8 text", "Save it as UTF-8") from None
    except tomli.TOMLDecodeError as error:
        raise ProjectError(file, "", f"is no valid TOML: {error}", "Mend that line") from None
    except OSError as error:
        raise ProjectError(file, "", f"cannot be read: {error.strerror}", "Mend it") from None
