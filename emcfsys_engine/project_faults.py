"""Check one table against its Struct and name every fault of it at once."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from emcfsys_engine.errors import ProjectError

Table = TypeVar("Table", bound=msgspec.Struct)


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
