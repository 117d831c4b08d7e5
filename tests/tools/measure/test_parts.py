"""Tables in parts: the same rows as one table, one measurement at a time, nothing of others."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from emcfsys_engine.errors import InputError
from emcfsys_engine.tools.measure import parts
from emcfsys_engine.tools.measure.masks import measure_masks
from emcfsys_engine.tools.measure.parts import PARTS_FILE, part_files, read_parts
from emcfsys_engine.tools.measure.results import MeasureSettings
from tests.tools.drawn_masks import disc, measured, rows_of, save_mask


def draw_masks(folder: Path, number: int) -> None:
    for place in range(number):
        ids = disc((40, 40), (20, 20), 4 + place).astype(np.uint8)
        save_mask(folder / f"masks/m{place}.png", ids, (2.0, 2.0))


def rows_in(out: Path) -> list[dict[str, object]]:
    listed = read_parts(out)
    assert listed is not None
    return [
        row
        for file in part_files(out, listed.objects)
        for row in pyarrow.parquet.read_table(file).to_pylist()
    ]


def test_parts_hold_the_rows_of_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_masks(tmp_path, 5)
    whole = measured(tmp_path)
    rows = rows_of(whole.objects_file)
    monkeypatch.setattr(parts, "_MOST_OBJECTS", 2)
    done = measured(tmp_path, table="parts")
    out = Path(done.objects_file).parent
    listed = read_parts(out)
    assert listed is not None
    assert (len(listed.objects), listed.num_objects, listed.num_masks) == (3, 5, 5)
    assert [row["mask"] for row in rows_in(out)] == [row["mask"] for row in rows]
    assert [row["area_nm2"] for row in rows_in(out)] == [float(row["area_nm2"]) for row in rows]
    for one, other in zip(done.classes, whole.classes, strict=True):
        assert (one.name, one.value, one.num_objects) == (
            other.name,
            other.value,
            other.num_objects,
        )
        assert one.area == pytest.approx(other.area)
        assert one.area_fraction == pytest.approx(other.area_fraction)
        if other.mean_diameter is not None:
            assert one.mean_diameter == pytest.approx(other.mean_diameter)
            assert one.sd_diameter == pytest.approx(other.sd_diameter)
            assert one.median_diameter == pytest.approx(other.median_diameter, rel=2e-3)
    assert "density" in Path(done.histograms[0]).read_text()


def test_measuring_again_leaves_one_measurement_and_what_is_not_ours(tmp_path: Path) -> None:
    draw_masks(tmp_path, 2)
    out = Path(measured(tmp_path, table="parts").objects_file).parent
    mine = out / "parts/objects-00000000-000001.parquet"
    mine.write_bytes(b"a person's")
    (tmp_path / "masks/m1.png").unlink()
    done = measured(tmp_path, table="parts")
    listed = read_parts(out)
    assert listed is not None
    assert done.num_masks == len(rows_in(out)) == 1
    left = {file.name for file in (out / "parts").iterdir()}
    assert left == {Path(name).name for name in (*listed.objects, *listed.images)} | {mine.name}


def test_a_measurement_that_breaks_off_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_masks(tmp_path, 3)
    out = Path(measured(tmp_path, table="parts").objects_file).parent
    before = {file: file.read_bytes() for file in out.rglob("*.parquet")}
    listed = (out / PARTS_FILE).read_bytes()
    monkeypatch.setattr(parts, "_MOST_OBJECTS", 1)

    def broken(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_masks(str(tmp_path / "masks"), out, MeasureSettings(table="parts"), on_mask=broken)
    assert (out / PARTS_FILE).read_bytes() == listed
    assert {file: file.read_bytes() for file in out.rglob("*.parquet")} == before


def test_a_list_of_parts_of_somebody_else_is_kept(tmp_path: Path) -> None:
    draw_masks(tmp_path, 1)
    out = Path(measured(tmp_path, table="parts").objects_file).parent
    (out / PARTS_FILE).write_text("my notes")
    with pytest.raises(InputError, match="not as this program wrote it"):
        measured(tmp_path, table="parts")
    assert (out / PARTS_FILE).read_text() == "my notes"


@pytest.mark.parametrize(
    "name", ["../secret.parquet", "parts/../../x", "parts/other.parquet", "/etc/x"]
)
def test_a_list_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    draw_masks(tmp_path, 1)
    out = Path(measured(tmp_path, table="parts").objects_file).parent
    told = json.loads((out / PARTS_FILE).read_text()) | {"objects": [name]}
    (out / PARTS_FILE).write_text(json.dumps(told))
    listed = read_parts(out)
    assert listed is not None
    with pytest.raises(InputError, match="no part of a measurement"):
        part_files(out, listed.objects)
