"""The hot folder's measurements: one line an image, never two, never half of one."""

import csv
from pathlib import Path

import numpy as np
import pytest

from emcfsys_engine.hotfolder.ledger import FOLDER
from emcfsys_engine.learn.watch.measurements import Line, Measurements, measured
from emcfsys_engine.model_card import ModelCard, NetworkSpec

CARD = ModelCard(
    network=NetworkSpec(head="unet", backbone="resnet18", num_classes=2),
    classes=("resin", "grain"),
    class_values=(0, 7),
    colours=((0, 0, 0), (255, 0, 0)),
    patch_px=64,
)


def line_of(mask: np.ndarray, pixel_nm: tuple[float, float] | None, name: str = "a.tif") -> Line:
    return measured(name, pixel_nm, mask, 0.9, CARD, "")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / FOLDER).mkdir()
    return tmp_path


def rows_of(output: Path) -> list[dict[str, str]]:
    with (output / FOLDER / "measurements.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_areas_and_objects_are_counted_in_px_and_nm() -> None:
    mask = np.zeros((10, 20), np.uint8)
    mask[1:3, 1:3] = 7
    mask[3, 3] = 7  # touches at a corner: the same object
    mask[6:9, 10:13] = 7
    line = line_of(mask, (2.0, 3.0))
    assert (line["grain_px"], line["grain_objects"]) == (14, 2)
    assert float(str(line["grain_nm2"])) == 14 * 6
    assert float(str(line["grain_diameter_nm"])) == pytest.approx(2 * (7 * 6 / np.pi) ** 0.5)
    assert line["grain_diameter_px"] == ""
    assert "resin_objects" not in line
    unsized = line_of(mask, None)
    assert float(str(unsized["grain_diameter_px"])) == pytest.approx(2 * (7 / np.pi) ** 0.5)
    assert (unsized["grain_nm2"], unsized["pixel_nm"]) == ("", "")


def test_lines_of_images_that_the_ledger_does_not_know_are_taken_back(output: Path) -> None:
    mask = np.zeros((4, 4), np.uint8)
    names = ["a.tif", "stack.mrc#0", "stack.mrc#1", "killed.tif", "killed too\n.tif"]
    Measurements(output, ()).append([line_of(mask, None, name) for name in names])
    file = output / FOLDER / "measurements.csv"
    with file.open("a") as stream:
        stream.write("torn,4")
    again = Measurements(output, {"a.tif", "stack.mrc"})
    assert [row["image"] for row in rows_of(output)] == names[:3]
    again.append([line_of(mask, None, "killed.tif")])
    assert [row["image"] for row in rows_of(output)] == [*names[:3], "killed.tif"]


def test_an_append_can_be_taken_back(output: Path) -> None:
    mask = np.zeros((4, 4), np.uint8)
    measurements = Measurements(output, ())
    measurements.append([line_of(mask, None, "a.tif")])
    measurements.append([line_of(mask, None, "b.tif")])
    measurements.take_back()
    assert [row["image"] for row in rows_of(output)] == ["a.tif"]
    measurements.append([line_of(mask, None, "c.tif")])
    assert [row["image"] for row in rows_of(output)] == ["a.tif", "c.tif"]
    alone = Measurements(output, {"a.tif", "c.tif"})
    alone.append([line_of(mask, None, "d.tif")])
    assert len(rows_of(output)) == 3


def test_columns_of_an_older_file_stay_its_own(output: Path) -> None:
    file = output / FOLDER / "measurements.csv"
    file.write_text("image,grain_px\nold.tif,5\n")
    Measurements(output, {"old.tif"}).append([line_of(np.full((2, 2), 7, np.uint8), None)])
    assert file.read_text().splitlines() == ["image,grain_px", "old.tif,5", "a.tif,4"]
