"""measure makes tables in the specimen's units from any folder of masks."""

import json
import struct
from importlib import import_module
from pathlib import Path

import msgspec
import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from PIL import Image

from emcfsys_engine.annotations.numbered import write_numbers
from emcfsys_engine.commands.measure import measure
from emcfsys_engine.errors import InputError
from emcfsys_engine.hotfolder.judged import Judged
from emcfsys_engine.hotfolder.ledger import Entry, Ledger
from emcfsys_engine.hotfolder.review import say_word
from emcfsys_engine.images.reader import read_micrograph
from emcfsys_engine.model_card import ModelCard, NetworkSpec
from emcfsys_engine.run.folder import new_run
from emcfsys_engine.run.records import PredictRequest
from emcfsys_engine.tools.measure.masks import measure_masks
from emcfsys_engine.tools.measure.results import Measurement, MeasureSettings, classes_for
from tests.tools.drawn_masks import CLASSES, disc, measured, rows_of, save_mask


def test_real_masks_become_tables_in_nanometres(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "superalloy-sem"
    settings = MeasureSettings(classes=CLASSES, pixel_nm=(5.0, 5.0))
    done = measure_masks(
        str(source / "masks/val"), tmp_path, settings, images=str(source / "images/val")
    )
    assert (done.unit, done.num_masks, done.failed) == ("nm", 4, ())
    objects, images = rows_of(done.objects_file), rows_of(done.images_file)
    assert len(objects) == done.num_objects
    assert {row["class"] for row in objects} == {"large", "small"}
    assert all(float(row["mean_intensity"]) > 0 for row in objects)
    for row in objects[:50]:
        assert float(row["area_nm2"]) == 25 * int(row["area_px"])
    for mask in {row["mask"] for row in images}:
        mine = [row for row in images if row["mask"] == mask]
        assert sum(float(row["area_fraction"]) for row in mine) == pytest.approx(1)
        for row in mine[1:]:
            own = [o for o in objects if (o["mask"], o["class"]) == (mask, row["class"])]
            assert int(row["num_objects"]) == len(own)
            assert int(row["area_px"]) == sum(int(o["area_px"]) for o in own)
    assert [Path(file).name for file in done.histograms] == ["histograms.html"]
    drawn = Path(done.histograms[0]).read_text()
    assert drawn.count("<figure>") == 2
    assert "median" in drawn


def test_the_unit_stands_in_the_column_and_is_px_when_one_size_is_unknown(tmp_path: Path) -> None:
    ids = disc((40, 40), (20, 20), 9).astype(np.uint8)
    save_mask(tmp_path / "masks/a.png", ids, (4.0, 2.0))
    done = measured(tmp_path)
    (row,) = rows_of(done.objects_file)
    assert float(row["area_nm2"]) == 8 * int(row["area_px"])
    assert float(row["centroid_y_nm"]) == 80
    save_mask(tmp_path / "masks/b.png", ids)
    done = measured(tmp_path)
    assert (done.unit, done.num_objects) == ("px", 2)
    assert any("b.png" in note and "px" in note for note in done.notes)
    columns = rows_of(done.objects_file)[0]
    assert "feret_max_px" in columns
    assert not [name for name in columns if "nm" in name]


def test_the_pixel_size_is_found_where_predict_wrote_it(tmp_path: Path) -> None:
    ids = np.zeros((20, 20), np.uint8)
    ids[4:8, 4:8] = 1
    (tmp_path / "masks").mkdir()
    tifffile.imwrite(
        tmp_path / "masks/a.tif", ids, resolution=(1e7 / 3, 1e7 / 6), resolutionunit="CENTIMETER"
    )
    (row,) = rows_of(measured(tmp_path).objects_file)
    assert float(row["area_nm2"]) == pytest.approx(16 * 18)


def test_one_bad_mask_is_reported_and_the_others_are_measured(tmp_path: Path) -> None:
    good = disc((40, 40), (20, 20), 9).astype(np.uint8)
    save_mask(tmp_path / "masks/good.png", good)
    save_mask(tmp_path / "masks/values.png", good * 7)
    save_mask(tmp_path / "masks/other_size.png", good[:30])
    save_mask(tmp_path / "masks/lonely.png", good)
    colours = np.random.default_rng(0).integers(0, 255, (40, 40, 3)).astype(np.uint8)
    save_mask(tmp_path / "masks/colours.png", colours)
    (tmp_path / "masks/torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    for name in ("good", "values", "other_size", "colours", "torn"):
        save_mask(tmp_path / f"images/{name}.png", good * 100)
    done = measure_masks(
        str(tmp_path / "masks"),
        tmp_path / "out",
        MeasureSettings(classes=CLASSES),
        images=str(tmp_path / "images"),
    )
    assert done.num_masks == 1
    why = {Path(one.file).name: one.why for one in done.failed}
    assert set(why) == {"values.png", "other_size.png", "lonely.png", "colours.png", "torn.png"}
    assert "value 7 is no class" in why["values.png"]
    assert "40×30 px" in why["other_size.png"]
    assert "colour" in why["colours.png"]
    assert "no image" in why["lonely.png"]


def test_masks_without_objects_give_fractions_and_no_rows(tmp_path: Path) -> None:
    save_mask(tmp_path / "masks/empty.png", np.zeros((20, 30), np.uint8))
    done = measured(tmp_path)
    assert (done.num_objects, done.histograms, done.failed) == (0, (), ())
    assert rows_of(done.objects_file) == []
    shares = {row["class"]: row["area_fraction"] for row in rows_of(done.images_file)}
    assert shares == {"matrix": "1", "large": "0", "small": "0"}
    assert any("no objects" in note for note in done.notes)


def test_unlabelled_pixels_are_not_part_of_the_area(tmp_path: Path) -> None:
    ids = np.full((10, 10), 255, np.uint8)
    ids[:4] = 0
    ids[:2, :5] = 1
    save_mask(tmp_path / "masks/a.png", ids)
    fraction = {r["class"]: r["area_fraction"] for r in rows_of(measured(tmp_path).images_file)}
    assert (fraction["large"], fraction["matrix"]) == ("0.25", "0.75")


def test_without_classes_values_are_named_and_0_255_is_two_classes(tmp_path: Path) -> None:
    ids = disc((40, 40), (20, 20), 9).astype(np.uint8)
    save_mask(tmp_path / "masks/a.png", ids * 3)
    done = measure_masks(str(tmp_path / "masks"), tmp_path / "out", MeasureSettings())
    assert [(one.name, one.num_objects) for one in done.classes] == [
        ("background", 0),
        ("class 3", 1),
    ]
    save_mask(tmp_path / "masks/a.png", ids * 255)
    done = measure_masks(str(tmp_path / "masks"), tmp_path / "out", MeasureSettings())
    assert [(one.name, one.num_objects) for one in done.classes] == [
        ("background", 0),
        ("object", 1),
    ]
    assert any("0 and 255" in note for note in done.notes)


def test_companions_and_our_own_histograms_are_no_masks(tmp_path: Path) -> None:
    ids = disc((40, 40), (20, 20), 9).astype(np.uint8)
    for name in ("a.png", "a.overlay.png", "a.prob-large.png", "histogram-large.png"):
        save_mask(tmp_path / name, ids)
    done = measure_masks(str(tmp_path), tmp_path, MeasureSettings(classes=CLASSES))
    assert (done.num_masks, done.failed) == (1, ())


def test_the_painted_info_bar_is_not_measured(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(60, 200, (200, 200)).astype(np.uint8)
    image[180:] = 0
    image[185:190, 20:60] = 255  # the bar's text
    save_mask(tmp_path / "images/a.png", image)
    assert read_micrograph(tmp_path / "images/a.png").info_bar_rows == 20
    save_mask(tmp_path / "masks/a.png", np.ones((200, 200), np.uint8))
    settings = MeasureSettings(classes=CLASSES)
    done = measure_masks(
        str(tmp_path / "masks"), tmp_path / "out", settings, images=str(tmp_path / "images")
    )
    large = rows_of(done.images_file)[1]
    assert (large["labelled_px"], large["area_fraction"]) == (str(180 * 200), "1")


def test_background_can_be_any_class_or_none(tmp_path: Path) -> None:
    save_mask(tmp_path / "masks/a.png", disc((40, 40), (20, 20), 9).astype(np.uint8))
    assert measured(tmp_path, background="none").num_objects == 2
    assert measured(tmp_path, background="large").num_objects == 1
    with pytest.raises(InputError, match="no class"):
        measured(tmp_path, background="foam")


def test_nothing_to_measure_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    with pytest.raises(InputError, match="no masks"):
        measured(tmp_path)
    with pytest.raises(InputError):
        measure_masks(str(tmp_path / "nowhere"), tmp_path / "out", MeasureSettings())


def test_where_nothing_could_be_measured_earlier_tables_stay(tmp_path: Path) -> None:
    save_mask(tmp_path / "masks/a.png", disc((40, 40), (20, 20), 9).astype(np.uint8))
    objects = Path(measured(tmp_path).objects_file)
    before = objects.read_bytes()
    (tmp_path / "masks/a.png").write_bytes(b"torn")
    done = measured(tmp_path)
    assert (done.num_masks, done.objects_file, len(done.failed)) == (0, "", 1)
    assert objects.read_bytes() == before


def test_parquet_holds_the_same_numbers_or_says_what_to_install(tmp_path: Path) -> None:
    save_mask(tmp_path / "masks/a.png", disc((40, 40), (20, 20), 9).astype(np.uint8), (2.0, 2.0))
    try:
        parquet = import_module("pyarrow.parquet")
    except ModuleNotFoundError:
        with pytest.raises(InputError, match="pyarrow"):
            measured(tmp_path, table="parquet")
        return
    table = parquet.read_table(measured(tmp_path, table="parquet").objects_file)
    (row,) = rows_of(measured(tmp_path).objects_file)
    assert table.column_names == list(row)
    assert table["area_nm2"].to_pylist() == [float(row["area_nm2"])]
    assert table["nearest_neighbour_nm"].to_pylist() == [None]


def test_the_command_prints_json_alone_and_exits_1_for_a_bad_mask(tmp_path: Path) -> None:
    save_mask(tmp_path / "masks/a.png", disc((40, 40), (20, 20), 9).astype(np.uint8))
    arguments = [str(tmp_path / "masks"), "--out", str(tmp_path / "out"), "--pixel-nm", "2,3"]
    result = CliRunner().invoke(measure, [*arguments, "--json"])
    assert result.exit_code == 0
    found = msgspec.convert(json.loads(result.stdout), Measurement)
    assert (found.unit, found.num_objects) == ("nm", 1)
    (tmp_path / "masks/\x1b[31mb.png").write_bytes(b"nothing")
    result = CliRunner().invoke(measure, arguments)
    assert result.exit_code == 1
    assert "\x1b" not in result.output
    assert isinstance(
        CliRunner().invoke(measure, [*arguments, "--pixel-nm", "x"]).exception, InputError
    )


def save_model(file: Path) -> None:
    """Write the header of a model file, without weights."""
    card = ModelCard(
        network=NetworkSpec(head="unet", backbone="resnet18", num_classes=2),
        classes=("rest", "pore"),
        class_values=(0, 1),
        colours=((0, 0, 0), (255, 0, 0)),
        patch_px=64,
    )
    header = {"__metadata__": {"emcfsys": msgspec.json.encode(card).decode()}}
    packed = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(packed)) + packed)


def test_classes_come_from_a_model_a_project_or_the_prediction_itself(tmp_path: Path) -> None:
    model = tmp_path / "best.safetensors"
    save_model(model)
    (tmp_path / "project.toml").write_text(
        '[project]\nname = "p"\npixel_nm = 4\n[classes]\na = 0\nb = 1\n'
        '[[data]]\nimages = "."\nmasks = "."\n'
    )
    masks = tmp_path / "masks"
    new_run(masks / ".emcfsys", PredictRequest(model=str(model), inputs=("/i",), out=str(masks)))
    pore = {"rest": 0, "pore": 1}
    assert classes_for("x", project=None, model=model).classes == pore
    of_project = classes_for("x", project=tmp_path, model=None)
    assert (of_project.classes, of_project.pixel_nm) == ({"a": 0, "b": 1}, 4)
    for place in (masks, masks / "sub" / "a.png", masks / "**" / "*.png"):
        assert classes_for(str(place), project=None, model=None).classes == pore
    assert classes_for(str(tmp_path), project=None, model=None).classes is None
    with pytest.raises(InputError, match="one of the two"):
        classes_for("x", project=tmp_path, model=model)
    model.unlink()
    left = classes_for(str(masks), project=None, model=None)
    assert left.classes is None
    assert "cannot be asked" in left.notes[0]


def test_progress_counts_every_mask(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        save_mask(tmp_path / f"masks/{name}.png", np.zeros((4, 4), np.uint8))
    heard: list[tuple[int, int]] = []
    measure_masks(
        str(tmp_path / "masks"),
        tmp_path / "out",
        MeasureSettings(classes=CLASSES),
        on_mask=lambda done, total: heard.append((done, total)),
    )
    assert heard == [(1, 3), (2, 3), (3, 3)]


def _numbered(tmp_path: Path, mask: np.ndarray) -> Measurement:
    (tmp_path / "masks").mkdir()
    tifffile.imwrite(tmp_path / "masks" / "a.tif", mask, photometric="minisblack")
    settings = MeasureSettings(numbered=True)
    return measure_masks(str(tmp_path / "masks"), tmp_path / "out", settings)


def test_one_number_in_two_places_is_one_object_and_said(tmp_path: Path) -> None:
    mask = np.zeros((30, 40), np.uint16)
    mask[2:6, 2:6] = mask[20:26, 20:26] = 7
    mask[2:6, 6:9] = 9  # it touches the first part
    found = _numbered(tmp_path, mask)
    assert found.num_objects == 2
    assert "a.tif: 1 parts that touch no other were joined by number" in found.notes
    assert [row["area_px"] for row in rows_of(tmp_path / "out" / "objects.csv")] == ["52", "12"]


def test_numbers_that_differ_between_slices_are_objects_of_each_slice(tmp_path: Path) -> None:
    masks = np.zeros((2, 30, 40), np.uint16)
    masks[0, 2:9, 2:9], masks[0, 20:30, 20:30] = 7, 300
    masks[1, 20:25, 20:30] = 7
    found = _numbered(tmp_path, masks)
    rows = rows_of(tmp_path / "out" / "objects.csv")
    assert [(row["mask"], row["object"], row["area_px"]) for row in rows] == [
        ("a.tif#0", "1", "49"),
        ("a.tif#0", "2", "100"),
        ("a.tif#1", "1", "50"),
    ]
    assert not [note for note in found.notes if "joined" in note]


def test_an_object_that_the_border_cuts_is_marked_and_can_be_left_out(tmp_path: Path) -> None:
    mask = np.zeros((30, 40), np.uint16)
    mask[0:5, 3:9], mask[10:20, 10:20] = 4, 5
    _numbered(tmp_path, mask)
    rows = rows_of(tmp_path / "out" / "objects.csv")
    assert [row["touches_border"] for row in rows] == ["yes", "no"]
    settings = MeasureSettings(numbered=True, exclude_border=True)
    assert measure_masks(str(tmp_path / "masks"), tmp_path / "out", settings).num_objects == 1


def test_65535_objects_of_one_pixel_in_16_bits_are_counted_and_measured(tmp_path: Path) -> None:
    mask = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256)
    found = _numbered(tmp_path, mask)
    assert found.num_objects == 65_535
    words = "a.tif: it has all numbers that it can hold: save 32 bits if some objects are lost"
    assert words in found.notes
    last = rows_of(tmp_path / "out" / "objects.csv")[-1]
    assert (last["area_px"], last["feret_max_px"], last["major_axis_px"]) == ("1", "1", "0")
    assert not {"inf", "nan", "-inf"} & set(last.values())


def test_classes_with_and_without_numbers_are_measured_together(tmp_path: Path) -> None:
    mask, numbers = np.zeros((2, 30, 40), np.uint8)
    mask[4:14, 4:26], mask[18:26, 10:16], mask[18:26, 20:30] = 1, 2, 2
    numbers[4:14, 4:14], numbers[4:14, 14:26] = 1, 2
    (tmp_path / "masks").mkdir()
    Image.fromarray(mask).save(tmp_path / "masks" / "a.png")
    write_numbers(tmp_path / "masks" / "a.instances.tif", mask, numbers)
    settings = MeasureSettings(classes={"background": 0, "grain": 1, "film": 2})
    found = measure_masks(str(tmp_path / "masks"), tmp_path / "out", settings)
    assert {one.name: one.num_objects for one in found.classes} == {
        "background": 0,
        "grain": 2,
        "film": 2,
    }


def test_masks_that_failed_in_their_hot_folder_are_counted_and_said_to_be(tmp_path: Path) -> None:
    output = tmp_path / "masks"
    states = {"a": "fail", "b": "pass", "sub/c": "review"}
    ledger = Ledger(output, owner="x")
    for name, state in states.items():
        save_mask(output / f"{name}.png", np.ones((9, 9), np.uint8))
        mask = f"{name}.png"
        entry = Entry(path=f"{name}.tif", size=1, mtime_ns=1, digest="d", mask=mask)
        ledger.record([entry], (), [Judged(path=entry.path, digest="d", state=state)])
    ledger.close()
    found = measured(tmp_path)
    assert found.num_masks == 3
    assert "1 FAIL and 1 REVIEW of 3 masks by their hot folder: they are counted, too" in (
        found.notes
    )
    say_word(output, ["a.tif", "sub/c.tif"], "accepted")
    assert not [note for note in measured(tmp_path).notes if "FAIL" in note or "REVIEW" in note]
