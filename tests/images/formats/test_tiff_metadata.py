"""A TIFF's pixel size, told from what is no pixel size."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from emcfsys_engine.images.reader import probe


def test_a_tiff_with_dots_per_inch_or_centimetre_has_no_pixel_size(tmp_path: Path) -> None:
    for unit in ("INCH", "CENTIMETER"):
        path = tmp_path / f"{unit}.tif"
        tifffile.imwrite(
            path, np.zeros((8, 8), np.uint8), resolution=(300, 300), resolutionunit=unit
        )
        assert probe(path).pixel_nm is None


def test_an_ome_tiff_tells_its_pixel_size(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    metadata = {
        "axes": "ZYX",
        "PhysicalSizeX": 12.5,
        "PhysicalSizeXUnit": "nm",
        "PhysicalSizeY": 0.025,
        "PhysicalSizeYUnit": "µm",
    }
    tifffile.imwrite(path, np.zeros((2, 8, 9), np.float32), metadata=metadata)
    facts = probe(path)
    assert (facts.planes, facts.shape) == (2, (8, 9))
    assert facts.pixel_nm == pytest.approx((25.0, 12.5))
