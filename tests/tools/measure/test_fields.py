"""A field is read with what its values mean and how large its pixels are; see also test_masks."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emcfsys_engine.errors import AnnotationError, InputError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.own_files import digest_of_output
from emcfsys_engine.images.writers import writer_for
from emcfsys_engine.tools.measure.fields import Fields, open_fields, parse_pixel_nm, pixel_nm_of
from emcfsys_engine.tools.measure.masks import measure_masks
from emcfsys_engine.tools.measure.results import MeasureSettings
from tests.images.formats.test_tia import series
from tests.tools.drawn_masks import rows_of, save_mask


@pytest.mark.parametrize(
    ("text", "size"), [("12.5", (12.5, 12.5)), ("12.5,10", (12.5, 10.0)), ("1e3", (1000.0, 1000.0))]
)
def test_a_pixel_size_is_one_number_or_height_and_width(
    text: str, size: tuple[float, float]
) -> None:
    assert parse_pixel_nm(text) == size


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "nan", "1,2,3", "inf"])
def test_what_is_no_pixel_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InputError, match=r"12\.5"):
        parse_pixel_nm(text)


def test_fields_name_the_masks_whose_pixel_size_nobody_says(tmp_path: Path) -> None:
    save_mask(tmp_path / "a.png", np.ones((4, 4), np.uint8), (2.0, 2.0))
    save_mask(tmp_path / "b.png", np.ones((4, 4), np.uint8))
    fields = open_fields(
        str(tmp_path), tmp_path / "out", MeasureSettings(), images=None, base=tmp_path
    )
    assert [mask.path.name for mask in fields.without_size] == ["b.png"]
    assert (fields.unit, set(fields.pixel_of.values())) == ("px", {(1.0, 1.0)})


def test_files_of_another_pixel_size_than_the_one_that_is_told_for_all_are_named(
    tmp_path: Path,
) -> None:
    for name, size in (("a", (2.0, 2.0)), ("b", None), ("c", (5.0, 5.01))):
        save_mask(tmp_path / f"{name}.png", np.ones((4, 4), np.uint8), size)
    settings = MeasureSettings(pixel_nm=(5.0, 5.0))
    fields = open_fields(str(tmp_path), tmp_path / "out", settings, images=None, base=tmp_path)
    assert set(fields.pixel_of.values()) == {(5.0, 5.0)}
    told = "1 file of another pixel size (a.png 2 nm), and --pixel-nm is taken for all: 5 nm"
    assert told in fields.items.notes


@pytest.mark.parametrize("suffix", [".png", ".tif", ".ome.tif", ".ome.zarr"])
@pytest.mark.parametrize("size", [(25_000.0, 20_000.0), (0.004, 0.005)])
def test_the_pixel_size_of_a_mask_of_ours_counts_however_large_it_is(
    tmp_path: Path, suffix: str, size: tuple[float, float]
) -> None:
    writer = writer_for(tmp_path / f"a{suffix}", (8, 9), size)
    writer.write(np.ones((8, 9), np.uint8))
    writer.finish()
    assert pixel_nm_of(ImageRef(path=tmp_path / f"a{suffix}"), None) == pytest.approx(size)


def test_numbered_masks_keep_every_number_also_of_one_object(tmp_path: Path) -> None:
    numbers = np.zeros((6, 6), np.uint8)
    numbers[1:3, 1:3] = 7
    save_mask(tmp_path / "a.png", numbers, (2.0, 2.0))
    settings = MeasureSettings(numbered=True)
    fields = open_fields(str(tmp_path), tmp_path / "out", settings, images=None, base=tmp_path)
    field = fields.read(fields.items.masks[0])
    assert field.numbered is not None
    assert field.numbered.value.tolist() == [7, 7]
    assert np.array_equal(field.ids, numbers > 0)
    assert field.of_size((3.0, 3.0)).pixel == (3.0, 3.0)


def _two_squares() -> np.ndarray:
    mask = np.zeros((96, 128), np.uint8)
    mask[10:40, 10:50] = 255
    mask[60:80, 70:110] = 255
    return mask


def _counts(folder: Path, out: Path) -> dict[str, int]:
    found = measure_masks(str(folder), out, MeasureSettings())
    return {one.name: one.num_objects for one in found.classes if one.num_objects}


def test_a_mask_saved_as_jpeg_has_the_objects_that_were_drawn(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    Image.fromarray(_two_squares()).save(tmp_path / "m" / "a.jpg", quality=70)
    assert _counts(tmp_path / "m", tmp_path / "o") == {"object": 2}


def test_colours_are_classes(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    mask = np.zeros((96, 128, 3), np.uint8)
    mask[_two_squares() > 0] = (255, 0, 0)
    mask[85:95, 5:20] = (0, 255, 0)
    Image.fromarray(mask).save(tmp_path / "m" / "a.png")
    assert _counts(tmp_path / "m", tmp_path / "o") == {"class_1": 2, "class_2": 1}


def test_one_folder_of_masks_a_class_is_joined_first(tmp_path: Path) -> None:
    for name in ("grain", "pore"):
        (tmp_path / "m" / name).mkdir(parents=True)
        Image.fromarray(_two_squares()).save(tmp_path / "m" / name / "a.png")
    settings = MeasureSettings(classes={"resin": 0, "grain": 1, "pore": 2})
    with pytest.raises(AnnotationError, match="one folder of masks a class"):
        measure_masks(str(tmp_path / "m"), tmp_path / "o", settings)
    assert not (tmp_path / "o").exists()


def test_a_mask_called_like_what_predict_writes_beside_one_is_named(tmp_path: Path) -> None:
    mask = np.zeros((10, 20), np.uint8)
    mask[2:6, 3:11] = 1
    for name in ("a.png", "a.view.png"):
        Image.fromarray(mask).save(tmp_path / name)
    settings = MeasureSettings(classes={"background": 0, "grain": 1}, histogram="none")
    done = measure_masks(str(tmp_path), tmp_path / "t", settings, base=tmp_path)
    assert done.num_masks == 1
    assert any("left out (a.view.png)" in note for note in done.notes)


def test_a_region_of_an_image_whose_whole_mask_is_beside_is_not_measured_again(
    tmp_path: Path,
) -> None:
    for name in ("a.png", "a.r0-50.c0-90.png", "a.r50-.c0-90.png", "b.r0-50.c0-90.png"):
        save_mask(tmp_path / "masks" / name, _two_squares())
    result = measure_masks(str(tmp_path / "masks"), tmp_path / "out", MeasureSettings())
    rows = rows_of(tmp_path / "out" / "images.csv")
    assert {row["mask"] for row in rows} == {"a.png", "b.r0-50.c0-90.png"}
    [note] = [note for note in result.notes if "region" in note]
    assert note == (
        "2 masks are of a region of an image whose whole mask is beside: left out"
        " (a.r0-50.c0-90.png, a.r50-.c0-90.png)"
    )


def test_regions_of_one_image_that_overlap_are_said_to_count_twice(tmp_path: Path) -> None:
    for name in ("a.r0-50.c0-90.png", "a.r50-.c0-90.png", "a.r40-60.c80-.png", "b.r0-9.c-9.png"):
        save_mask(tmp_path / "masks" / name, _two_squares())
    notes = measure_masks(str(tmp_path / "masks"), tmp_path / "out", MeasureSettings()).notes
    told = "3 masks are of regions of one image that overlap: what lies in two counts twice"
    assert [note for note in notes if note.startswith(told)]
    (tmp_path / "masks/a.r40-60.c80-.png").unlink()
    notes = measure_masks(str(tmp_path / "masks"), tmp_path / "out", MeasureSettings()).notes
    assert not [note for note in notes if "overlap" in note]


def test_each_plane_of_a_series_is_measured_by_its_own_pixel_size(tmp_path: Path) -> None:
    pixels = np.arange(64, dtype=np.uint16).reshape(8, 8)
    file = series(tmp_path / "s.ser", [pixels, pixels], step_m=1e-9)
    head = 34 + 2 * 4 + pixels.nbytes + 50  # of the second element
    content = bytearray(file.read_bytes())
    for place in (8, 28):  # its steps: columns, then rows
        content[head + place : head + place + 8] = np.array(4e-9, "<f8").tobytes()
    file.write_bytes(content)
    ids = np.zeros((8, 8), np.uint8)
    ids[2:4, 2:4] = 1
    for plane in range(2):
        save_mask(tmp_path / f"masks/s.{plane:04}.png", ids)
    done = measure_masks(
        str(tmp_path / "masks"), tmp_path / "out", MeasureSettings(), images=str(file)
    )
    rows = rows_of(done.objects_file)
    assert [float(row["area_nm2"]) for row in rows] == [4 * 1, 4 * 16]


def test_masks_in_output_folders_below_are_named_and_where_there_are_no_others_refused(
    tmp_path: Path,
) -> None:
    masks, inner = tmp_path / "masks", tmp_path / "masks" / "day 2"
    inner.mkdir(parents=True)
    save_mask(inner / "b.png", np.ones((4, 4), np.uint8))
    OutputBook(inner).note({inner / "b.png": digest_of_output(inner / "b.png")})

    def opened() -> Fields:
        return open_fields("masks", tmp_path / "out", MeasureSettings(), images=None, base=tmp_path)

    with pytest.raises(AnnotationError, match="of its own: 1 folder of other outputs .*day 2"):
        opened()
    save_mask(masks / "a.png", np.ones((4, 4), np.uint8))
    fields = opened()
    assert [mask.path.name for mask in fields.items.masks] == ["a.png"]
    assert any(note.endswith("do not count here: day 2") for note in fields.items.notes)
