"""What masks to measure mean, where nobody says it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emcfsys_engine.errors import AnnotationError
from emcfsys_engine.tools.measure.masks import measure_masks
from emcfsys_engine.tools.measure.results import MeasureSettings


def _two_squares() -> np.ndarray:
    mask = np.zeros((96, 128), np.uint8)
    mask[10:40, 10:50] = 255
    mask[60:80, 70:110] = 255
    return mask


def _counts(folder: Path, out: Path) -> dict[str, int]:
    found = measure_masks(str(folder), out, MeasureSettings())
    return {one.name: one.num_objects for one in found.classes if one.num_objects}


def test_a_mask_saved_as_jpeg_has_the_objects_that_were_drawn(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    Image.fromarray(_two_squares()).save(tmp_path / "m" / "a.jpg", quality=70)
    assert _counts(tmp_path / "m", tmp_path / "o") == {"object": 2}


def test_colours_are_classes(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    mask = np.zeros((96, 128, 3), np.uint8)
    mask[_two_squares() > 0] = (255, 0, 0)
    mask[85:95, 5:20] = (0, 255, 0)
    Image.fromarray(mask).save(tmp_path / "m" / "a.png")
    assert _counts(tmp_path / "m", tmp_path / "o") == {"class_1": 2, "class_2": 1}


def test_one_folder_of_masks_a_class_is_joined_first(tmp_path: Path) -> None:
    for name in ("grain", "pore"):
        (tmp_path / "m" / name).mkdir(parents=True)
        Image.fromarray(_two_squares()).save(tmp_path / "m" / name / "a.png")
    settings = MeasureSettings(classes={"resin": 0, "grain": 1, "pore": 2})
    with pytest.raises(AnnotationError, match="one folder of masks a class"):
        measure_masks(str(tmp_path / "m"), tmp_path / "o", settings)
    assert not (tmp_path / "o").exists()
