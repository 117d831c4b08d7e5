"""OME-Zarr: its finest level, and none outside its folder."""

from pathlib import Path

import numpy as np
import pytest
import zarr

from emcfsys_engine.images.reader import find_images, probe, read_micrograph
from tests.images.formats.made import RNG


@pytest.mark.parametrize("version", [2, 3])
def test_ome_zarr_is_read_at_its_finest_level(tmp_path: Path, version: int) -> None:
    pixels = RNG.integers(0, 65535, (2, 30, 40)).astype(np.uint16)
    root = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=version)
    for level, array in (("0", pixels), ("1", pixels[:, ::2, ::2])):
        root.create_array(level, data=array, chunks=(1, 16, 16))
    scales = {
        "version": "0.4",
        "axes": [
            {"name": "z", "type": "space", "unit": "nanometer"},
            {"name": "y", "type": "space", "unit": "nanometer"},
            {"name": "x", "type": "space", "unit": "micrometer"},
        ],
        "datasets": [
            {
                "path": "0",
                "coordinateTransformations": [{"type": "scale", "scale": [50, 4, 0.004]}],
            },
            {
                "path": "1",
                "coordinateTransformations": [{"type": "scale", "scale": [50, 8, 0.008]}],
            },
        ],
    }
    root.attrs["multiscales" if version == 2 else "ome"] = (
        [scales] if version == 2 else {"multiscales": [scales]}
    )
    facts = probe(tmp_path / "a.zarr")
    assert (facts.format, facts.shape, facts.planes) == ("OME-Zarr", (30, 40), 2)
    assert facts.pixel_nm == pytest.approx((4.0, 4.0))
    refs = find_images(".", tmp_path)
    assert [ref.name for ref in refs] == ["a.zarr#0", "a.zarr#1"]
    assert np.array_equal(read_micrograph(refs[1]).pixels, pixels[1])


def test_a_zarr_level_outside_its_folder_is_refused(tmp_path: Path) -> None:
    zarr.open_array(str(tmp_path / "secret.zarr"), mode="w", shape=(8, 8), dtype="u1")[:] = 77
    root = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=2)
    root.attrs["multiscales"] = [{"datasets": [{"path": "../secret.zarr"}]}]
    with pytest.raises(Exception, match="outside its own folder"):
        probe(tmp_path / "a.zarr")
