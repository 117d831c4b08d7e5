"""~/.config/emcfsys/config.toml: the user's own settings, and the only commands we execute."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import tomli
from msgspec import Meta

from emcfsys_engine.errors import ProjectError, ProjectFaults
from emcfsys_engine.files import read_own, reading, temporary_of, write_whole
from emcfsys_engine.text import for_shell

Table = TypeVar("Table", bound=msgspec.Struct)
_KEY, _KEY_BYTES = "run.key", 32


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a remedy: the known word that is nearest, or all of them."""
    names = list(known)
    close = get_close_matches(word, names, n=1, cutoff=0.5)
    return f"Did you mean {close[0]!r}?" if close else f"Known are {', '.join(names)}"


def unknown_keys(
    file: Path, prefix: str, given: Iterable[str], known: Iterable[str]
) -> list[ProjectError]:
    """Return a fault for each key that is not known."""
    names = list(known)
    what = f"is no key of {file.name}"
    return [
        ProjectError(file, f"{prefix}.{key}" if prefix else key, what, nearest(key, names))
        for key in given
        if key not in names
    ]


def check_table(
    file: Path, name: str, given: Any, kind: type[Table], faults: list[ProjectError]
) -> Table | None:
    """Add every fault of the table to `faults` and return it; None where a needed key is missing.

    A faulty key takes its default, so that checks across keys can still name their own faults.
    """
    if not isinstance(given, Mapping):
        faults.append(ProjectError(file, name, "is no table", f"Write [{name}]"))
        return None
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    found = unknown_keys(file, name, given, fields)
    complete = True
    values: dict[str, Any] = {}
    for key, field in fields.items():
        if key in given:
            try:
                values[key] = msgspec.convert(given[key], field.type)
            except msgspec.ValidationError as error:
                what = f"{given[key]!r} does not fit: {_plain(error)}"
                found.append(ProjectError(file, f"{name}.{key}", what, _choices(field.type)))
        elif field.required:
            found.append(ProjectError(file, f"{name}.{key}", "is missing", "Add it"))
        complete = complete and (key in values or not field.required)
    faults.extend(found)
    return kind(**values) if complete else None


def _plain(error: msgspec.ValidationError) -> str:
    text = str(error)
    return text[:1].lower() + text[1:]


def _choices(kind: Any) -> str:
    words: list[str] = []
    for info in _flat(msgspec.inspect.type_info(kind)):
        if isinstance(info, msgspec.inspect.LiteralType):
            words += [str(value) for value in info.values]
    return f"Use one of {', '.join(words)}" if words else "Mend the value"


def _flat(info: Any) -> list[Any]:
    if isinstance(info, msgspec.inspect.Metadata):
        return _flat(info.type)
    return list(info.types) if isinstance(info, msgspec.inspect.UnionType) else [info]


Word = Annotated[str, Meta(min_length=1, pattern=r"^[^\s\x00-\x1f]+$")]
_PollSeconds = Annotated[float, Meta(ge=0.1, le=3600)]

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
    poll_s: _PollSeconds = 20.0
    late_s: _PollSeconds = 90.0
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


Argv = tuple[Annotated[str, Meta(min_length=1)], ...]
Seconds = Annotated[float, Meta(ge=0, le=86400)]


class Notify(msgspec.Struct, frozen=True, kw_only=True):
    """[notify]: what is executed when a job ended; facts come as EMCFSYS_JOB_… variables."""

    command: Argv = ()


class Hooks(msgspec.Struct, frozen=True, kw_only=True):
    """[hooks]: what is executed after an image of a hot folder has its mask; no shell."""

    image_done: Argv = ()
    group_judged: Argv = ()  # a group has a verdict for the first time, or another one


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


def own_key(*, make: bool = False) -> bytes:
    """Return the secret by which we know again what we wrote ourselves; b"" where there is none.

    `make`: and it is made, if it can be. No variable but HOME says where it is.
    """
    with suppress(OSError, RuntimeError):  # without a home
        file = Path.home() / ".config" / "emcfsys" / _KEY
        if make and not file.exists():
            _make_key(file)
        content, found = read_own(file)
        is_secret = found.st_uid == os.geteuid() and not found.st_mode & 0o077
        return content if is_secret and len(content) == _KEY_BYTES else b""
    return b""


def _make_key(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_of(file)
    write_whole(temporary, os.urandom(_KEY_BYTES), mode=0o600)
    with suppress(FileExistsError):
        os.link(temporary, file)  # unlike a rename it replaces nobody's who was faster
    temporary.unlink()


def cache_home(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of what can be had again: facts of files, weights, compiled code."""
    base = environment.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "emcfsys"


def rescue_home(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of what runs had in memory when their own disk took nothing any more."""
    base = environment.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local/state") / "emcfsys" / "rescued"


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
        with reading(file) as stream:
            status = os.fstat(stream.fileno())
            if status.st_uid not in (os.geteuid(), 0) or status.st_mode & 0o002:
                what = "may be written by others, and says what is executed"
                raise ProjectError(file, "", what, f"Own it and run chmod o-w {for_shell(file)}")
            return tomli.loads(stream.read().decode())
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise ProjectError(file, "", "is no UTF-8 text", "Save it as UTF-8") from None
    except RecursionError:
        raise ProjectError(file, "", "is nested too deep", "Mend it") from None
    except ValueError as error:  # no TOML, or a number of thousands of digits
        raise ProjectError(file, "", f"is no valid TOML: {error}", "Mend that line") from None
    except OSError as error:
        raise ProjectError(file, "", f"cannot be read: {error.strerror}", "Mend it") from None
