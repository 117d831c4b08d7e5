"""From a source's own values, colours and names to class ids, as [data.labels] says."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from emcfsys_engine.project import UNLABELLED, Project, Source

IGNORED_LABELS = frozenset({"__ignore__", "ignore", "unlabelled", "unlabeled", "void"})
BACKGROUND_LABELS = frozenset({"_background_", "background"})
OTHER = "other"  # in [data.labels]: every value or colour that no other line names


@dataclass(frozen=True, kw_only=True)
class LabelTable:
    """What one source's labels mean.

    Shapes: values is a list of (low, high, class id), both ends included; colours are 0xRRGGBB.
    """

    values: tuple[tuple[int, int, int], ...]
    colours: dict[int, int] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    other: int | None = None
    background: int = UNLABELLED  # what no shape covers, and what a painted-over image shows

    def of_value(self, value: int) -> int | None:
        """Return the class id of a mask value; None when it is no class."""
        for low, high, class_id in self.values:
            if low <= value <= high:
                return class_id
        return self.other

    def of_name(self, name: str) -> int | None:
        """Return the class id of a label's name; None when it is no class."""
        if name in self.names:
            return self.names[name]
        if name in IGNORED_LABELS:
            return UNLABELLED
        if name in BACKGROUND_LABELS and self.background != UNLABELLED:
            return self.background
        if name.isdecimal() and len(name) < 10:  # tools without names write the class's number
            return self.of_value(int(name))
        return self.other

    def nearest_name(self, name: str) -> str:
        """Return the known name that looks most like this one; empty when none does."""
        by_lower = {known.lower(): known for known in self.names}
        near = difflib.get_close_matches(name.lower(), by_lower, 1, 0.6)
        return by_lower[near[0]] if near else ""

    def lookup(self, largest: int) -> np.ndarray:
        """Return an array that maps every value up to `largest`; -1 is no class.

        Shapes: int16, largest + 1 long.
        """
        table = np.full(largest + 1, -1 if self.other is None else self.other, np.int16)
        for low, high, class_id in reversed(self.values):
            table[max(low, 0) : high + 1] = class_id
        return table


def label_table(project: Project, source: Source) -> LabelTable:
    """Return what the labels of a source mean; its own [data.labels] go before the classes."""
    return table_of(project.classes, source.labels)


def table_of(classes: Mapping[str, int], labels: Mapping[str, str]) -> LabelTable:
    """Return what labels mean, from classes (name to value) and labels (own word to class name).

    Keys of [data.labels] are values ("255"), ranges ("128-255"), colours ("#ff0000"), names, and
    "other" for all the rest.
    """
    values: list[tuple[int, int, int]] = []
    colours: dict[int, int] = {}
    names = dict(classes)
    other = None
    for key, meaning in labels.items():
        class_id = UNLABELLED if meaning == "ignore" else classes[meaning]
        names[key] = class_id
        word = key.strip()
        span = re.fullmatch(r"(\d+)(?:\s*(?:-|–|\.\.)\s*(\d+))?", word)
        if span:
            values.append((int(span[1]), int(span[2] or span[1]), class_id))
        elif re.fullmatch(r"#[0-9a-fA-F]{6}", word):
            colours[int(word[1:], 16)] = class_id
        elif word == OTHER:
            other = class_id
    values += [(value, value, value) for value in classes.values()]
    values.append((UNLABELLED, UNLABELLED, UNLABELLED))
    has_zero = 0 in classes.values()
    return LabelTable(
        values=tuple(values),
        colours=colours,
        names=names,
        other=other,
        background=0 if has_zero else UNLABELLED,
    )
