"""What contradicts is told by one function; masks that models made are not even looked at."""

from pathlib import Path

import numpy as np
from PIL import Image

from emcfsys_engine.annotations.contradictions import contradictions, may_contradict
from emcfsys_engine.annotations.masks import mask_facts, table_of
from emcfsys_engine.images.micrograph import ImageRef
from tests.annotations.test_pair_masks import Folders, folders
from tests.annotations.test_palettes import draw

__all__ = ["folders"]

CLASSES = {"bg": 0, "a": 1}


def test_palettes_and_white_are_told_together(tmp_path: Path) -> None:
    refs = [draw(tmp_path / f"{n}.png", order) for n, order in enumerate([(0, 1, 2), (0, 2, 1)])]
    for name, value in (("one", 1), ("white", 255)):
        Image.fromarray(np.tri(20, dtype=np.uint8) * np.uint8(value)).save(tmp_path / f"{name}.png")
        refs.append(ImageRef(path=tmp_path / f"{name}.png"))
    for labels, told in (
        ({}, ["1.png", "white.png"]),
        ({"255": "a"}, ["1.png"]),
        ({"#ff0000": "a"}, ["white.png"]),
    ):
        table = table_of(CLASSES, labels)
        facts = [(ref, mask_facts(ref, table_of({}, {}))) for ref in refs]
        faults = contradictions(facts, table, (0, 1))
        assert [Path(str(fault.where)).name for fault in faults] == told


def test_masks_as_a_model_made_them_are_not_looked_at(folders: Folders) -> None:
    made = [folders.mask(folders.image(f"{name}.tif")) for name in "ab"]
    assert not may_contradict(folders.counting(), 2)
    Image.fromarray(np.tri(20, dtype=np.uint8)).save(made[0])  # by a person
    assert may_contradict(folders.counting(), 2)
    assert not may_contradict(folders.counting(), 3)  # of one palette, or none
