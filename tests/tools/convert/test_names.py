"""What is converted has a name of its own below the output folder."""

from pathlib import Path

import numpy as np
from PIL import Image

from emcfsys_engine.tools.convert.conversion import convert_images


def test_no_two_images_are_converted_to_one_name(tmp_path: Path) -> None:
    names = ("x.tif", "x.png", "x.tif.jpg", "X.png", "y.tif", "y.0001.png")
    (tmp_path / "in").mkdir()
    for number, name in enumerate(names):
        pixels = np.random.default_rng(number).integers(0, 255, (8, 8), np.uint8)
        kind = "JPEG" if name.endswith("jpg") else None
        two = {"save_all": True, "append_images": [Image.fromarray(pixels)]}
        more = two if name == "y.tif" else {}
        Image.fromarray(pixels).save(tmp_path / "in" / name, kind, **more)
    for overwrite in (False, True):
        done = convert_images(str(tmp_path / "in"), tmp_path / "out", overwrite=overwrite)
        assert done.skipped == ()
        assert len({file.casefold() for file in done.written}) == len(names) + 1
