"""measure gives scikit-image's numbers, in the specimen's units, from any folder of masks."""

import csv
import json
import math
import struct
from importlib import import_module
from pathlib import Path

import msgspec
import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from scipy.ndimage import distance_transform_edt
from skimage.measure import label, perimeter_crofton, regionprops, regionprops_table
from skimage.morphology import local_maxima
from skimage.segmentation import watershed

from emcfsys_engine.commands.measure import measure
from emcfsys_engine.errors import InputError, ShapeError
from emcfsys_engine.images.reader import read_micrograph
from emcfsys_engine.model_card import ModelCard, NetworkSpec
from emcfsys_engine.run import PredictRequest, new_run
from emcfsys_engine.tools.histogram import Quantity, histogram_png, nice_ticks
from emcfsys_engine.tools.measure import measure_masks
from emcfsys_engine.tools.measure_classes import classes_for
from emcfsys_engine.tools.measure_objects import measure_objects
from emcfsys_engine.tools.measurement import Measurement, MeasureSettings
from emcfsys_engine.tools.split_objects import split_labels

CLASSES = {"matrix": 0, "large": 1, "small": 2}
SMALL_MASKS = arrays(
    np.uint8, st.tuples(st.integers(1, 18), st.integers(1, 18)), elements=st.integers(0, 2)
)
SAME_AS_REGIONPROPS = {
    "area": "area",
    "major_axis": "axis_major_length",
    "minor_axis": "axis_minor_length",
    "solidity": "solidity",
    "centroid_y": "centroid-0",
    "centroid_x": "centroid-1",
    "mean_intensity": "mean_intensity",
}


def disc(shape: tuple[int, int], centre: tuple[float, float], radius: float) -> np.ndarray:
    rows, columns = np.indices(shape)
    return np.hypot(rows - centre[0], columns - centre[1]) <= radius


def save_mask(file: Path, ids: np.ndarray, pixel_nm: tuple[float, float] | None = None) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    info = PngInfo()
    if pixel_nm:
        info.add_text("pixel_nm", f"{pixel_nm[0]:.9g} {pixel_nm[1]:.9g}")
    Image.fromarray(ids).save(file, pnginfo=info)


def rows_of(file: str | Path) -> list[dict[str, str]]:
    with Path(file).open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def measured(folder: Path, **settings: object) -> Measurement:
    return measure_masks(
        str(folder / "masks"), folder / "out", MeasureSettings(classes=CLASSES, **settings)
    )


# ------------------------------------------------------------------ objects and their numbers


@given(ids=SMALL_MASKS, seed=st.integers(0, 99), down=st.sampled_from([1.0, 0.7, 3.0]))
def test_objects_have_the_numbers_of_regionprops(ids: np.ndarray, seed: int, down: float) -> None:
    grey = np.random.default_rng(seed).integers(0, 60_000, ids.shape).astype(np.uint16)
    found = measure_objects(ids, [1, 2], pixel=(down, 2.0), grey=grey)
    labels = label(ids, background=0, connectivity=2)
    names = ("area", "axis_major_length", "axis_minor_length", "solidity", "mean_intensity")
    truth = regionprops_table(
        labels, grey, properties=(*names, "centroid", "coords"), spacing=(down, 2.0)
    )
    assert len(found) == len(truth["area"])
    order = np.lexsort([[c[0][1] for c in truth["coords"]], [c[0][0] for c in truth["coords"]]])
    for ours, theirs in SAME_AS_REGIONPROPS.items():
        assert np.allclose(getattr(found, ours), truth[theirs][order], atol=1e-6), ours


@given(ids=SMALL_MASKS)
def test_perimeters_of_square_pixels_are_croftons(ids: np.ndarray) -> None:
    found = measure_objects(ids, [1, 2])
    labels = label(ids, background=0, connectivity=2)
    truth = [perimeter_crofton(np.pad(region.image, 1), 4) for region in regionprops(labels)]
    assert np.allclose(sorted(found.perimeter), sorted(truth))


@given(ids=SMALL_MASKS, factor=st.integers(2, 3))
def test_pixels_twice_as_high_measure_as_if_drawn_twice(ids: np.ndarray, factor: int) -> None:
    flat = measure_objects(ids, [1, 2], pixel=(float(factor), 1.0))
    drawn = measure_objects(np.repeat(ids, factor, axis=0), [1, 2])
    assert np.array_equal(flat.area, drawn.area)
    # the middles of the first and last row drawn lie (factor - 1) / 2 from that of the high pixel
    assert np.allclose(flat.centroid_y + (factor - 1) / 2, drawn.centroid_y)
    assert np.allclose(flat.centroid_x, drawn.centroid_x)
    assert np.allclose(flat.neighbour_distance, drawn.neighbour_distance, equal_nan=True)


@given(ids=SMALL_MASKS)
def test_the_order_of_sizes_always_holds(ids: np.ndarray) -> None:
    found = measure_objects(ids, [1, 2])
    assert found.area_px.sum() == (ids > 0).sum()
    assert (found.feret_min <= found.feret_max + 1e-9).all()
    assert (found.minor_axis <= found.major_axis + 1e-9).all()
    assert (found.solidity <= 1).all()
    assert ((found.eccentricity >= 0) & (found.eccentricity <= 1)).all()


def test_feret_diameters_are_those_of_regionprops_within_a_pixel(shared_data: Path) -> None:
    mask = min((shared_data / "superalloy-sem/masks/val").glob("*.png"))
    ids = np.array(Image.open(mask))
    found = measure_objects(ids, [1, 2], min_px=30)
    truth = [r.feret_diameter_max for r in regionprops(label(ids, connectivity=2)) if r.area >= 30]
    assert len(truth) == len(found)
    assert np.abs(np.sort(found.feret_max) - np.sort(truth)).max() < 1


def test_a_drawn_disc_has_the_diameter_perimeter_and_shape_of_a_disc() -> None:
    found = measure_objects(disc((90, 90), (44.3, 45.1), 30).astype(np.uint8), [1])
    for diameter in (found.equivalent_diameter, found.feret_max, found.feret_min):
        assert diameter[0] == pytest.approx(60, rel=0.02)
    assert found.perimeter[0] == pytest.approx(60 * math.pi, rel=0.02)
    assert found.circularity[0] == pytest.approx(1, abs=0.03)
    assert found.eccentricity[0] < 0.1


def test_a_disc_imaged_with_oblong_pixels_is_still_a_disc() -> None:
    rows, columns = np.indices((60, 180))
    ids = (np.hypot(rows * 3.0 - 90, columns - 90.0) <= 60).astype(np.uint8)
    found = measure_objects(ids, [1], pixel=(3.0, 1.0))
    for diameter in (found.equivalent_diameter, found.feret_max, found.feret_min):
        assert diameter[0] == pytest.approx(120, rel=0.03)
    assert found.perimeter[0] == pytest.approx(120 * math.pi, rel=0.03)
    assert found.major_axis[0] / found.minor_axis[0] == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("degrees", "step"), [(0, (0, 1)), (45, (-1, 1)), (90, (1, 0)), (135, (1, 1))]
)
def test_orientation_is_the_angle_that_one_sees(degrees: int, step: tuple[int, int]) -> None:
    ids = np.zeros((21, 21), np.uint8)
    for n in range(-8, 9):
        ids[10 + n * step[0], 10 + n * step[1]] = 1
    assert measure_objects(ids, [1]).orientation_deg[0] == pytest.approx(degrees)


def test_an_object_without_a_direction_has_no_orientation() -> None:
    ids = np.zeros((9, 9), np.uint8)
    ids[2:5, 2:5] = 1
    assert math.isnan(measure_objects(ids, [1]).orientation_deg[0])


def test_intensity_is_of_the_objects_own_pixels() -> None:
    ids = np.zeros((6, 8), np.uint8)
    ids[1:3, 1:4] = 1
    grey = np.full((6, 8), np.nan)
    grey[1:3, 1:4] = [[1, 2, 3], [4, 5, 6]]
    found = measure_objects(ids, [1], grey=grey)
    assert (found.mean_intensity, found.integrated_intensity) == (3.5, 21.0)
    with pytest.raises(ShapeError):
        measure_objects(ids, [1], grey=grey[:5])


def test_the_nearest_neighbour_is_of_the_same_class() -> None:
    ids = np.zeros((5, 40), np.uint8)
    ids[2, 2] = ids[2, 12] = ids[2, 30] = 1
    ids[2, 4] = 2
    found = measure_objects(ids, [1, 2], pixel=(2.0, 2.0))
    assert found.neighbour_distance[found.class_value == 1].tolist() == [20, 20, 36]
    assert math.isnan(found.neighbour_distance[found.class_value == 2][0])


def test_small_and_cut_objects_are_left_out_on_request() -> None:
    ids = np.zeros((30, 30), np.uint8)
    ids[0:4, 5:9] = ids[10:14, 10:14] = ids[20, 20] = 1
    assert len(measure_objects(ids, [1])) == 3
    assert measure_objects(ids, [1]).touches_border.tolist() == [True, False, False]
    kept = measure_objects(ids, [1], min_px=2, exclude_border=True)
    assert kept.area_px.tolist() == [16]
    assert kept.perimeter[0] == measure_objects(ids[9:15, 9:15], [1]).perimeter[0]
    assert math.isnan(kept.neighbour_distance[0])


# ------------------------------------------------------------------------------- watershed


def test_watershed_parts_touching_discs_and_keeps_their_sizes() -> None:
    ids = (disc((60, 110), (30, 30), 20) | disc((60, 110), (30, 66), 20)).astype(np.uint8)
    assert len(measure_objects(ids, [1])) == 1
    parts = measure_objects(ids, [1], split="watershed")
    assert len(parts) == 2
    assert parts.area_px.sum() == ids.sum()
    assert abs(int(parts.area_px[0]) - int(parts.area_px[1])) < 60
    assert parts.neighbour_distance == pytest.approx([36, 36], abs=2)


def test_watershed_leaves_what_has_no_neck_whole() -> None:
    rod = np.zeros((30, 120), bool)
    rod[10:20, 5:115] = True
    for ids in (disc((80, 80), (40, 40), 30), rod):
        assert len(measure_objects(ids.astype(np.uint8), [1], split="watershed")) == 1


def test_a_lower_neck_parts_less() -> None:
    ids = (disc((60, 110), (30, 30), 20) | disc((60, 110), (30, 60), 20)).astype(np.uint8)
    assert len(measure_objects(ids, [1], split="watershed", neck=0.9)) == 2
    assert len(measure_objects(ids, [1], split="watershed", neck=0.3)) == 1


@given(ids=SMALL_MASKS)
def test_watershed_gives_every_pixel_of_every_class_to_one_object(ids: np.ndarray) -> None:
    parts = measure_objects(ids, [1, 2], split="watershed")
    for value in (1, 2):
        assert parts.area_px[parts.class_value == value].sum() == (ids == value).sum()
    assert len(parts) >= len(measure_objects(ids, [1, 2]))


@given(seed=st.integers(0, 2**32 - 1), across=st.sampled_from([1.0, 2.5]))
def test_the_split_is_that_of_its_plain_recipe(seed: int, across: float) -> None:
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((70, 150))  # more rows than are looked at together
    ids = np.zeros((70, 150), np.uint8)
    for _ in range(14):
        y, x, radius = rng.uniform(0, 70), rng.uniform(0, 150), rng.uniform(3, 14)
        ids[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = 1
    found = split_labels(ids, (1,), pixel=(1.0, across), neck=0.75)
    plain = _split_plainly(ids > 0, (1.0, across), neck=0.75)
    pairs = np.unique(np.stack((found.ravel(), plain.ravel())), axis=1)
    assert pairs.shape[1] == found.max() + 1 == len(np.unique(plain))


def _split_plainly(inside: np.ndarray, pixel: tuple[float, float], *, neck: float) -> np.ndarray:
    """Flood everything from every peak, then join parts pass after pass."""
    depth = distance_transform_edt(inside, pixel).astype(np.float32)
    padded = np.pad(depth, 1)
    peaks = label(local_maxima(padded)[1:-1, 1:-1] & inside, connectivity=2)
    parts = watershed(-depth, peaks, mask=inside, connectivity=2)
    passes: dict[tuple[int, int], float] = {}
    for (y, x), here in np.ndenumerate(parts):
        for near in ((y, x + 1), (y + 1, x), (y + 1, x + 1), (y + 1, x - 1)):
            if not (near[0] < parts.shape[0] and 0 <= near[1] < parts.shape[1]):
                continue
            there = parts[near]
            if here and there and here != there:
                pair = (min(here, there), max(here, there))
                height = float(min(depth[y, x], depth[near]))
                passes[pair] = max(height, passes.get(pair, 0.0))
    name = {part: part for part in range(parts.max() + 1)}
    highest = {part: float(depth[parts == part].max()) for part in name if part}
    for pair, height in sorted(passes.items(), key=lambda item: (-item[1], item[0])):
        one, other = (name[part] for part in pair)
        if one == other:
            continue
        lower = min(highest[one], highest[other])
        if height >= neck * lower or lower - height < min(pixel):
            kept, gone = min(one, other), max(one, other)
            highest[kept] = max(highest[one], highest[other])
            name = {part: kept if into == gone else into for part, into in name.items()}
    return np.vectorize(name.__getitem__)(parts)


# ------------------------------------------------------------------------- files and tables


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
    assert [Path(file).name for file in done.histograms] == [
        "histogram-large.png",
        "histogram-small.png",
    ]


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


def test_any_histogram_is_drawn() -> None:
    for values in ([5.0], [5.0] * 9, [1e-3, 1e9], list(range(1, 4000)), [5.0] * 9999 + [50.0]):
        png = histogram_png(np.array(values), "γ\x1b[31m", Quantity(words="x", unit="nm"))
        assert png.startswith(b"\x89PNG")


@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-3, 1e9))
def test_ticks_are_few_and_inside(low: float, span: float) -> None:
    ticks = nice_ticks(low, low + span)
    assert 1 <= len(ticks) <= 13
    assert all(low - 1e-6 * span <= tick <= low + span * (1 + 1e-6) for tick in ticks)


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


# ------------------------------------------------------------------------- names of classes


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


@given(seed=st.integers(0, 2**32 - 1), touching=st.booleans())
def test_classes_split_together_are_split_as_each_alone(seed: int, touching: bool) -> None:
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((90, 90))
    ids = np.zeros((90, 90), np.uint8)
    for _ in range(12):
        y, x, radius = rng.uniform(0, 90), rng.uniform(0, 90), rng.uniform(3, 12)
        ids[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = rng.integers(1, 3)
    if not touching:
        ids[:, 44:47] = 0
        ids[:, :44][ids[:, :44] == 2] = 1
        ids[:, 47:][ids[:, 47:] == 1] = 2
    both = split_labels(ids, (1, 2))
    first, second = split_labels(ids, (1,)), split_labels(ids, (2,))
    apart = np.where(second > 0, second + first.max(), first)
    assert np.array_equal(both > 0, ids > 0)
    assert both.max() == apart.max()
    assert np.mean(both != apart) < 0.01  # ties at a pass may fall to either side
