"""What is done of a large image is seen in a small picture, and no more is read than that."""

from pathlib import Path

import numpy as np
import pytest
import zarr

from emcfsys_engine.errors import ImageError
from emcfsys_engine.images.mosaic_view import NOT_DONE, MosaicView, folder_of
from emcfsys_engine.regions import Region, whole_of
from emcfsys_engine.run.shards import FOLDER
from tests.images.mosaic_made import SIZE, do, made_mosaic, mask, pixels


@pytest.mark.parametrize("most_px", [90, 128, 333, 5000])
def test_all_regions_make_the_picture_of_the_whole_image(tmp_path: Path, most_px: int) -> None:
    run, mosaic = made_mosaic(tmp_path)
    do(run, mosaic, *mosaic.regions)
    view = MosaicView(mosaic, run.folder / FOLDER, most_px)
    assert view.grow(mosaic.regions, 60.0)
    by = view.factor
    assert max(view.grey.shape) <= most_px
    assert np.array_equal(view.ids, mask()[::by, ::by])
    wanted = pixels()[: SIZE[0] // by * by, : SIZE[1] // by * by].astype(float)
    means = wanted.reshape(SIZE[0] // by, by, SIZE[1] // by, by).mean((1, 3))
    got = view.grey[: means.shape[0], : means.shape[1]]
    # Where two regions meet within a square its mean is of one of them.
    assert np.abs(got - means).max() <= max(1.0, by * 240 / SIZE[1])


def test_what_is_not_done_is_neither_shown_nor_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, mosaic = made_mosaic(tmp_path)
    done = mosaic.regions[5]  # one with regions on all sides
    do(run, mosaic, done)
    read: list[int] = []
    plain = zarr.Array.__getitem__

    def told(self: zarr.Array, index: tuple[slice, ...]) -> object:
        read.append(index[1].start)  # of rows there may be a few more: they come in blocks
        return plain(self, index)

    monkeypatch.setattr(zarr.Array, "__getitem__", told)
    view = MosaicView(mosaic, run.folder / FOLDER, 90)
    assert view.grow([done], 60.0)
    number = len(read)
    rows, columns = np.nonzero(view.ids != NOT_DONE)
    by = view.factor
    assert done.top <= rows.min() * by and rows.max() * by < done.bottom
    assert done.left <= columns.min() * by and columns.max() * by < done.right
    assert not view.grey[view.ids == NOT_DONE].any()
    assert all(done.left <= column < done.right for column in read)
    assert view.grow([done], 60.0)
    assert len(read) == number


def test_a_look_without_time_takes_one_region_and_says_that_more_are_there(tmp_path: Path) -> None:
    run, mosaic = made_mosaic(tmp_path)
    do(run, mosaic, *mosaic.regions)
    view = MosaicView(mosaic, run.folder / FOLDER, 128)
    for number in range(1, 13):
        assert view.grow(mosaic.regions, 0.0) == (number == 12)
    assert NOT_DONE not in view.ids


def test_a_part_is_read_in_its_own_pixels_where_it_is_done(tmp_path: Path) -> None:
    run, mosaic = made_mosaic(tmp_path)
    do(run, mosaic, mosaic.regions[0])
    view = MosaicView(mosaic, run.folder / FOLDER, 90)
    view.grow(mosaic.regions[:1], 60.0)
    part = view.part(Region(200, 300, 150, 300), 1)
    assert part.ids.shape == (100, 150)
    assert np.array_equal(part.ids[:56, :106], mask()[200:256, 150:256])
    assert (part.ids[56:] == NOT_DONE).all()
    assert (part.ids[:, 106:] == NOT_DONE).all()
    assert np.array_equal(part.grey[:56, :106], pixels()[200:256, 150:256])


def test_once_it_has_its_name_the_mask_is_read_there(tmp_path: Path) -> None:
    run, mosaic = made_mosaic(tmp_path)
    do(run, mosaic, *mosaic.regions)
    folder_of(mosaic, run.folder / FOLDER).rename(mosaic.mask)
    view = MosaicView(mosaic, run.folder / FOLDER, 128)
    assert view.grow(mosaic.regions, 60.0)
    assert np.array_equal(view.ids, mask()[:: view.factor, :: view.factor])


def test_a_mask_that_is_gone_or_another_ones_is_told_and_tried_again(tmp_path: Path) -> None:
    run, mosaic = made_mosaic(tmp_path)
    do(run, mosaic, *mosaic.regions)
    place = folder_of(mosaic, run.folder / FOLDER)
    place.rename(tmp_path / "away")
    view = MosaicView(mosaic, run.folder / FOLDER, 128)
    with pytest.raises(ImageError, match=r"x.ome.zarr: cannot be read now"):
        view.grow(mosaic.regions, 60.0)
    other = zarr.open_group(mosaic.mask, mode="w", zarr_format=3)
    other.create_array("0", shape=(10, 10), chunks=(10, 10), dtype="uint8")
    with pytest.raises(ImageError, match="10×10"):
        view.grow(mosaic.regions, 60.0)
    (tmp_path / "away").rename(place)
    assert view.grow(mosaic.regions, 60.0)
    assert view.part(whole_of(SIZE), 1).ids.shape == SIZE
