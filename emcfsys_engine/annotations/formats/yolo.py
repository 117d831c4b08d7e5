"""YOLO segmentation: one text file an image, a class number and a polygon in fractions a line."""

import functools
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path

import numpy as np

from emcfsys_engine.annotations.shapes import (
    Annotation,
    Gathering,
    Shape,
    box_ring,
    name_of_number,
)
from emcfsys_engine.annotations.text_encoding import text_of
from emcfsys_engine.errors import AnnotationError

_YAML_FILES = ("data.yaml", "data.yml", "dataset.yaml")
_NAME_LISTS = ("classes.txt", "obj.names")
_LINE = re.compile(r"\d+(\s+-?[\d.]+(e-?\d+)?){4,}\s*", re.IGNORECASE)
_LARGEST_NAMES_BYTES = 1 << 20
# labels/train/night/a.txt and train/labels/a.txt have their data.yaml where the set begins.
_FOLDERS_UP = 4
_UNNAMED = (
    "no data.yaml or classes.txt beside or above it names YOLO's numbers: they are taken for the "
    "values of the classes"
)


def is_yolo(text: str) -> bool:
    """Tell whether a text is YOLO's labels: a class number and fractions, on its first line."""
    lines = text.split("\n", 1)
    return bool(_LINE.fullmatch(lines[0].strip()))


def read(path: Path, text: str) -> list[Annotation]:
    """Return the one annotation of a YOLO file; names come from a data.yaml beside or above it.

    Where no file names them, numbers are class values, and a note says so.

    Boxes among polygons are skipped, as other tools do it, and their pixels are unlabelled.
    Raises: AnnotationError for poses, for boxes alone (a detection set), or what is no number.
    """
    folders = path.absolute().parents[:_FOLDERS_UP]
    named = list(filter(None, map(class_names, folders)))
    names = named[0] if named else {}
    keypoints = next(filter(None, map(_keypoint_numbers, folders)), 0)
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
        _line(f"line {number}", name_of_number(names, index), values, found)
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
            notes=tuple(_doubts({int(words[0]) for _, words in lines}, named)),
            relative=True,
        )
    ]


def name_files(path: Path) -> list[Path]:
    """Return every place where the numbers of a file of labels may be named, the nearest first."""
    folders = path.absolute().parents[:_FOLDERS_UP]
    return [folder / name for folder in folders for name in (*_YAML_FILES, *_NAME_LISTS)]


def _doubts(numbers: set[int], named: list[dict[int, str]]) -> Iterator[str]:
    """Say where nobody names numbers, or files above call one otherwise than those that count."""
    if numbers and not named:
        yield _UNNAMED
    for number in sorted(numbers):
        called = list(dict.fromkeys(names[number] for names in named if number in names))
        if len(called) > 1 and number in named[0]:
            others = f"and {called[1]!r} by others above"
            yield f"number {number} is {called[0]!r} by the nearest names, which count, {others}"


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
    said = next(_yamls_in(folder), None)
    shape = said[1].get("kpt_shape") if said is not None else None
    if not isinstance(shape, list) or len(shape) != 2:
        return 0
    numbers = [one for one in shape if isinstance(one, str) and one.isdecimal()]
    return math.prod(map(int, numbers)) if len(numbers) == len(shape) else 0


def class_names(folder: Path) -> dict[int, str]:
    """Return class number -> name from the data.yaml or classes.txt of a folder; empty if none.

    Raises: AnnotationError where a file says names in a way that is not understood, or two files
    say different ones: a tool that numbers classes anew writes one of them.
    """
    said = [(file, _names_of(file, document)) for file, document in _yamls_in(folder)]
    for name in _NAME_LISTS:
        if (text := _text_in(folder / name)) is not None:
            lines = enumerate(text.splitlines())
            said.append((folder / name, {n: line.strip() for n, line in lines if line.strip()}))
    first, names = next((one for one in said if one[1]), (folder, {}))
    for other, others in said:
        for number in sorted(names.keys() & others.keys()):
            if names[number] != others[number]:
                what = f"calls number {number} {others[number]!r}, and {first.name} beside it calls"
                remedy = "Remove the one that is out of date"
                raise AnnotationError(other, f"{what} it {names[number]!r}", remedy)
    return names


def _yamls_in(folder: Path) -> Iterator[tuple[Path, Mapping[str, object]]]:
    for name in _YAML_FILES:
        if (text := _text_in(folder / name)) is not None:
            yield folder / name, _document(folder / name, text)


def _text_in(file: Path) -> str | None:
    if not file.is_file() or file.stat().st_size > _LARGEST_NAMES_BYTES:
        return None
    return text_of(file, file.read_bytes())


@functools.lru_cache(maxsize=16)  # it is asked for each file of labels
def _document(file: Path, text: str) -> Mapping[str, object]:
    """Return what a data.yaml says; every word stays text: a class may be called "no" or "1.0"."""
    if "names" not in text and "kpt_shape" not in text:
        return {}
    yaml = import_module("yaml")
    try:
        found = yaml.load(text, Loader=yaml.BaseLoader)  # builds no objects but these three
    except (yaml.YAMLError, RecursionError) as error:
        why = " ".join(str(getattr(error, "problem", "") or "it is nested too deep").split())
        raise AnnotationError(
            file, f"is no YAML ({why})", "Mend its names:, or remove it"
        ) from None
    return found if isinstance(found, dict) else {}


def _names_of(file: Path, document: Mapping[str, object]) -> dict[int, str]:
    """Return the `names:` of a data.yaml, which are a list or a table by number."""
    said = document.get("names") or {}
    pairs: Iterable[tuple[object, object]] = (("", said),)
    if isinstance(said, list):
        pairs = enumerate(said)
    elif isinstance(said, dict):
        pairs = said.items()
    names: dict[int, str] = {}
    for number, name in pairs:
        if not str(number).isdecimal() or not isinstance(name, str):
            # Never a list itself: ten lines of YAML can name one of 10⁹ words.
            told = f"{name!r:.40}" if isinstance(name, str) else "lists or tables in it"
            what = f"says names that are no list of names, and no table of numbers: {told}"
            raise AnnotationError(file, what, "Write them as: names: {0: matrix, 1: pore}")
        names[int(number)] = name.strip()
    return names
