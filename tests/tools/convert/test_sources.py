"""A source is annotations, one folder of masks a class, or masks; if it is none, it is named."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emcfsys_engine.errors import AnnotationError
from emcfsys_engine.tools.convert.conversion import convert_labels


def test_a_folder_without_labels_is_named(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(AnnotationError, match="none: holds no masks and no annotations"):
        convert_labels("none", tmp_path / "out", to="masks", base=tmp_path)
    assert not (tmp_path / "out").exists()


def test_masks_beside_a_text_that_is_no_annotation_are_masks(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / "m/a.png")
    (tmp_path / "m/readme.json").write_text("{}")
    made = convert_labels("m", tmp_path / "out", to="labelme", base=tmp_path)
    assert [Path(file).name for file in made.written] == ["a.json"]
    assert made.skipped == ()
