"""Tables of objects and of images, by hand, and as files that others read."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.tools.measure.masks import measure_masks
from emcfsys_engine.tools.measure.results import MeasureSettings
from emcfsys_engine.tools.measure.summary import summarise
from emcfsys_engine.tools.measure.tables import Column, csv_of, write_table

TABLE = (
    Column(name="class", values=np.array(["grain", '=cmd|"x"', "a,b"])),
    Column(name="area_nm2", values=np.array([0.1, np.nan, 12345678901.0])),
    Column(name="touches_border", values=np.array([True, False, True])),
)


def rows_of(content: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(content.decode())))


def test_numbers_have_ten_digits_and_what_has_no_value_is_empty() -> None:
    head, one, two, three = rows_of(csv_of(TABLE))
    assert head == ["class", "area_nm2", "touches_border"]
    assert one[1] == "0.1"
    assert two[1] == ""
    assert three[1] == "1.23456789e+10"


def test_a_cell_that_a_spreadsheet_would_run_is_text() -> None:
    assert rows_of(csv_of(TABLE))[2][0] == '\'=cmd|"x"'


def test_a_name_of_any_bytes_is_written_as_it_is() -> None:
    name = b"\xff.tif".decode(errors="surrogateescape")
    assert csv_of((Column(name="image", values=np.array([name], object)),)).endswith(b"\xff.tif\n")


def test_a_table_is_written_over_ours_and_beside_a_persons(tmp_path: Path) -> None:
    book = OutputBook(tmp_path)
    ours = write_table(book, "objects", TABLE, "csv")
    assert write_table(OutputBook(tmp_path), "objects", TABLE, "csv") == ours
    ours.write_text("a person's")
    beside = write_table(OutputBook(tmp_path), "objects", TABLE, "csv")
    assert beside != ours
    assert ours.read_text() == "a person's"


@pytest.mark.parametrize("unit", ["px", "nm"])
def test_one_square_by_hand(unit: str, tmp_path: Path) -> None:
    mask = np.zeros((10, 20), np.uint8)
    mask[2:6, 3:11] = 1
    Image.fromarray(mask).save(tmp_path / "a.png")
    settings = MeasureSettings(
        classes={"background": 0, "grain": 1},
        pixel_nm=(2.0, 2.0) if unit == "nm" else None,
        histogram="none",
    )
    done = measure_masks(str(tmp_path), tmp_path / "t", settings, base=tmp_path)
    _, *objects = rows_of(Path(done.objects_file).read_bytes())
    assert [row[5] for row in objects] == ["32"]  # area_px
    head, *images = rows_of(Path(done.images_file).read_bytes())
    (row,) = (dict(zip(head, one, strict=True)) for one in images if "grain" in one)
    assert (row["area_px"], row["area_fraction"], row["num_objects"]) == ("32", "0.16", "1")
    assert row.get("area_nm2") == ("128" if unit == "nm" else None)


def test_a_name_with_a_carriage_return_stays_one_cell(tmp_path: Path) -> None:
    mask = np.zeros((10, 20), np.uint8)
    mask[2:6, 3:11] = 1
    for name in ("a\rb.png", "a\nb.png", "a\r\nb.png"):
        Image.fromarray(mask).save(tmp_path / name)
    settings = MeasureSettings(classes={"background": 0, "grain": 1})
    done = measure_masks(str(tmp_path), tmp_path / "t", settings, base=tmp_path)
    _, *objects = rows_of(Path(done.objects_file).read_bytes())
    assert [row[0] for row in objects] == ["a\nb.png", "a\r\nb.png", "a\rb.png"]
    assert summarise(tmp_path / "t").num_masks == 3
