"""The engine as the interface sees it: project.toml read and written, and what it would train.

It is written with its comments. What a training would do is worked out in a child.
"""

import shlex
import subprocess
from codecs import BOM_UTF8
from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec

from emcfsys_engine import any_names
from emcfsys_engine.errors import EmcfError, InputError, ProjectError, ProjectFaults, printable
from emcfsys_engine.files import plain_bytes, write_whole
from emcfsys_engine.project import (
    Augmentation,
    Compute,
    Inference,
    ModelSettings,
    Project,
    Training,
    load_project,
)
from emcfsys_engine.project_tables import SHIPPED_BACKBONE, bare
from emcfsys_engine.settings import cache_home
from emcfsys_tui.engine.edit_project import digest_of_content, edit_project
from emcfsys_tui.engine.runs import run_command
from emcfsys_tui.text import fitted
from emcfsys_tui.view_models import FieldFault, FindingRow, Forecast, PlanRow

_TABLES: Mapping[str, type[msgspec.Struct]] = {
    "training": Training,
    "model": ModelSettings,
    "augment": Augmentation,
    "inference": Inference,
    "compute": Compute,
}
# Shown at once; the others are folded away.
FIRST = (
    "training.preset",
    "training.minutes",
    "training.steps",
    "model.head",
    "model.backbone",
    "model.weights",
    "training.follow",
)
_MOST_CELLS = 240  # of a fault
_NOT_OFFERED = ("compute.slurm", "training.kfold")


class FormField(msgspec.Struct, frozen=True, kw_only=True):
    """One key of project.toml as a line of the form."""

    key: str
    value: str  # as the file has it; empty: not there
    default: str  # what an empty line means
    choices: tuple[str, ...] = ()


class ProjectForm(msgspec.Struct, frozen=True, kw_only=True):
    """project.toml as a form."""

    fields: tuple[FormField, ...] = ()
    digest: str = ""  # of the file that was read
    faults: tuple[FieldFault, ...] = ()
    facts: str = ""


class FormVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine says to the form as it is now."""

    faults: tuple[FieldFault, ...] = ()
    command: str = ""
    overrides: tuple[str, ...] = ()


def read_form(folder: Path) -> ProjectForm:
    """Read project.toml into a form; a file with faults gives those."""
    file = folder / "project.toml"
    try:
        content = plain_bytes(file)
        text = content.removeprefix(BOM_UTF8).decode()
        document: dict[str, Any] = import_module("tomlkit").parse(text).unwrap()
    except (OSError, ValueError, RecursionError) as error:
        return ProjectForm(faults=(FieldFault(key="", text=printable(f"{file}: {error}")),))
    fields = [one for table, kind in _TABLES.items() for one in _fields(table, kind, document)]
    fields.sort(key=lambda one: FIRST.index(one.key) if one.key in FIRST else len(FIRST))
    faults: tuple[FieldFault, ...] = ()
    facts = ""
    try:
        facts = _facts(load_project(file))
    except EmcfError as error:
        faults = _field_faults(error)
    return ProjectForm(
        fields=tuple(fields), digest=digest_of_content(content), faults=faults, facts=facts
    )


def judge(folder: Path, changes: Mapping[str, str]) -> FormVerdict:
    """Return the engine's own word on the changes, and the command that submits them.

    A backbone that is named anew is looked up in timm's list, which a child makes once.
    """
    overrides = tuple(f"{key}={_toml(key, text)}" for key, text in changes.items() if text.strip())
    dropped = [key for key, text in changes.items() if not text.strip()]
    words = ["emcfsys-engine", "submit", "train", str(folder)]
    for one in overrides:
        words += ["--set", one]
    command = shlex.join(words)
    if dropped:
        command += "   (after writing: " + ", ".join(f"{key} dropped" for key in dropped) + ")"
    try:
        load_project(folder, overrides)
    except EmcfError as error:
        return FormVerdict(faults=_field_faults(error), command=command, overrides=overrides)
    name = changes.get("model.backbone", "")
    fault = backbone_fault(name, known_backbones()) if name.strip() else None
    faults = (fault,) if fault is not None else ()
    return FormVerdict(faults=faults, command=command, overrides=overrides)


def write_form(folder: Path, changes: Mapping[str, str], digest: str) -> str:
    """Write the changes into project.toml, its comments kept.

    Raises: ProjectError if the file changed since it was read, ProjectFaults if it would be faulty.
    """
    tomlkit: Any = import_module("tomlkit")

    def change(document: Any) -> None:
        for key, text in changes.items():
            _set_field(tomlkit, document, key, text)

    edit_project(folder, change, digest)
    return "project.toml written, comments kept"


def _set_field(tomlkit: Any, document: Any, key: str, text: str) -> None:
    """Write one key of the form; an empty text takes the key away."""
    table_name, _, name = key.partition(".")
    if not text.strip():
        if table_name in document:
            document[table_name].pop(name, None)
        return
    if table_name not in document:
        document[table_name] = tomlkit.table()
    other = {"training.steps": "minutes", "training.minutes": "steps"}.get(key)
    if other:
        document[table_name].pop(other, None)
    document[table_name][name] = tomlkit.parse(f"v = {_toml(key, text)}")["v"]


def _fields(table: str, kind: type[msgspec.Struct], document: Mapping[str, Any]) -> list[FormField]:
    given = document.get(table, {})
    found: list[FormField] = []
    for info in msgspec.structs.fields(kind):
        key = f"{table}.{info.name}"
        if key in _NOT_OFFERED:
            continue
        value = given.get(info.name) if isinstance(given, Mapping) else None
        default = "chosen by the plan" if info.default is None else _text(info.default)
        if key in ("training.steps", "training.minutes"):
            default = "as the preset says"
        if key == "model.backbone":  # empty: the plan's choice, which "best" makes on a GPU
            default = SHIPPED_BACKBONE
        if table == "augment" and info.default is None:
            default = "as the preset says"
        shown = "" if value is None else _text(value)
        found.append(FormField(key=key, value=shown, default=default, choices=_choices(info.type)))
    return found


def _choices(kind: Any) -> tuple[str, ...]:
    kind = bare(kind)
    if get_origin(kind) is Literal:
        return tuple(str(value) for value in get_args(kind))
    return ("true", "false") if kind is bool else ()


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _toml(key: str, text: str) -> str:
    """Return what the person typed as a TOML value: a number or true where it is one."""
    text = text.strip()
    table, _, name = key.partition(".")
    kind = bare(next(f.type for f in msgspec.structs.fields(_TABLES[table]) if f.name == name))
    if kind is str or get_origin(kind) is Literal:
        return str(msgspec.json.encode(text), "utf-8")
    try:
        import_module("tomli").loads(f"v = {text}")
    except ValueError:
        return str(msgspec.json.encode(text), "utf-8")
    return text


def _field_faults(error: EmcfError) -> tuple[FieldFault, ...]:
    faults = error.faults if isinstance(error, ProjectFaults) else (error,)
    return tuple(
        FieldFault(
            key=one.key if isinstance(one, ProjectError) else "",
            text=_shortened(
                printable(f"{one.what}. {one.remedy}" if isinstance(one, InputError) else str(one))
            ),
        )
        for one in faults
    )


def _shortened(text: str) -> str:
    """Return a fault whose end, the remedy, is read also where a page was pasted into a field."""
    return fitted(text, min(len(text), _MOST_CELLS), cut="middle").rstrip()


def _facts(project: Project) -> str:
    classes = ", ".join(project.class_names)
    num = len(project.data)
    sources = "1 source" if num == 1 else f"{num} sources"
    return printable(f"{project.name}: {sources}, classes {classes}")


_FEWEST_NAMES = 100  # a list with fewer was cut short


class Forecaster:
    """Asks what a training would do; a newer question ends the one before."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._child: subprocess.Popen[bytes] | None = None

    def read(self, overrides: tuple[str, ...]) -> Forecast | None:
        """Return plan, time and errors of a training with these settings.

        None: it was asked again meanwhile, and this child ended for the sake of the newer one.
        """
        mine: list[subprocess.Popen[bytes]] = []
        settings = [word for one in overrides for word in ("--set", one)]
        command = ["plan", str(self.folder), "--json", *settings]

        def keep(child: "subprocess.Popen[bytes]") -> None:
            self.end()
            self._child = child
            mine.append(child)

        done = run_command(command, is_look=True, on_start=keep)
        if mine[0] is not self._child:
            return None
        try:
            found: dict[str, Any] = any_names.decode(done.out, Any)
        except msgspec.DecodeError:
            return Forecast(overrides=overrides, fault=done.words or "it ended without a word")
        return Forecast(
            overrides=overrides,
            rows=tuple(msgspec.convert(found["rows"], list[PlanRow])),
            errors=tuple(msgspec.convert(found["errors"], list[FindingRow])),
            num_warnings=found["num_warnings"],
        )

    def end(self) -> None:
        """End the child: nobody waits for its answer."""
        if self._child is not None:
            self._child.kill()


_names: dict[str, frozenset[str]] = {}  # by timm's version


def known_backbones() -> frozenset[str]:
    """Return the names that timm knows, without loading it: a child lists them once a version.

    Empty where it cannot be asked.
    """
    metadata = import_module("importlib.metadata")
    try:
        version: str = metadata.version("timm")
    except metadata.PackageNotFoundError:
        return frozenset()
    if version not in _names:
        file = cache_home() / f"backbones-{version}.txt"
        try:
            names = file.read_text("utf-8").split()
        except (OSError, ValueError):
            names = run_command(["models", "--names"], is_look=True).out.split()
            _keep_names(file, names)
        if len(names) < _FEWEST_NAMES:
            return frozenset()
        _names[version] = frozenset(names)
    return _names[version]


def _keep_names(file: Path, names: list[str]) -> None:
    if len(names) < _FEWEST_NAMES:
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, "\n".join(names).encode())
    except OSError:
        return  # asked again at the next start


def backbone_fault(name: str, known: frozenset[str]) -> FieldFault | None:
    """Return what is wrong with a backbone's name, with the nearest ones; None when it is known."""
    base = name.strip().partition(".")[0]
    if not base or not known or base in known:
        return None
    near = get_close_matches(base, sorted(known), n=3, cutoff=0.5)
    remedy = f"Near: {', '.join(near)}" if near else "List them: emcfsys-engine models"
    return FieldFault(key="model.backbone", text=f"timm has no backbone {name!r}. {remedy}")
