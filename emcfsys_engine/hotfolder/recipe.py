"""A recipe: everything that decides on a hot folder's masks and verdicts, in one sealed file.

The file is written once and never changed; a watch runs exactly what it says, or refuses.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from emcfsys_engine import any_names
from emcfsys_engine.errors import InputError, OutputError
from emcfsys_engine.files import reading, remedy_of
from emcfsys_engine.hotfolder.journal import user_name
from emcfsys_engine.images.own_files import write_new
from emcfsys_engine.project import Project
from emcfsys_engine.project_tables import Inference, Limit, Parts
from emcfsys_engine.run.records import versions_here
from emcfsys_engine.text import flattened, for_shell

FORMAT = 1
_MOST_BYTES = 4 << 20
_NOT_SET = "nothing"


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """What a recipe file says."""

    format: int = FORMAT
    project: str
    model: str  # relative to the project's folder where it lies in that, else absolute
    model_digest: str  # SHA-256 of its file
    classes: dict[str, int]
    instances: dict[str, Parts] = {}
    inference: Inference = Inference()
    measure: bool = False  # [hotfolder] measure
    limits: dict[str, Limit] = {}
    group: str = ""
    group_limits: dict[str, Limit] = {}
    versions: dict[str, str] = {}
    user: str = ""
    host: str = ""
    locked: str = ""  # ISO 8601, UTC
    seal: str = ""  # SHA-256 of all else

    @property
    def id(self) -> str:
        """Return by what ledger, journal and report name it."""
        return self.seal[:16]

    def settings(self) -> dict[str, Any]:
        """Return what it decides, by the key of project.toml, and who it is from left out."""
        return _decisive(self, self.measure)


def lock_recipe(project: Project, model: Path, file: Path) -> Recipe:
    """Write the recipe of a project as it is now; nobody changes it later.

    Raises: InputError if the file is there already, or the project has no one model.
    """
    if project.hotfolder.follow:
        what = "is true: a recipe has one model"
        raise InputError(project.file, f"hotfolder.follow: {what}", "Set it to false")
    host = os.uname().nodename
    recipe = Recipe(
        project=project.name,
        model=_below(project.folder, model),
        model_digest=digest_of_model(model),
        classes=project.classes,
        instances=project.instances,
        inference=project.inference,
        measure=project.hotfolder.measure,
        limits=project.limits,
        group=project.group,
        group_limits=project.group_limits,
        versions=versions_here(),
        user=user_name(),
        host=host,
        locked=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    document: dict[str, Any] = json.loads(any_names.encode(recipe))
    recipe = msgspec.structs.replace(recipe, seal=_seal_of(document))
    _write_once(file, any_names.encode(recipe, indent=2) + b"\n")
    return recipe


def _write_once(file: Path, content: bytes) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_new(file, content, mode=0o444)
    except FileExistsError:
        what = "is there already: a recipe is never changed"
        raise InputError(file, what, "Name another file with --out") from None
    except OSError as error:
        what = f"cannot be written: {error.strerror}"
        raise OutputError(file, what, remedy_of(error), errno=error.errno or 0) from None


def read_recipe(file: Path) -> Recipe:
    """Read a recipe file.

    Raises: InputError for what is none, or is not as it was locked.
    """
    another = "Lock one with: emcfsys-engine recipe lock PROJECT"
    try:
        with reading(file) as stream:
            content = stream.read(_MOST_BYTES + 1)
        document: Any = json.loads(content)
        number = document["format"]
        if not isinstance(number, int) or number > FORMAT:
            what = f"has format {number}, this version knows up to {FORMAT}"
            raise InputError(file, what, "Update emcfsys-tui")
        recipe: Recipe = any_names.decode(content, Recipe)
    except FileNotFoundError:
        raise InputError(file, "there is no such recipe", another) from None
    except OSError as error:
        raise InputError(file, f"cannot be read: {error.strerror}", another) from None
    except (msgspec.MsgspecError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(file, f"is no recipe: {error}", another) from None
    if recipe.seal != _seal_of(document):
        what = "was changed after it was locked: its seal is another"
        raise InputError(file, what, "Take the file as it was, or lock a new one")
    return recipe


def refuse_other(file: Path, recipe: Recipe, project: Project) -> Path:
    """Return the recipe's model; a watch of this project would do exactly what the recipe says.

    Raises: InputError naming the first difference: key, wanted, found.
    """
    found = differences(recipe.settings(), _decisive(project, project.hotfolder.measure))
    told = [
        (key, f"the recipe has {_shown(wanted)}, the project {_shown(given)}")
        for key, wanted, given in found
    ]
    told += [
        (f"versions.{key}", f"the recipe has {_shown(wanted)}, this machine {_shown(given)}")
        for key, wanted, given in differences(recipe.versions, versions_here())
    ]
    if project.hotfolder.follow:
        told.append(("hotfolder.follow", "the recipe has false, the project true"))
    if told:
        (key, what), more = told[0], len(told) - 1
        more_words = f" (and {more} more differences)" if more else ""
        remedy = "Set it so, or lock a new recipe: emcfsys-engine recipe lock"
        raise InputError(file, f"{key}: {what}{more_words}", remedy)
    model = project.folder / recipe.model
    if not model.is_file():
        what = f"model: {model} is gone"
        raise InputError(file, what, "Bring it back, or lock a new recipe")
    digest = digest_of_model(model)
    if digest != recipe.model_digest:
        what = f"model: {model} was changed: the recipe has SHA-256 {recipe.model_digest[:16]}…,"
        what += f" found {digest[:16]}…"
        raise InputError(file, what, "Bring the old model back, or lock a new recipe")
    return model


def recipe_to_follow(file: str, project: Project, model: Path) -> Recipe | None:
    """Return the recipe of a file as a watch with this model begins; None without one.

    Raises: InputError as `read_recipe` and `refuse_other`, and if the file names another model by
    now: the watch was made for the one that it named then.
    """
    if not file:
        return None
    recipe = read_recipe(Path(file))
    named = refuse_other(Path(file), recipe, project)
    if not named.samefile(model):
        what = f"model: the recipe has {named} now, this watch was made for {model}"
        raise InputError(
            file, what, f"Start another watch: emcfsys-engine watch --recipe {for_shell(file)}"
        )
    return recipe


def differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return each key whose value differs, with both; None: it is not there."""
    keys = dict.fromkeys((*wanted, *found))
    pairs = [(key, wanted.get(key), found.get(key)) for key in keys]
    return [(key, one, other) for key, one, other in pairs if one != other]


def digest_of_model(file: Path) -> str:
    """Return the SHA-256 of a model file. Raises: InputError."""
    try:
        digest = hashlib.sha256()
        with reading(file) as stream:
            while content := stream.read(1 << 22):
                digest.update(content)
        return digest.hexdigest()
    except OSError as error:
        what = f"cannot be read: {error.strerror}"
        raise InputError(file, what, "Name another model") from None


def _decisive(source: Recipe | Project, measure: bool) -> dict[str, Any]:
    """Return by dotted keys what decides on masks; what is not set is left out."""
    limits: dict[str, Any] = msgspec.to_builtins(dict(source.limits))
    groups = {"group": source.group, "groups": msgspec.to_builtins(dict(source.group_limits))}
    document = {
        "classes": source.classes,
        "instances": source.instances,
        "inference": msgspec.to_builtins(source.inference),
        "hotfolder.measure": measure,
        "limits": limits | groups,
    }
    return {
        key: value for key, value in flattened(document).items() if value not in (None, "", {}, ())
    }


def _below(folder: Path, model: Path) -> str:
    whole = model.absolute()
    return str(whole.relative_to(folder)) if whole.is_relative_to(folder) else str(whole)


def _shown(value: Any) -> str:
    return _NOT_SET if value is None else json.dumps(value)


def _seal_of(document: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in document.items() if key != "seal"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def what_is_touched(keys: Iterable[str]) -> str:
    """Return what a change of these keys asks for: predict, measure, or nothing but a verdict."""
    found = {key.partition(".")[0] for key in keys}
    if found & {"model", "classes", "instances", "inference"}:
        return "predict"
    return "measure" if "hotfolder" in found else ""
