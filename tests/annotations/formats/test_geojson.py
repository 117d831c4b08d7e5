"""GeoJSON of QuPath."""

from pathlib import Path

from emcfsys_engine.annotations.files import read_annotations
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
