"""GeoJSON of QuPath."""

import json
from pathlib import Path

import numpy as np
import shapely.geometry

from emcfsys_engine.annotations.draw import regions_of
from emcfsys_engine.annotations.files import read_annotations
from emcfsys_engine.annotations.formats.geojson import write_geojson
from emcfsys_engine.annotations.shapes import Annotation
from tests.annotations.formats.made import drawn, formats


def test_qupath_polygons_with_holes_are_read(shared_data: Path) -> None:
    (one,) = read_annotations(formats(shared_data) / "qupath-geojson/Single_cells.geojson")
    assert len(one.shapes) == 131
    assert {"class_1", "single_cells_demo"} <= {shape.label for shape in one.shapes}
    first = drawn(
        Annotation(file=one.file, format="", image_name="", size_HW=None, shapes=one.shapes[:1]),
        (1000, 1000),
    )
    assert int(first.sum()) == (982 - 296) * 416


def test_an_object_of_several_parts_is_written_as_such_with_its_area(tmp_path: Path) -> None:
    numbers = np.zeros((100, 120), np.int32)
    numbers[10:40, 10:40] = numbers[60:90, 70:100] = 1  # two parts
    numbers[10:60, 60:110], numbers[20:50, 70:100], numbers[30:40, 80:90] = 2, 0, 2  # an island
    numbers[60:90, 10:40], numbers[70:80, 20:30] = 3, 0  # one hole
    ids = (numbers > 0).astype(np.uint8)
    file = tmp_path / "a.geojson"
    regions = regions_of(ids, background=0, tolerance_px=0, numbers=numbers)
    write_geojson(file, regions, {1: "cell"})
    told = [one["geometry"] for one in json.loads(file.read_text())["features"]]
    assert [one["type"] for one in told] == ["MultiPolygon", "MultiPolygon", "Polygon"]
    for number, one in enumerate(map(shapely.geometry.shape, told), start=1):
        assert one.is_valid
        assert abs(one.area - (numbers == number).sum()) < 3  # half a pixel at each corner
    (read,) = read_annotations(file)
    assert np.array_equal(drawn(read, ids.shape), ids > 0)
