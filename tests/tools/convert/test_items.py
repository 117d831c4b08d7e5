"""What is converted: masks of 0 and 255, one folder of masks a class, and what neither says."""

import json
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from emcfsys_engine.tools.convert.conversion import convert_labels


def _stencil(file: Path, rows: slice) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((64, 64), np.uint8)
    mask[rows] = 255
    Image.fromarray(mask).save(file)


def test_outlines_point_to_the_image_of_today_and_never_to_a_mask(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    _stencil(tmp_path / "masks" / "a.png", slice(0, 20))
    shown: list[np.ndarray] = []
    for seed in (1, 2):
        grey = np.random.default_rng(seed).integers(0, 60_000, (64, 64)).astype(np.uint16)
        tifffile.imwrite(tmp_path / "images" / "a.tif", grey)
        for out in ("apart", "masks"):
            convert_labels(
                "masks/a.png", tmp_path / out, to="labelme", images="images", base=tmp_path,
                overwrite=True,
            )  # fmt: skip
            document = json.loads((tmp_path / out / "a.json").read_text())
            picture = tmp_path / out / document["imagePath"]
            pixels = np.asarray(Image.open(picture))
            assert np.corrcoef(pixels.ravel(), grey.ravel())[0, 1] > 0.99
            shown.append(pixels)
    assert set(np.unique(np.asarray(Image.open(tmp_path / "masks" / "a.png")))) == {0, 255}
    assert not np.array_equal(shown[0], shown[2])
