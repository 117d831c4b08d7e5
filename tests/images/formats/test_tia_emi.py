"""The image inside a TIA .emi is that of its series, and is found without it."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.formats import tia, tia_emi


@pytest.mark.parametrize("name", ["128x128-TEM_search", "64x64_TEM_images_acquire"])
def test_it_holds_the_pixels_and_the_scale_of_its_series(
    name: str, shared_data: Path, tmp_path: Path
) -> None:
    folder = shared_data / "microscope-formats" / "fei-tia"
    alone = shutil.copy(folder / f"{name}.emi", tmp_path / "a.emi")
    inside, beside = tia_emi.read(alone, 0), tia.read(folder / f"{name}_1.ser", 0)
    assert np.array_equal(inside.pixels, beside.pixels)
    assert inside.pixel_nm == pytest.approx(beside.pixel_nm)


def test_a_file_without_an_image_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.emi"
    file.write_bytes(b"JK\0\2" + bytes(500))
    with pytest.raises(ImageError):
        tia_emi.probe(file)
