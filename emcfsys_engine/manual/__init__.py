"""The manual: one page a topic, shipped with the program, its reference made of the key tables."""

import re
from pathlib import Path
from typing import Any

import msgspec

from emcfsys_engine.errors import InputError
from emcfsys_engine.project_tables import TABLES, Limit, Naming, Source, json_schema
from emcfsys_engine.settings import SlurmSettings, nearest

_FOLDER = Path(__file__).parent
_REFERENCE = "<!-- reference -->"  # stands in project.md where the tables of keys go
_KINDS = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "array": "list of text",
    "boolean": "true, false",
    "object": "table",
    "null": "",
}


def topics() -> dict[str, str]:
    """Return the names of the pages with their titles, the overview first."""
    names = sorted(
        (file.stem for file in _FOLDER.glob("*.md")), key=lambda name: name != "overview"
    )
    return {name: _title(name) for name in names}


def page(topic: str) -> str:
    """Return a page of the manual as Markdown, for a terminal: without its pictures.

    Raises: InputError naming the nearest page.
    """
    if topic not in topics():
        raise InputError("manual", f"has no page {topic!r}", nearest(topic, topics()))
    text = (_FOLDER / f"{topic}.md").read_text("utf-8")
    text = re.sub(r"^!\[.*\n\n?", "", text, flags=re.MULTILINE)
    return text.replace(_REFERENCE, reference()) if _REFERENCE in text else text


def _title(name: str) -> str:
    with (_FOLDER / f"{name}.md").open(encoding="utf-8") as file:
        return file.readline().lstrip("# ").strip()


def reference() -> str:
    """Return the manual's reference: a table of keys for each table of project.toml."""
    parts: list[str] = []
    for kind in (Naming, Source, *list(TABLES.values())[1:], Limit, SlurmSettings):
        parts.append(f"### {(kind.__doc__ or '').strip().splitlines()[0]}\n")
        parts.append("| key | values | default | what |\n| --- | --- | --- | --- |")
        definition = json_schema()["$defs"][kind.__name__]["properties"]
        for field in msgspec.structs.fields(kind):
            says_of = definition[field.name]
            unit = f" ({says_of['unit']})" if "unit" in says_of else ""
            row = (
                f"`{field.name}`",
                _values(says_of),
                _default(field, says_of),
                f"{says_of.get('description', '')}{unit}",
            )
            parts.append("| " + " | ".join(row) + " |")
        parts.append("")
    return "\n".join(parts)


def _values(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(str(value) for value in schema["enum"])
    if "anyOf" in schema:
        return ", ".join(words for one in schema["anyOf"] if (words := _values(one)))
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum")
    kinds = {
        "integer": "whole number",
        "number": "number",
        "string": "text",
        "array": "list of text",
    }
    kind = {**kinds, "boolean": "true, false", "object": "table", "null": ""}.get(
        schema.get("type", "object"), "table"
    )
    if low is None:
        return kind
    if high is not None:
        return f"{kind} {low} to {high}"
    return f"{kind} from {low}" if "minimum" in schema else f"{kind} above {low}"


def _default(field: Any, schema: dict[str, Any]) -> str:
    if field.required:
        return "required"
    if "unset" in schema:
        return f"{schema['unset']}"
    default = field.default
    if default in (None, msgspec.NODEFAULT, ()) or isinstance(default, msgspec.Struct):
        return "–"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"
