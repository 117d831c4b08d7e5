"""Distributions and maps of sizes: what is drawn is what was measured, and any text is text."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emcfsys_engine.errors import InputError
from emcfsys_engine.run.folder import new_run
from emcfsys_engine.run.records import PredictRequest
from emcfsys_engine.tools.measure.masks import measure_masks
from emcfsys_engine.tools.measure.results import MeasureSettings
from emcfsys_engine.tools.measure.standards.results import StandardSettings
from emcfsys_engine.tools.report.page import write_report
from emcfsys_engine.tools.report.sizes import (
    ObjectSizes,
    SizeMap,
    distribution_charts,
    map_files,
    numbers_section,
    small_map,
)
from tests.tools.drawn_masks import save_mask

WALLS = {"wall": 0, "<b>\x1b[31m": 1}


def sizes(*values: float) -> ObjectSizes:
    return ObjectSizes(name="<b>\x1b", size=np.array(values), weight=np.ones(len(values)))


@pytest.mark.parametrize("values", [(5.0,), (5.0, 5.0), (1e-3, 1e9), tuple(range(1, 3000))])
def test_any_sizes_are_drawn_twice_and_names_are_text(values: tuple[float, ...]) -> None:
    drawn = distribution_charts([sizes(*values)])
    assert drawn.count("<figure>") == 2
    assert "&lt;b&gt;" in drawn
    assert "\x1b" not in drawn
    assert "nan" not in drawn


def test_a_cumulative_distribution_ends_at_all_of_it() -> None:
    drawn = distribution_charts([sizes(1, 2, 3)])
    assert drawn.count("<b>100</b>") == 3
    assert distribution_charts([sizes()]) == distribution_charts([]) == ""


def test_maps_show_larger_grains_brighter_and_boundaries_white() -> None:
    grains = np.array([[1, 1, 0, 2, 2, -1]] * 3, np.int32)
    shown = small_map("a", grains, np.array([0.0, 10.0, 90.0]))
    assert np.isnan(shown.size_HW[0, [2, 5]]).all()
    words, (content,) = map_files([shown])
    assert "10 nm" in words
    assert "90 nm" in words
    picture = np.asarray(Image.open(io.BytesIO(content)))
    assert picture[0, 0].sum() < picture[0, 3].sum()
    assert (picture[0, 2] == 255).all()
    nothing = SizeMap(name="b", size_HW=np.full((3, 3), np.nan))
    assert map_files([nothing]) == ("", [])
    assert max(small_map("c", np.ones((3000, 2000), np.int32), np.ones(2)).size_HW.shape) <= 700


def measured_walls(folder: Path) -> Path:
    ids = np.ones((120, 120), np.uint8)
    ids[::12] = ids[:, ::12] = 0
    save_mask(folder / "masks/a.png", ids, (10.0, 10.0))
    settings = MeasureSettings(classes=WALLS, standard=StandardSettings(standard="e112"))
    measure_masks(str(folder / "masks"), folder / "numbers", settings)
    return folder / "numbers"


def test_a_report_takes_in_what_was_measured(tmp_path: Path) -> None:
    numbers = measured_walls(tmp_path)
    request = PredictRequest(model="m", inputs=("i",), out=str(tmp_path))
    run = new_run(tmp_path / "runs", request)
    text = write_report(run, numbers=numbers).read_text()
    assert "cumulative distribution" in text
    assert "E112" in text
    assert "grain-map-1" in text
    assert "<b>\x1b" not in text
    assert "Sizes" not in write_report(run).read_text()


def test_a_standards_numbers_of_a_measurement_before_are_told_as_such(tmp_path: Path) -> None:
    numbers = measured_walls(tmp_path)
    assert "of an earlier measurement" not in numbers_section(numbers)
    measure_masks(str(tmp_path / "masks"), numbers, MeasureSettings(classes=WALLS))
    told = numbers_section(numbers)
    assert "E112 (of an earlier measurement)" in told
    assert "grain-map-1 (of an earlier measurement)" in told


def test_a_table_that_a_spreadsheet_parted_otherwise_is_bad_input(tmp_path: Path) -> None:
    numbers = measured_walls(tmp_path)
    objects = numbers / "objects.csv"
    objects.write_text(objects.read_text().replace(",", ";").replace(".", ","))
    with pytest.raises(InputError, match="objects.csv: has no column equivalent_diameter_"):
        numbers_section(numbers)


def test_a_folder_without_numbers_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no table of objects.*measure wrote"):
        numbers_section(tmp_path)
    for content in ("a,b\n1,2\n", "equivalent_diameter_nm,class\nx,y\n"):
        (tmp_path / "objects.csv").write_text(content)
        with pytest.raises(InputError, match="measure"):
            numbers_section(tmp_path)


def test_our_own_maps_are_no_masks(tmp_path: Path) -> None:
    numbers = measured_walls(tmp_path)
    save_mask(numbers / "a.png", np.ones((20, 20), np.uint8), (10.0, 10.0))
    done = measure_masks(str(numbers), numbers, MeasureSettings(classes=WALLS))
    assert (done.num_masks, done.failed) == (1, ())
