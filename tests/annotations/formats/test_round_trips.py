"""What we write is read back as the same pixels, by us and by the formats' own libraries."""

import numpy as np
import pytest
from hypothesis import given, settings

from emcfsys_engine.annotations.draw import regions_of
from emcfsys_engine.annotations.formats.coco import coco_image, write_coco
from emcfsys_engine.annotations.formats.geojson import write_geojson
from emcfsys_engine.annotations.formats.imagej import write_imagej
from tests.annotations.formats.trips import NAMES, read_back, small_masks


@settings(max_examples=60, deadline=None)
@given(ids=small_masks())
def test_geojson_imagej_and_coco_keep_every_pixel_and_every_hole(
    ids: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("round")
    regions = tuple(regions_of(ids, background=0))
    write_geojson(folder / "x.geojson", regions, NAMES)
    write_imagej(folder / "x.zip", regions, NAMES)
    write_coco(folder / "x.json", [coco_image("x", ids.shape, regions)], NAMES)
    for name in ("x.geojson", "x.zip", "x.json"):
        assert np.array_equal(read_back(folder / name, ids.shape), ids), name
