"""What a list knows of the sizes of its items before anybody does one."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emcfsys_engine.shards import sizes as module
from emcfsys_engine.shards.sizes import Sizes


def test_pixels_are_looked_at_for_the_first_images_and_reckoned_from_bytes_for_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 96), np.uint8)
    files = [tmp_path / f"{n}.png" for n in range(3)]
    for file in files:
        Image.fromarray(noise).save(file)
    monkeypatch.setattr(module, "_MOST_PROBED", 2)
    sizes = Sizes()
    found = [sizes.of(file, 1, is_wanted=True) for file in files]
    assert found == [(files[0].stat().st_size, 64 * 96)] * 3


def test_a_folder_has_no_bytes_and_what_cannot_be_read_no_pixels(tmp_path: Path) -> None:
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "torn.png").write_bytes(b"torn")
    sizes = Sizes()
    assert sizes.of(tmp_path / "a.zarr", 1, is_wanted=True)[0] == -1
    assert sizes.of(tmp_path / "torn.png", 1, is_wanted=True) == (4, 0)
    assert sizes.of(tmp_path / "gone.png", 1, is_wanted=True) == (-1, 0)
