"""What is said to Slurm: [compute.slurm] of a project, and the user's own [slurm] beneath it."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from emcfsys_engine.errors import ProjectError
from emcfsys_engine.project_faults import check_table, nearest

Word = Annotated[str, Meta(min_length=1, pattern=r"^[^\s\x00-\x1f]+$")]
Seconds = Annotated[float, Meta(ge=0.1, le=3600)]

# In full, as sbatch takes any unique beginning. None of these executes, reads or writes a file.
_EXTRA = """
    begin constraint prefer contiguous core-spec cores-per-socket cpus-per-gpu deadline
    distribution exclude exclusive gpu-freq gpus-per-node hint licenses mail-type mail-user
    mem-per-cpu mem-per-gpu mincpus nice nodelist oversubscribe reservation sockets-per-node
    spread-job switches thread-spec threads-per-core time-min tmp use-min-nodes wckey
"""
EXTRA = tuple(_EXTRA.split())


class SlurmSettings(msgspec.Struct, frozen=True, kw_only=True):
    """[compute.slurm]: what is asked of the cluster; None means the user's default, else its own.

    Units: `warn_s` is how long before the time limit a job is told to save.
    """

    partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    gres: Word | None = None  # instead of what compute.gpus makes of it: gpu:a100:1
    time: Annotated[str, Meta(pattern=r"^\d+(-\d+)?(:\d+){0,2}$")] | None = None
    memory: Annotated[str, Meta(pattern=r"^\d+[KMGT]?$")] | None = None  # a node: 32G
    cpus: Annotated[int, Meta(ge=1, le=4096)] | None = None  # a node
    warn_s: Annotated[int, Meta(ge=10, le=65535)] | None = None
    extra: tuple[str, ...] = ()  # long options of sbatch: "--constraint=a100"


class SlurmDefaults(SlurmSettings, frozen=True, kw_only=True):
    """[slurm] of the user's own config.toml: defaults for every project, and the prolog.

    Units: seconds between two looks at Slurm; seconds that a file of another node may be late.
    """

    prolog: tuple[str, ...] = ()  # lines of shell before each worker: module load, conda activate
    poll_s: Seconds = 20.0
    late_s: Seconds = 90.0
    requeues: Annotated[int, Meta(ge=0, le=1000)] = 3  # in a row without progress


def check_slurm(
    file: Path, key: str, given: Any, kind: type[SlurmSettings], faults: list[ProjectError]
) -> SlurmSettings:
    """Return a table of Slurm's settings, and add every fault of it."""
    if isinstance(given, dict) and "prolog" in given and kind is SlurmSettings:
        what = "is executed, so it is read from your own config.toml only"
        remedy = "Write it into [slurm] of ~/.config/emcfsys/config.toml"
        faults.append(ProjectError(file, f"{key}.prolog", what, remedy))
        given = {name: value for name, value in given.items() if name != "prolog"}
    made = check_table(file, key, given, kind, faults) or kind()
    for word in made.extra:
        name = re.fullmatch(r"--([a-z-]+)(=[^\x00-\x1f]*)?", word)
        if name is None or name[1] not in EXTRA:
            what = f"{word!r} may not be passed on to sbatch"
            remedy = nearest(name[1] if name else word, EXTRA)
            faults.append(ProjectError(file, f"{key}.extra", what, remedy))
    return made


def merged(asked: SlurmSettings, defaults: SlurmDefaults) -> SlurmSettings:
    """Return what a project asks for, and the user's default wherever it asks nothing."""
    names = [field.name for field in msgspec.structs.fields(SlurmSettings) if field.name != "extra"]
    values = {
        name: getattr(defaults, name) if getattr(asked, name) is None else getattr(asked, name)
        for name in names
    }
    return SlurmSettings(**values, extra=_both(defaults.extra, asked.extra))


def _both(first: Sequence[str], then: Sequence[str]) -> tuple[str, ...]:
    """Return the options of both; a project's replaces the default of the same name."""
    named = {word.partition("=")[0]: word for word in (*first, *then)}
    return tuple(named.values())
