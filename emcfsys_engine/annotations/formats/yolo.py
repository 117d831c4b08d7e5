"""YOLO segmentation: one text file an image, a class number and a polygon in fractions a line."""

import re
from pathlib import Path

import numpy as np

from emcfsys_engine.annotations.shapes import Annotation, Gathering, Shape, box_ring
from emcfsys_engine.annotations.text_encoding import text_of
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

    Boxes among polygons are skipped, as other tools do it, and their pixels are unlabelled.
    Raises: AnnotationError for poses, for boxes alone (a detection set), or what is no number.
    """
    names = class_names(path.parent) or class_names(path.parent.parent)
    keypoints = _keypoint_numbers(path.parent) or _keypoint_numbers(path.parent.parent)
    lines = [(number, line.split()) for number, line in enumerate(text.splitlines(), start=1)]
    lines = [(number, words) for number, words in lines if words]
    found = Gathering()
    for number, words in lines:
        try:
            index, values = int(words[0]), np.array([float(word) for word in words[1:]])
        except ValueError:
            what = f"line {number} is no YOLO label"
            raise AnnotationError(path, what, "Export it again") from None
        if _is_pose(words[1:], keypoints):
            what = (
                f"line {number} is a pose (a box and key points), which does not say which pixels"
            )
            remedy = "Export a segmentation set, with polygons"
            raise AnnotationError(path, f"{what} belong to an object", remedy)
        _line(f"line {number}", names.get(index, str(index)), values, found)
    if found.skipped and not found.shapes:
        raise AnnotationError(
            path, found.skipped[0].why, "Export a segmentation set, with polygons"
        )
    return [
        Annotation(
            file=path,
            format="YOLO",
            image_name="",
            size_HW=None,
            shapes=tuple(found.shapes),
            skipped=tuple(found.skipped),
            relative=True,
        )
    ]


def _line(what: str, label: str, values: np.ndarray, found: Gathering) -> None:
    """Draw a polygon; a box, or what is neither, is skipped with what is known of its pixels."""
    if not (np.abs(values) <= 2).all():
        found.skip(label, f"{what} ({label}) is no polygon in fractions", in_doubt=True)
    elif len(values) in (4, 5):  # of 5 numbers the last is how sure a detector was
        x, y, width, height = (float(value) for value in values[:4])
        ring = box_ring(x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        why = "is a box, which does not say which pixels belong to an object"
        outline = Shape(label=label, kind="rings", rings=(ring,))
        found.skip(label, f"{what} ({label}) {why}", outline=outline)
    elif len(values) < 6 or len(values) % 2:
        found.skip(label, f"{what} ({label}) has {len(values)} numbers, no polygon", in_doubt=True)
    else:
        found.draw(Shape(label=label, kind="rings", rings=(values.reshape(-1, 2),)))


def _is_pose(words: list[str], keypoints: int) -> bool:
    """Tell whether the numbers of a line are a box and key points, not a polygon.

    data.yaml says it, or every key point has a visibility, which is 0, 1 or 2.
    """
    if keypoints and len(words) == 4 + keypoints:
        return True
    if len(words) < 10 or (len(words) - 4) % 3:
        return False
    x, y, width, height = (float(word) for word in words[:4])
    points = np.array([float(word) for word in words[4:]]).reshape(-1, 3)
    shown = points[points[:, 2] > 0]
    inside = np.abs(shown[:, :2] - (x, y)) <= np.array((width, height)) / 2 + 0.02
    return bool(np.isin(points[:, 2], (0.0, 1.0, 2.0)).all() and inside.all())


def _keypoint_numbers(folder: Path) -> int:
    """Return how many numbers the key points of a line have by data.yaml; 0 if unsaid."""
    for name in _NAME_FILES[:3]:
        file = folder / name
        if file.is_file() and file.stat().st_size <= _LARGEST_NAMES_BYTES:
            text = text_of(file, file.read_bytes())
            found = re.search(r"^kpt_shape:\s*\[\s*(\d+)\s*,\s*(\d+)\s*\]", text, re.MULTILINE)
            if not found:
                found = re.search(
                    r"^kpt_shape:\s*\n\s*-\s*(\d+)\s*\n\s*-\s*(\d+)", text, re.MULTILINE
                )
            if found:
                return int(found[1]) * int(found[2])
    return 0


def class_names(folder: Path) -> dict[int, str]:
    """Return class number -> name from the data.yaml or classes.txt of a folder; empty if none."""
    for name in _NAME_FILES:
        file = folder / name
        if not file.is_file() or file.stat().st_size > _LARGEST_NAMES_BYTES:
            continue
        text = text_of(file, file.read_bytes())
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
