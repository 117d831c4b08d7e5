"""The hot folder's measurements: one line an image, never two, never half of one."""

import csv
import os
from pathlib import Path

import msgspec
import numpy as np
import pytest

from emcfsys_engine.hotfolder.places import FOLDER
from emcfsys_engine.learn.watch.measurements import (
    Line,
    Measurements,
    area_of,
    measured,
    of_classes,
)
from emcfsys_engine.model_card import ModelCard, NetworkSpec

CARD = ModelCard(
    network=NetworkSpec(head="unet", backbone="resnet18", num_classes=2),
    classes=("resin", "grain"),
    class_values=(0, 7),
    colours=((0, 0, 0), (255, 0, 0)),
    patch_px=64,
)


def line_of(mask: np.ndarray, pixel_nm: tuple[float, float] | None, name: str = "a.tif") -> Line:
    return line_with(CARD, mask, pixel_nm, name)


def line_with(
    card: ModelCard, mask: np.ndarray, pixel_nm: tuple[float, float] | None, name: str
) -> Line:
    classes = of_classes(mask, area_of(pixel_nm), card)
    return measured(name, pixel_nm, (mask.shape[0], mask.shape[1]), 0, 0.9, "", classes)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / FOLDER).mkdir()
    return tmp_path


def rows_of(output: Path) -> list[dict[str, str]]:
    with (output / FOLDER / "measurements.csv").open(newline="", encoding="utf-8-sig") as stream:
        return list(csv.DictReader(stream))


def test_areas_and_objects_are_counted_in_px_and_nm() -> None:
    mask = np.zeros((10, 20), np.uint8)
    mask[1:3, 1:3] = 7
    mask[3, 3] = 7  # touches at a corner: the same object
    mask[6:9, 10:13] = 7
    line = line_of(mask, (2.0, 3.0))
    middle = (5**0.5 + 9**0.5) / np.pi**0.5  # of the diameters of 5 and 9 px
    assert (line["grain_px"], line["grain_objects"]) == (14, 2)
    assert float(str(line["grain_nm2"])) == 14 * 6
    assert float(str(line["grain_diameter_nm"])) == pytest.approx(middle * 6**0.5, rel=1e-5)
    assert line["grain_diameter_px"] == ""
    assert "resin_objects" not in line
    unsized = line_of(mask, None)
    assert float(str(unsized["grain_diameter_px"])) == pytest.approx(middle, rel=1e-5)
    assert (unsized["grain_nm2"], unsized["pixel_nm"]) == ("", "")


def test_the_median_of_two_objects_lies_between_their_diameters() -> None:
    mask = np.zeros((20, 20), np.uint8)
    mask[1, 1] = 7
    mask[5:15, 5:15] = 7
    middle = (2 / np.pi**0.5) * (1 + 10) / 2
    line = line_of(mask, None)
    assert float(str(line["grain_diameter_px"])) == pytest.approx(middle, rel=1e-5)


def test_lines_of_images_that_the_ledger_does_not_know_are_replaced_when_measured_again(
    output: Path,
) -> None:
    mask = np.zeros((4, 4), np.uint8)
    names = ["a.tif", "stack.mrc#0", "new.mrc#0", "new.mrc#1", "killed.tif", "killed too\n.tif"]
    Measurements(output, ()).append([line_of(mask, None, name) for name in names])
    file = output / FOLDER / "measurements.csv"
    with file.open("a") as stream:
        stream.write("torn,4")
    again = Measurements(output, {"a.tif", "stack.mrc"})
    assert [row["image"] for row in rows_of(output)] == names
    again.append([line_of(mask, None, "killed.tif")])
    again.append([line_of(mask, None, "new.mrc#0")])  # it has lost a plane since
    now = ["a.tif", "stack.mrc#0", "killed too\n.tif", "killed.tif", "new.mrc#0"]
    assert [row["image"] for row in rows_of(output)] == now


def test_a_line_end_that_an_editor_left_alone_is_no_line(output: Path) -> None:
    lines = Measurements(output, ())
    lines.append([{"image": "a.png", "px": 1}])
    whole = lines.file.read_bytes()
    lines.file.write_bytes(whole + b"\r")
    Measurements(output, ["a.png"])
    assert lines.file.read_bytes() == whole


def test_a_torn_first_line_is_written_anew(output: Path) -> None:
    (output / FOLDER / "measurements.csv").write_text("image,heig")
    Measurements(output, ()).append([line_of(np.zeros((4, 4), np.uint8), None, "a.tif")])
    assert [(row["image"], row["height_px"]) for row in rows_of(output)] == [("a.tif", "4")]


def test_a_last_line_whose_end_an_editor_took_is_kept(output: Path) -> None:
    mask, file = np.zeros((4, 4), np.uint8), output / FOLDER / "measurements.csv"
    Measurements(output, ()).append([line_of(mask, None, "a.tif")])
    file.write_text(file.read_text().rstrip("\n"))
    Measurements(output, {"a.tif"}).append([line_of(mask, None, "b.tif")])
    assert [row["image"] for row in rows_of(output)] == ["a.tif", "b.tif"]


def test_measurements_outlive_the_ledger(output: Path) -> None:
    mask = np.zeros((4, 4), np.uint8)
    Measurements(output, ()).append([line_of(mask, None, name) for name in ("a.tif", "gone.tif")])
    Measurements(output, ()).append([line_of(mask, None, "a.tif")])
    assert [row["image"] for row in rows_of(output)] == ["gone.tif", "a.tif"]


def test_a_table_that_a_spreadsheet_saved_is_kept_whole(output: Path) -> None:
    mask, file = np.zeros((4, 4), np.uint8), output / FOLDER / "measurements.csv"
    Measurements(output, ()).append([line_of(mask, None, "a.tif")])
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    measurements = Measurements(output, {"a.tif"})
    measurements.append([line_of(mask, None, "b.tif")])
    assert [row["image"] for row in rows_of(output)] == ["a.tif", "b.tif"]
    file.write_bytes(saved := file.read_bytes().replace(b",", b";"))
    measurements = Measurements(output, {"a.tif", "b.tif"})
    assert "kept as measurements.changed-1.csv" in measurements.told
    measurements.append([line_of(mask, None, "c.tif")])
    assert (output / FOLDER / "measurements.changed-1.csv").read_bytes() == saved
    assert [row["image"] for row in rows_of(output)] == ["c.tif"]


@pytest.mark.parametrize("saved", ["fewer columns", "other order", "no end", "semicolons"])
def test_lines_follow_what_a_person_saved_while_the_watch_runs(output: Path, saved: str) -> None:
    mask, other = np.zeros((4, 4), np.uint8), np.full((4, 4), 1, np.uint8)
    measurements = Measurements(output, ())
    measurements.append([line_of(mask, None, "a.tif")])
    rows = list(csv.reader(measurements.file.read_text().splitlines()))
    if saved == "fewer columns":
        rows = [row[:1] + row[3:] for row in rows]
    if saved == "other order":
        rows = [row[:1] + row[:0:-1] for row in rows]
    text = "\n".join((";" if saved == "semicolons" else ",").join(row) for row in rows)
    measurements.file.write_text(text + "\n" * (saved != "no end"))
    wanted = {name: str(value) for name, value in line_of(other, None, "b.tif").items()}
    if saved == "fewer columns":
        del wanted["height_px"], wanted["width_px"]
    measurements.append([line_of(other, None, "b.tif")])
    assert measurements.newest_of(["b.tif"]) == {"b.tif": {"b.tif": wanted}}
    with measurements.file.open(newline="") as stream:
        lines = {row["image"]: row for row in csv.DictReader(stream)}
    assert lines["b.tif"] == wanted
    assert (saved == "semicolons") == ("a.tif" not in lines) == bool(measurements.news())
    assert measurements.news() == []


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


def test_a_class_that_a_later_model_knows_gets_its_columns_at_the_end(output: Path) -> None:
    """They were left out for ever: the table had no numbers of that class, and nobody said so."""
    mask = np.full((4, 6), 7, np.uint8)
    Measurements(output, ()).append([line_of(mask, None, name) for name in ("a.tif", "b.tif")])
    before = rows_of(output)
    spec = msgspec.structs.replace(CARD.network, num_classes=3)
    names, values = ("resin", "grain", "=pore"), (0, 7, 9)
    card = msgspec.structs.replace(CARD, network=spec, classes=names, class_values=values)
    mask[0] = 9
    table = Measurements(output, {"a.tif", "b.tif"})
    table.append([line_with(card, mask, None, "c.tif")])
    table.take_back()  # the ledger's disk was full
    assert [row["image"] for row in rows_of(output)] == ["a.tif", "b.tif"]
    table.append([line_with(card, mask, None, "c.tif")])
    rows = rows_of(output)
    assert list(rows[0])[: len(before[0])] == list(before[0])
    assert [{name: row[name] for name in before[0]} for row in rows[:2]] == before
    assert [row["'=pore_px"] for row in rows] == ["", "", "6"]
    assert rows[2]["grain_px"] == "18"
    again = Measurements(output, {"a.tif", "b.tif", "c.tif"})
    again.append([line_of(mask, None, "d.tif")])
    assert [row["'=pore_px"] for row in rows_of(output)] == ["", "", "6", ""]
    assert again.newest_of(["c.tif"])["c.tif"]["c.tif"]["=pore_px"] == "6"


def test_columns_that_a_spreadsheet_would_run_are_text_and_stay_whose_they_are(
    output: Path,
) -> None:
    card = msgspec.structs.replace(CARD, classes=("=resin", "height"))
    mask = np.full((4, 6), 7, np.uint8)
    lines = [line_with(card, mask, None, name) for name in ("'=a.tif", "=b.tif")]
    assert (lines[0]["height_px"], lines[0]["height_px_2"]) == (4, 24)  # the image's, the class's
    Measurements(output, ()).append(lines[:1])
    Measurements(output, {"'=a.tif"}).append(lines[1:])
    rows = rows_of(output)
    assert [row["image"] for row in rows] == ["''=a.tif", "'=b.tif"]
    assert [row["height_px_2"] for row in rows] == ["24", "24"]
    assert not [name for name in rows[0] if name.startswith("=")]


@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_what_lies_in_the_tables_place_is_refused(output: Path, kind: str) -> None:
    file, mine = output / FOLDER / "measurements.csv", output / "mine.csv"
    mine.write_text("image\n")
    os.mkfifo(file) if kind == "pipe" else file.symlink_to(mine)
    with pytest.raises(OSError, match="is no file of ours"):
        Measurements(output, ())
    assert mine.read_text() == "image\n"


def test_a_field_of_any_length_is_read(output: Path) -> None:
    (output / FOLDER / "measurements.csv").write_text("image,px\n" + "x" * 200_000 + ",1\n")
    Measurements(output, ())
    assert len(rows_of(output)) == 1


def test_a_table_that_was_moved_away_is_begun_with_its_head(output: Path) -> None:
    mask = np.zeros((4, 4), np.uint8)
    table = output / FOLDER / "measurements.csv"
    Measurements(output, {}).append([line_of(mask, None, "killed.tif")])
    measurements = Measurements(output, {})
    measurements.append([line_of(mask, None, "a.tif")])
    table.rename(output / "day-1.csv")
    measurements.append([line_of(mask, None, "b.tif"), line_of(mask, None, "killed.tif")])
    measurements.append([line_of(mask, None, "c.tif")])
    assert [row["image"] for row in rows_of(output)] == ["b.tif", "killed.tif", "c.tif"]


def test_older_lines_of_what_was_predicted_again_before_a_kill_go_at_the_next_start(
    output: Path,
) -> None:
    small, large = np.zeros((4, 4), np.uint8), np.full((4, 4), 7, np.uint8)
    lines = Measurements(output, ())
    lines.append([line_of(small, None, name) for name in ("a.tif", "b.tif")])
    lines.append([line_of(small, None, f"s.tif#{plane}") for plane in range(3)])
    lines.append([line_of(large, None, name) for name in ("a.tif", "s.tif#0", "s.tif#1")])
    done = {"a.tif", "b.tif", "s.tif"}
    Measurements(output, done, keeps_older=True)
    assert len(rows_of(output)) == 8
    Measurements(output, done)
    found = {row["image"]: row["grain_px"] for row in rows_of(output)}
    assert len(rows_of(output)) == 4
    assert found == {"b.tif": "0", "a.tif": "16", "s.tif#0": "16", "s.tif#1": "16"}


def test_a_new_line_takes_the_place_of_its_images_newest(output: Path) -> None:
    small, large = np.zeros((4, 4), np.uint8), np.full((4, 4), 7, np.uint8)
    lines = Measurements(output, ())
    lines.replace_newest([line_of(small, None, name) for name in ("a.tif", "b.tif")])
    lines.append([line_of(small, None, "a.tif")])  # a second version
    lines.replace_newest([line_of(large, None, name) for name in ("a.tif", "new.tif#0")])
    assert [(row["image"], row["grain_px"]) for row in rows_of(output)] == [
        ("a.tif", "0"), ("b.tif", "0"), ("a.tif", "16"), ("new.tif#0", "16"),
    ]  # fmt: skip
    assert lines.newest_of(["new.tif"])["new.tif"]["new.tif#0"]["grain_px"] == "16"
    assert lines.newest_of(["a.tif"])["a.tif"]["a.tif"]["grain_px"] == "16"


def test_a_file_whose_name_begins_like_another_with_a_plane_keeps_its_line(output: Path) -> None:
    small, names = np.zeros((4, 4), np.uint8), ["s.tif", "s.tif#crop.tif", "s.tif#1.png"]
    lines = Measurements(output, ())
    lines.append([line_of(small, None, name) for name in names])
    again = line_of(np.full((4, 4), 7, np.uint8), None, "s.tif")
    lines.append([again])
    lines.keep_newest({"s.tif": [again]})
    assert [row["image"] for row in rows_of(output)] == [*names[1:], "s.tif"]
    assert [*lines.newest_of(["s.tif"])["s.tif"]] == ["s.tif"]
    lines.append([again])  # a kill before older lines went
    Measurements(output, set(names))
    assert [row["image"] for row in rows_of(output)] == [*names[1:], "s.tif"]
