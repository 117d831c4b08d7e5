"""YOLO segmentation: one text file an image, a class number and a polygon in fractions a line."""

import re
from pathlib import Path

import numpy as np

from emcfsys_engine.annotations.shapes import Annotation, Shape
from emcfsys_engine.errors import AnnotationError

_NAME_FILES = ("data.yaml", "data.yml", "dataset.yaml", "classes.txt", "obj.names")
_LINE = re.compile(r"\d+(\s+-?[\d.]+(e-?\d+)?){4,}\s*", re.IGNORECASE)
_LARGEST_NAMES_BYTES = 1 << 20


def is_yolo(text: str) -> bool:
    """Tell whether a text is YOLO's labels: a class number and fractions, on its first line."""
    lines = text.split("\n", 1)
    return bool(_LINE.fullmatch(lines[0].strip()))


def read(path: Path, text: str) -> list[Annotation]:
    """Return the one annotation of a YOLO file; names come from a data.yaml beside or above it.

    Raises: AnnotationError for boxes (a detection set) or numbers out of range.
    """
    names = class_names(path.parent) or class_names(path.parent.parent)
    shapes: list[Shape] = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        try:
            index, values = int(words[0]), np.array([float(word) for word in words[1:]])
        except ValueError:
            raise AnnotationError(
                path, f"line {number} is no YOLO label", "Export it again"
            ) from None
        if len(values) in (4, 5):
            raise AnnotationError(
                path,
                f"line {number} is a box, which does not say which pixels belong to an object",
                "Export a segmentation set, with polygons",
            )
        if len(values) < 6 or len(values) % 2 or not (np.abs(values) <= 2).all():
            raise AnnotationError(
                path, f"line {number} is no polygon in fractions", "Export it again"
            )
        label = names.get(index, str(index))
        shapes.append(Shape(label=label, kind="rings", rings=(values.reshape(-1, 2),)))
    return [
        Annotation(
            file=path,
            format="YOLO",
            image_name="",
            size_HW=None,
            shapes=tuple(shapes),
            relative=True,
        )
    ]


def class_names(folder: Path) -> dict[int, str]:
    """Return class number -> name from the data.yaml or classes.txt of a folder; empty if none."""
    for name in _NAME_FILES:
        file = folder / name
        if not file.is_file() or file.stat().st_size > _LARGEST_NAMES_BYTES:
            continue
        text = file.read_text("utf-8", "replace")
        if file.suffix in (".txt", ".names"):
            return {n: line.strip() for n, line in enumerate(text.splitlines()) if line.strip()}
        return _names_of_yaml(text)
    return {}


def _names_of_yaml(text: str) -> dict[int, str]:
    """Return the `names:` of a YOLO data.yaml: a list in brackets, a list in lines, or a table."""
    found = re.search(
        r"^names:[ \t]*(\[[^\]]*\]|\{[^}]*\})?(.*(?:\n[ \t]*(?:-|\d+:).*)*)", text, re.MULTILINE
    )
    if not found:
        return {}
    words = [
        _bare(word) for word in re.split(r"[,\n]", (found[1] or "").strip("[]{}")) if _bare(word)
    ]
    if not words:
        words = [_bare(line) for line in found[2].splitlines() if _bare(line)]
    names: dict[int, str] = {}
    for place, word in enumerate(words):
        numbered = re.fullmatch(r"(\d+)\s*:\s*(.+)", word)
        if numbered:
            names[int(numbered[1])] = _bare(numbered[2])
        else:
            names[place] = _bare(word.removeprefix("-"))
    return names


def _bare(word: str) -> str:
    return word.split(" #")[0].strip().strip("'\"").strip()
