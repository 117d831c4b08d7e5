"""A TIFF's pixel size, told from what is no pixel size."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.reader import probe, read_micrograph


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


@pytest.mark.parametrize(
    ("second_nm", "name", "expected"),
    [(2.0, "spot 2", None), (10.0, "spot 2", (10.0, 10.0)), (2.0, "macro image", (10.0, 10.0))],
)
def test_an_ome_tiff_of_images_of_two_pixel_sizes_tells_none(
    tmp_path: Path, second_nm: float, name: str, expected: tuple[float, float] | None
) -> None:
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path) as file:
        for side, called in ((10.0, "spot 1"), (second_nm, name)):
            words = {"PhysicalSizeX": side, "PhysicalSizeXUnit": "nm"}
            words |= {"PhysicalSizeY": side, "PhysicalSizeYUnit": "nm"}
            words |= {"axes": "YX", "Name": called}
            file.write(np.zeros((8, 9), np.uint8), metadata=words)
    facts = probe(path)
    assert facts.pixel_nm == expected
    assert any("differ in pixel size" in note for note in facts.notes) == (expected is None)


def test_rows_of_imagej_may_have_a_unit_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    words = {"unit": "\\u00B5m", "yunit": "nm"}
    pixels = np.zeros((8, 9), np.uint8)
    tifffile.imwrite(path, pixels, imagej=True, resolution=(1 / 0.02, 1 / 12.0), metadata=words)
    assert probe(path).pixel_nm == pytest.approx((12.0, 20.0))


def test_what_a_maker_says_of_a_page_is_not_taken_for_one_of_another_size(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tags = [(65003, "s", 0, "nm", True), (65009, "d", 1, 2.0, True)]  # Gatan's
    with tifffile.TiffWriter(path) as writer:
        writer.write(np.zeros((64, 64), np.uint8), extratags=tags, metadata=None)
        writer.write(np.zeros((16, 16), np.uint8), metadata=None)  # the same, smaller
        writer.write(np.zeros((64, 64), np.uint8), metadata=None)
    sizes = [read_micrograph(ImageRef(path=path, plane=plane)).pixel_nm for plane in range(3)]
    assert sizes == [(2.0, 2.0), None, (2.0, 2.0)]
    facts = probe(path)
    assert facts.pixel_nm == (2.0, 2.0)
    assert [facts.pixel_nm_of(plane) for plane in range(3)] == sizes
