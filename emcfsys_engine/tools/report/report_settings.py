"""What a run was told and what it decided, as tables: project, plan with reasons, environment."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from emcfsys_engine.run.folder import RunRecord
from emcfsys_engine.tools.report.report_html import Cell, folded, section, table
from emcfsys_engine.tools.report.summary import Story

_MOST_CHARACTERS = 400
_OPEN = "not set"
_APART = ("format", "reasons", "train_images", "val_images")


def settings_section(record: RunRecord) -> str:
    """Return what the run was asked and the project it used."""
    asked = {"request": msgspec.to_builtins(record.request), "seed": record.seed}
    project = msgspec.to_builtins(record.project) if record.project is not None else {}
    rows = [*_flat(asked), *_flat(project)]
    said = [row for row in rows if row[1] != _OPEN]
    left = [row for row in rows if row[1] == _OPEN]
    return section(
        "Settings",
        table(["", ""], said, kind="facts"),
        folded(f"Left open ({len(left)})", table(["", ""], left, kind="facts")),
    )


def plan_section(plan: Mapping[str, Any]) -> str:
    """Return every choice that the run made for itself, with its reason."""
    reasons = plan.get("reasons")
    reasons = reasons if isinstance(reasons, dict) else {}
    rows: list[Sequence[Cell]] = []
    told: set[str] = set()
    for key, value in plan.items():
        if key in _APART:
            continue
        for name, words in _flat({key: value}):
            reason = reasons.get(name, "")
            told.add(str(name))
            rows.append([name, words, str(reason)])
    rows += [[str(key), "", str(why)] for key, why in reasons.items() if key not in told]
    lists = "".join(
        folded(f"{word} images ({len(names)})", table(["", ""], [[str(name)] for name in names]))
        for word, key in (("Training", "train_images"), ("Validation", "val_images"))
        if isinstance(names := plan.get(key), list) and names
    )
    chosen = table(["choice", "value", "reason"], rows, kind="facts") if rows else ""
    return section("Plan", chosen, lists)


def environment_section(story: Story) -> str:
    """Return versions, interpreter, folders and the variables the worker knew."""
    record = story.record
    rows: list[Sequence[Cell]] = [[name, version] for name, version in record.versions.items()]
    rows += [["interpreter", record.python], ["started in", record.folder]]
    rows.append(["run folder", str(story.run.folder)])
    variables = table(["", ""], sorted(record.environment.items()), kind="facts")
    return section(
        "Environment",
        table(["", ""], rows, kind="facts"),
        folded(f"Environment variables ({len(record.environment)})", variables),
    )


def _flat(values: Mapping[str, Any], before: str = "") -> list[Sequence[Cell]]:
    """Return nested settings as rows of key and value: training.steps, data.0.images."""
    rows: list[Sequence[Cell]] = []
    for key, value in values.items():
        name = f"{before}{key}"
        if isinstance(value, dict) and value:
            rows += _flat(value, f"{name}.")
        elif isinstance(value, list | tuple) and value and isinstance(value[0], dict):
            rows += _flat({str(place): one for place, one in enumerate(value)}, f"{name}.")
        else:
            rows.append([name, _words(value)])
    return rows


def _words(value: Any) -> str:
    if value is None:
        return _OPEN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.10g}"
    if isinstance(value, list | tuple | dict):
        words = ", ".join(_words(one) for one in value) if value else "none"
        return words if len(words) <= _MOST_CHARACTERS else f"{words[:_MOST_CHARACTERS]}…"
    return str(value)
