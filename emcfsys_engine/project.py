"""project.toml becomes a frozen Project: its only reader, and where its keys are known."""

import hashlib
import io
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import tomli

from emcfsys_engine.errors import ProjectError, ProjectFaults
from emcfsys_engine.files import reading
from emcfsys_engine.project_tables import (
    TABLES,
    Augmentation,
    Compute,
    Hotfolder,
    Inference,
    Limit,
    ModelSettings,
    Naming,
    Parts,
    Source,
    Suggest,
    Training,
)
from emcfsys_engine.settings import SlurmSettings, check_slurm, check_table, nearest, unknown_keys
from emcfsys_engine.text import for_shell
from emcfsys_engine.verdicts import check_groups, check_limits

UNLABELLED = 255
MAX_CLASS_VALUE = 254
LARGEST_SEED = 2**64 - 1


class Project(msgspec.Struct, frozen=True, kw_only=True):
    """A project as its project.toml says, checked; what a run keeps a copy of."""

    file_name: str
    project: Naming
    classes: dict[str, int]
    instances: dict[str, Parts] = {}  # classes whose objects are told apart
    data: tuple[Source, ...]
    model: ModelSettings = ModelSettings()
    training: Training = Training()
    augment: Augmentation = Augmentation()
    inference: Inference = Inference()
    hotfolder: Hotfolder = Hotfolder()
    limits: dict[str, Limit] = {}  # by the number of an image that they are of
    group: str = ""  # what images are of one group: "folder", or an expression on their path
    group_limits: dict[str, Limit] = {}  # by the number of a group
    suggest: Suggest = Suggest()
    compute: Compute = Compute()

    @property
    def file(self) -> Path:
        """The absolute path of project.toml."""
        return Path(self.file_name)

    @property
    def folder(self) -> Path:
        """The project's folder: relative paths start here."""
        return self.file.parent

    @property
    def name(self) -> str:
        """The project's name."""
        return self.project.name

    @property
    def runs_folder(self) -> Path:
        """Where this project's runs live."""
        return self.folder / "runs"

    @property
    def pixel_told(self) -> tuple[float, float] | None:
        """The pixel size of files that do not say theirs. Units: nm, (y, x)."""
        size = self.project.pixel_nm
        return None if size is None else (size, size)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names in the order of their values: the order of the network's channels."""
        return tuple(sorted(self.classes, key=self.classes.__getitem__))

    @property
    def class_values(self) -> tuple[int, ...]:
        """Mask values in the order of the network's channels."""
        return tuple(sorted(self.classes.values()))


LOSSES = ("ce", "dice", "focal", "tversky", "lovasz", "boundary", "ohem")
DATA_KEYS = ("images", "masks", "annotations")
_LEVELS = 4  # folders above a model: PROJECT/runs/RUN/best.safetensors
_PLACES = (*TABLES, "classes", "data", "limits")


def load_project(place: Path, overrides: Iterable[str] = ()) -> Project:
    """Read project.toml, or the one in a folder, and apply `key=value` overrides.

    Raises: ProjectError if there is none or it is no TOML; ProjectFaults with every fault at once.
    """
    file = (place / "project.toml" if place.is_dir() else place).absolute()
    document = read_toml(file)
    for override in overrides:
        _apply_override(file, document, override)
    return project_from(file, document)


def compute_near(place: Path) -> Compute | None:
    """Return [compute] of the project that a file lies in, however deep below it a run's may be.

    None where it lies in none. Data that moved away do not matter.
    Raises: ProjectError, ProjectFaults for a project.toml that cannot be read.
    """
    for folder in place.absolute().parents[:_LEVELS]:
        file = folder / "project.toml"
        if file.is_file():
            faults: list[ProjectError] = []
            compute = _compute_of(file, read_toml(file).get("compute", {}), faults)
            if faults:
                raise ProjectFaults(faults)
            return compute
    return None


def _compute_of(file: Path, table: Any, faults: list[ProjectError]) -> Any:
    if isinstance(table, Mapping) and "slurm" in table:
        slurm = check_slurm(file, "compute.slurm", table["slurm"], SlurmSettings, faults)
        table = {**table, "slurm": msgspec.to_builtins(slurm)}
    return check_table(file, "compute", table, Compute, faults)


def project_from(file: Path, document: Mapping[str, Any]) -> Project:
    """Check a parsed project.toml and return it as a Project; paths are looked up on the disk.

    Raises: ProjectFaults with every fault at once.
    """
    faults: list[ProjectError] = []
    faults += unknown_keys(file, "", document, _PLACES)
    tables: dict[str, Any] = {}
    for name, kind in TABLES.items():
        if name == "project" and name not in document:
            faults.append(
                ProjectError(file, "project", "is missing", 'Add [project] with name = "…"')
            )
            continue
        table = document.get(name, {})
        if name == "compute":
            tables[name] = _compute_of(file, table, faults)
            continue
        tables[name] = check_table(file, name, table, kind, faults)
    _check_seed(file, tables.get("project"), faults)
    plain, instances = _parted_classes(file, document.get("classes"), faults)
    classes = _check_classes(file, plain, faults)
    _check_instances(file, instances, classes, faults)
    sources = _check_sources(file, document.get("data"), classes, faults)
    _check_training(file, tables["training"], classes, instances, faults)
    _check_compute(file, tables["compute"], tables["training"], faults)
    limits = check_limits(file, document.get("limits", {}), classes, faults)
    group, group_limits = check_groups(file, document.get("limits", {}), classes, faults)
    if faults:
        raise ProjectFaults(faults)
    return Project(
        file_name=str(file),
        classes=classes,
        instances=instances,
        data=sources,
        limits=limits,
        group=group,
        group_limits=group_limits,
        **tables,
    )


def class_values_now(file: Path) -> dict[str, int]:
    """Return the value of each class as a project.toml says now; none where it cannot be read."""
    try:
        said, _ = _parted_classes(file, read_toml(file).get("classes"), [])
    except ProjectError:
        return {}
    values = said.items() if isinstance(said, dict) else ()
    return {name: value for name, value in values if type(value) is int}


def labels_now(file: Path) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Return what the labels of each [[data]] table mean as a project.toml says now.

    Each has its images, masks and annotations first, by which it is known again; none where the
    file cannot be read.
    """
    try:
        said = read_toml(file).get("data")
    except ProjectError:
        return []
    tables = [one for one in said if isinstance(one, dict)] if isinstance(said, list) else []
    found = [(tuple(one.get(key) for key in DATA_KEYS), one.get("labels")) for one in tables]
    return [(whose, labels) for whose, labels in found if isinstance(labels, dict)]


def numbers_now(file: Path) -> str:
    """Return what changes when classes, or labels of a [[data]] table, get other meanings."""
    said = msgspec.json.encode([list(class_values_now(file).items()), repr(labels_now(file))])
    return hashlib.blake2b(said, digest_size=8).hexdigest()


def parse_loss(text: str) -> tuple[tuple[float, str], ...]:
    """Split "ce+0.5*dice" into ((1.0, "ce"), (0.5, "dice")).

    Raises: ValueError with the nearest known name.
    """
    terms: list[tuple[float, str]] = []
    for term in text.split("+"):
        factor, star, name = term.strip().rpartition("*")
        name = name.strip()
        if name not in LOSSES:
            raise ValueError(f"{name!r} is no loss. {nearest(name, LOSSES)}")
        try:
            weight = float(factor) if star else 1.0
        except ValueError:
            raise ValueError(f"{factor.strip()!r} is no number") from None
        if not 0 < weight < 1e6:
            raise ValueError(f"the weight of {name} is {weight:g}, it must be above 0")
        terms.append((weight, name))
    return tuple(terms)


def read_toml(file: Path) -> dict[str, Any]:
    """Return what a project.toml says, unchecked. Raises: ProjectError naming the file."""
    try:
        with io.TextIOWrapper(reading(file), "utf-8-sig") as stream:
            return tomli.loads(stream.read())
    except FileNotFoundError:
        remedy = f"Make one with: emcfsys-engine new {for_shell(file.parent)}"
        raise ProjectError(file, "", "there is no such file", remedy) from None
    except IsADirectoryError:
        raise ProjectError(file, "", "is a folder", "Name its project.toml") from None
    except PermissionError:
        remedy = "Ask its owner for read permission"
        raise ProjectError(file, "", "may not be read", remedy) from None
    except UnicodeDecodeError:
        raise ProjectError(file, "", "is no UTF-8 text", "Save it as UTF-8") from None
    except RecursionError:
        raise ProjectError(file, "", "is nested too deep", "Mend it") from None
    except ValueError as error:  # no TOML, or a number of thousands of digits
        raise ProjectError(file, "", f"is no valid TOML: {error}", "Mend that line") from None
    except OSError as error:
        raise ProjectError(file, "", f"cannot be read: {error.strerror}", "Try again") from None


def _apply_override(file: Path, document: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    *tables, last = key.strip().split(".")
    if not equals or not tables or not last:
        remedy = "Write --set table.key=value, as in --set training.steps=200"
        raise ProjectError("--set", override, "is no key=value", remedy)
    try:
        value = tomli.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text
    table: Any = document
    for name in tables:
        if isinstance(table, list):
            table = _list_item(file, key, table, name)
        else:
            table = table.setdefault(name, {})
    if not isinstance(table, dict):
        raise ProjectError(file, key, "is no table", "Name a key inside a table")
    # steps and minutes are one budget: the newer word replaces the older.
    replaced = {"steps": "minutes", "minutes": "steps"}.get(last)
    if tables == ["training"] and replaced:
        table.pop(replaced, None)
    table[last] = value


def _list_item(file: Path, key: str, items: list[Any], name: str) -> Any:
    if name.isdecimal() and int(name) < len(items):
        return items[int(name)]
    remedy = f"Use a number from 0 to {len(items) - 1}, as in data.0.weight=2"
    raise ProjectError(file, key, f"{name!r} is no place in the list", remedy)


_CLASS_KEYS = ("value", "instances")


def _parted_classes(
    file: Path, given: Any, faults: list[ProjectError]
) -> tuple[Any, dict[str, Parts]]:
    """Return [classes] with the value alone of each class, and whose objects are told apart."""
    if not isinstance(given, dict):
        return given, {}
    plain: dict[str, Any] = {}
    instances: dict[str, Parts] = {}
    for name, said in given.items():
        if not isinstance(said, dict):
            plain[name] = said
            continue
        faults += unknown_keys(file, f"classes.{name}", said, _CLASS_KEYS)
        plain[name] = said.get("value")
        kind = said.get("instances", False)
        if kind is True or kind == "parts":
            instances[name] = "joined" if kind is True else "parts"
        elif kind is not False:
            what = f'{kind!r} is neither true, false nor "parts"'
            remedy = 'Write name = { value = 1, instances = true }; "parts" where parts that do not'
            remedy += " touch are objects of their own"
            faults.append(ProjectError(file, f"classes.{name}.instances", what, remedy))
    return plain, instances


def _check_instances(
    file: Path,
    instances: Mapping[str, Parts],
    classes: Mapping[str, int],
    faults: list[ProjectError],
) -> None:
    for name in instances:
        if name in classes and classes[name] == min(classes.values()):
            what = "has the lowest value, so it is what lies between the objects"
            remedy = "Give it a higher value, and the lowest to the background"
            faults.append(ProjectError(file, f"classes.{name}.instances", what, remedy))


def _check_classes(file: Path, given: Any, faults: list[ProjectError]) -> dict[str, int]:
    remedy = 'Add [classes] with lines like "background = 0"'
    if not isinstance(given, dict) or not given:
        faults.append(ProjectError(file, "classes", "is missing or empty", remedy))
        return {}
    classes: dict[str, int] = {}
    for name, value in given.items():
        key = f"classes.{name}"
        if not isinstance(value, int) or isinstance(value, bool):
            faults.append(ProjectError(file, key, f"{value!r} is no whole number", "Use 0 to 254"))
        elif not 0 <= value <= MAX_CLASS_VALUE:
            what = f"{value} is outside 0 to {MAX_CLASS_VALUE}"
            faults.append(ProjectError(file, key, what, "255 means unlabelled: use 0 to 254"))
        elif value in classes.values():
            what = f"value {value} is taken by another class"
            faults.append(ProjectError(file, key, what, "Give every class its own value"))
        elif name == "ignore":
            what = '"ignore" means unlabelled pixels'
            faults.append(ProjectError(file, key, what, "Choose another name"))
        else:
            classes[name] = value
    if len(given) == 1:
        faults.append(ProjectError(file, "classes", "has one class", "Add a background class"))
    return classes


def _check_sources(
    file: Path, given: Any, classes: Mapping[str, int], faults: list[ProjectError]
) -> tuple[Source, ...]:
    if not isinstance(given, list) or not given:
        remedy = 'Add [[data]] with images = "images" and masks = "masks"'
        faults.append(ProjectError(file, "data", "is missing", remedy))
        return ()
    sources: list[Source] = []
    for index, table in enumerate(given):
        key = f"data.{index}"
        if not isinstance(table, dict):
            faults.append(ProjectError(file, key, "is no table", "Write [[data]]"))
            continue
        source = check_table(file, key, table, Source, faults)
        if isinstance(source, Source):
            _check_source(file, key, source, classes, faults)
            sources.append(source)
    return tuple(sources)


def _check_source(
    file: Path, key: str, source: Source, classes: Mapping[str, int], faults: list[ProjectError]
) -> None:
    if source.masks is not None and source.annotations is not None:
        what = "has both masks and annotations"
        faults.append(ProjectError(file, key, what, "Give one of the two"))
    if not source.has_labels and not source.teaches_unlabelled:
        remedy = 'Give one of the two, or say unlabelled = "learn"'
        faults.append(ProjectError(file, key, "has no masks or annotations", remedy))
    if source.teaches_unlabelled and source.split in ("val", "test"):
        what = f'"learn" is for training, and split = "{source.split}" is not'
        remedy = 'Say unlabelled = "skip", or take split out'
        faults.append(ProjectError(file, f"{key}.unlabelled", what, remedy))
    for name in ("images", "masks", "annotations"):
        place = getattr(source, name)
        if place is not None and not re.search(r"[*?\[]", place) and not _exists(file, place):
            what = f"{place!r} does not exist"
            faults.append(ProjectError(file, f"{key}.{name}", what, "Mend the path"))
    if source.reviewed is not None and 0 not in classes.values():
        what = "no class has the value 0, so nothing inside a reviewed shape can be background"
        faults.append(ProjectError(file, f"{key}.reviewed", what, "Give one class the value 0"))
    if source.group is not None:
        try:
            re.compile(source.group)
        except re.error as error:
            what = f"{source.group!r} is no regular expression: {error}"
            faults.append(ProjectError(file, f"{key}.group", what, "Mend the pattern"))
    for own, name in source.labels.items():
        if name != "ignore" and name not in classes:
            remedy = nearest(name, [*classes, "ignore"])
            faults.append(
                ProjectError(file, f"{key}.labels.{own}", f"{name!r} is no class", remedy)
            )


def _exists(file: Path, place: str) -> bool:
    try:
        return (file.parent / Path(place).expanduser()).exists()
    except OSError:
        return False


def _check_training(
    file: Path,
    training: Any,
    classes: Mapping[str, int],
    instances: Mapping[str, Parts],
    faults: list[ProjectError],
) -> None:
    if not isinstance(training, Training):
        return
    if training.steps is not None and training.minutes is not None:
        what = "steps and minutes are both given"
        faults.append(ProjectError(file, "training", what, "Keep one: they are one budget"))
    try:
        parse_loss(training.loss)
    except ValueError as error:
        remedy = 'Write a sum like "ce+0.5*dice"'
        faults.append(ProjectError(file, "training.loss", str(error), remedy))
    kind, colon, name = training.best_by.partition(":")
    if colon and kind == "iou":
        if name not in classes:
            what = f"{name!r} is no class"
            faults.append(ProjectError(file, "training.best_by", what, nearest(name, classes)))
    elif training.best_by == "pq":
        if not instances:
            what = "no class has instances = true, so there are no objects to be scored"
            remedy = "Write it under [classes], or use mean_iou"
            faults.append(ProjectError(file, "training.best_by", what, remedy))
    elif training.best_by not in ("mean_iou", "mean_foreground_iou"):
        what = f"{training.best_by!r} is unknown"
        remedy = "Use mean_iou, mean_foreground_iou, pq or iou:<class>"
        faults.append(ProjectError(file, "training.best_by", what, remedy))


def _check_seed(file: Path, naming: Any, faults: list[ProjectError]) -> None:
    """Refuse what no run.json and no generator can hold; msgspec knows no limit above 63 bits."""
    if isinstance(naming, Naming) and naming.seed > LARGEST_SEED:
        what = f"{naming.seed} is above {LARGEST_SEED}"
        faults.append(ProjectError(file, "project.seed", what, "Use a smaller number"))


def _check_compute(file: Path, compute: Any, training: Any, faults: list[ProjectError]) -> None:
    """Refuse what this version cannot do, rather than doing something else without a word."""
    if isinstance(training, Training) and training.kfold == 1:
        what = "one fold leaves nothing to train on"
        faults.append(ProjectError(file, "training.kfold", what, "Use 2 or more, or 0 for none"))
    follows = isinstance(training, Training) and training.follow
    if follows and training.kfold:
        what = "a training that follows the labels has no folds"
        faults.append(
            ProjectError(file, "training.follow", what, "Set kfold = 0, or follow = false")
        )
    if not isinstance(compute, Compute):
        return
    if follows and max(compute.processes, compute.gpus or 0, compute.nodes) > 1:
        what = "a training that follows the labels is one process"
        faults.append(ProjectError(file, "training.follow", what, "Set gpus = 1 under [compute]"))
    if compute.nodes > 1 and compute.executor == "local":
        what = "several nodes need a cluster"
        faults.append(ProjectError(file, "compute.nodes", what, 'Set executor = "slurm"'))
    if compute.processes > 1 and compute.gpus != 0:
        what = "several processes compute on the processor: GPUs have one process each"
        faults.append(ProjectError(file, "compute.processes", what, "Set gpus = 0, or leave it"))
