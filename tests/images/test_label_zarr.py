"""Label images as OME-Zarr: regions in files of their own, coarser levels, where a part lies."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from emcfsys_engine.images import label_zarr
from emcfsys_engine.images.label_zarr import (
    ZarrWriter,
    add_levels,
    begin_labels,
    file_of,
    finish_labels,
    write_region,
)
from emcfsys_engine.regions import cuts


def _labels(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 3, (height, width), np.uint8)


def _levels(folder: Path) -> list[Any]:
    group = zarr.open_group(folder, mode="r")
    about: Any = group.attrs["ome"]
    return [
        (each["coordinateTransformations"], np.asarray(group[each["path"]]))
        for each in about["multiscales"][0]["datasets"]
    ]


def test_each_region_is_one_file_and_of_background_alone_none(tmp_path: Path) -> None:
    size_HW, cut_HW = (600, 700), (512, 256)
    array = begin_labels(tmp_path / "x", "x", size_HW, None, cut_HW=cut_HW, chunk_px=256)
    pixels = _labels(*size_HW)
    pixels[512:, :256] = 0
    files = set[Path]()
    for region in cuts(size_HW, cut_HW):
        file = file_of(array, region)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"torn")  # by a kill
        part = pixels[region.top : region.bottom, region.left : region.right]
        write_region(zarr.open_group(tmp_path / "x")["0"], region, part)
        files.add(file)
    files.remove(tmp_path / "x/0/c/1/0")
    assert files == {path for path in (tmp_path / "x/0/c").rglob("*") if path.is_file()}
    assert len(files) == 5
    np.testing.assert_array_equal(np.asarray(array), pixels)


@pytest.mark.parametrize("cut_HW", [None, (256, 256)])
def test_coarser_levels_are_every_second_pixel_of_the_finer_and_made_again_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut_HW: tuple[int, int] | None
) -> None:
    monkeypatch.setattr(label_zarr, "COARSEST_PX", 200)
    pixels = _labels(601, 330)
    array = begin_labels(
        tmp_path / "x", "x", (601, 330), (4.0, 5.0), cut_HW=cut_HW, chunk_px=64, corner_px=(10, 0)
    )
    array[:] = pixels
    add_levels(tmp_path / "x")
    group = zarr.open_group(tmp_path / "x", mode="r+")
    group["1"][:] = 9  # type: ignore[index]
    finish_labels(tmp_path / "x")
    levels = _levels(tmp_path / "x")
    for number, (changes, found) in enumerate(levels):
        step = 2**number
        np.testing.assert_array_equal(found, pixels[::step, ::step])
        assert changes == [
            {"type": "scale", "scale": [4.0 * step, 5.0 * step]},
            {"type": "translation", "translation": [40.0, 0.0]},
        ]
    assert [found.shape for _, found in levels] == [(601, 330), (301, 165), (151, 83)]


def test_a_large_mask_that_is_written_row_by_row_has_levels_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_zarr, "COARSEST_PX", 100)
    pixels = _labels(150, 90)
    writer = ZarrWriter(tmp_path / "x.ome.zarr", (150, 90))
    writer.write(pixels[:70])
    writer.write(pixels[70:])
    numbers = writer.instances("of it")
    numbers(pixels.astype(np.uint32))
    writer.finish()
    for folder in ("x.ome.zarr", "x.ome.zarr/labels/instances"):
        (_, fine), (_, coarse) = _levels(tmp_path / folder)
        np.testing.assert_array_equal(fine, pixels)
        np.testing.assert_array_equal(coarse, pixels[::2, ::2])
