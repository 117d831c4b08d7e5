"""Classes proposed for labels that are there."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emcfsys_engine.annotations.shapes import Annotation, Shape
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.tools.new_classes import from_class_folders, from_masks, from_shapes


def drawn(*labels: str, kind: str = "polygon") -> Annotation:
    """Return shapes that cover all of a small image."""
    ring = np.array([[0, 0], [10, 0], [10, 10], [0, 10]], float)
    shapes = tuple(Shape(label=label, kind=kind, rings=(ring,)) for label in labels)  # type: ignore[arg-type]
    return Annotation(
        file=Path("a.json"), format="labelme", image_name="a.png", shapes=shapes, size_HW=(10, 10)
    )


def mask(folder: Path, name: str, pixels: np.ndarray) -> ImageRef:
    Image.fromarray(pixels).save(folder / name)
    return ImageRef(path=folder / name)


def test_names_of_shapes_become_classes_and_near_duplicates_are_named() -> None:
    found = from_shapes([drawn("mitochondria", "mitochondrion", "axon_1", "axon_2", "_ignore_")])
    assert found is not None
    assert list(found.classes)[:1] == ["background"]
    assert found.alike == (("mitochondria", "mitochondrion"),)
    merged = from_shapes(
        [drawn("mitochondria", "mitochondrion")], {"mitochondria": "mitochondrion"}
    )
    assert merged is not None
    assert (list(merged.classes), merged.labels) == (
        ["background", "mitochondrion"],
        {"mitochondria": "mitochondrion"},
    )
    assert merged.held["mitochondrion"] == (2, 1)


def test_nothing_drawn_is_no_proposal_and_a_shape_without_a_label_is_ignored() -> None:
    assert from_shapes([drawn()]) is None
    found = from_shapes([drawn("", "grain")])
    assert found is not None
    assert found.labels == {"": "ignore"}


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        ([0, 255], {"background": 0, "object": 1}),
        ([0, 1, 2], {"background": 0, "class_1": 1, "class_2": 2}),
        ([0, 1, 255], {"background": 0, "class_1": 1}),
    ],
)
def test_values_of_masks_become_classes(
    values: list[int], classes: dict[str, int], tmp_path: Path
) -> None:
    pixels = np.repeat(np.array(values, np.uint8), 200).reshape(len(values) * 10, 20)
    assert from_masks([mask(tmp_path, "a.png", pixels)]).classes == classes


def test_many_values_are_numbers_of_objects(tmp_path: Path) -> None:
    pixels = np.zeros((100, 100), np.uint16)
    for number in range(1, 61):
        row, column = divmod(number - 1, 10)
        pixels[row * 10 : row * 10 + 8, column * 10 : column * 10 + 8] = number
    found = from_masks([mask(tmp_path, "a.png", pixels)])
    assert found.classes == {"background": 0, "object": 1}
    assert found.labels == {"1-60": "object"}


def test_folders_of_masks_are_classes_by_their_names() -> None:
    found = from_class_folders(["bg", "cell", "_ignore_"])
    assert next(iter(found.classes)) == "bg"
    assert found.classes["cell"] == 1
