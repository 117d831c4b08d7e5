"""Files in, files out: any size, any format, nothing half, nothing twice."""

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tifffile
from PIL import Image

from emcfsys_engine.annotations.files import find_annotations
from emcfsys_engine.annotations.pair_shapes import pair_shapes
from emcfsys_engine.colours import colours_for
from emcfsys_engine.errors import AnnotationError, InputError
from emcfsys_engine.hotfolder.ledger import Entry, Ledger
from emcfsys_engine.images import writers
from emcfsys_engine.images.reader import find_images
from emcfsys_engine.learn.inference import bands
from emcfsys_engine.learn.inference.files import Counted, find_inputs, predict_files
from emcfsys_engine.learn.inference.predictor import Predictor
from emcfsys_engine.learn.model_file import save_model
from emcfsys_engine.learn.networks.network import build_network
from emcfsys_engine.model_card import ModelCard
from emcfsys_engine.run.events import Event, ImageFailed, RunStarted, WarningGiven
from emcfsys_engine.run.folder import new_run
from emcfsys_engine.run.records import PredictRequest
from emcfsys_engine.tools.adapt import make_adaptation
from emcfsys_engine.tools.convert.conversion import convert_labels
from tests.learn.conftest import TINY
from tests.learn.inference.made import Predict, draw, drawn, mask_in, names_in


@pytest.mark.parametrize(
    ("mask_format", "name"),
    [("png", "a.png"), ("tiff", "a.tif"), ("tif", "a.tif"), ("ome-tiff", "a.ome.tif"),
     ("ome-zarr", "a.ome.zarr")],
)  # fmt: skip
def test_every_format_holds_the_same_mask_and_is_not_made_twice(
    predict: Predict, predictor: Predictor, tmp_path: Path, mask_format: str, name: str
) -> None:
    image = drawn((70, 90), dtype="uint8")
    Image.fromarray(image).save(tmp_path / "in" / "a.png")
    assert predict(mask_format=mask_format, overlay=True)[0].done == 1
    assert np.mean(mask_in(tmp_path / "out" / name) != predictor(image)) <= 1e-4
    assert (tmp_path / "out" / "a.overlay.png").is_file()
    assert predict(mask_format=mask_format)[0] == Counted(done=0, skipped=1, failed=0)
    assert predict(mask_format=mask_format, force=True)[0].done == 1


def test_masks_that_a_hot_folders_ledger_tells_of_are_not_made_anew_under_it(
    predict: Predict, tmp_path: Path
) -> None:
    Image.fromarray(drawn((70, 90), dtype="uint8")).save(tmp_path / "in" / "a.png")
    assert predict()[0].done == 1
    mask = (tmp_path / "out" / "a.png").read_bytes()
    ledger = Ledger(tmp_path / "out", owner="x")
    ledger.close()
    assert predict(force=True)[0].done == 1  # it tells of none
    ledger = Ledger(tmp_path / "out", owner="x")
    ledger.record([Entry(path="a.png", size=1, mtime_ns=1, digest="d", mask="a.png")])
    ledger.close()
    with pytest.raises(InputError, match="has the masks of a hot folder"):
        predict(force=True)
    assert (tmp_path / "out" / "a.png").read_bytes() == mask
    assert predict()[0].skipped == 1


def test_slices_of_a_stack_have_masks_of_their_own(predict: Predict, tmp_path: Path) -> None:
    stack = np.stack([drawn((64, 70), seed) for seed in range(3)])
    tifffile.imwrite(tmp_path / "in" / "s.tif", stack, photometric="minisblack")
    assert predict()[0].done == 3
    assert names_in(tmp_path / "out") == ["s.0000.png", "s.0001.png", "s.0002.png"]


def test_outlines_go_where_their_tools_find_them(
    predict: Predict, tmp_path: Path, predictor: Predictor
) -> None:
    Image.fromarray(drawn((64, 70), 1, "uint8")).save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "sub").mkdir()
    tifffile.imwrite(tmp_path / "in" / "sub" / "b.tif", drawn((60, 64), 2))
    formats = ("labelme", "coco", "geojson", "imagej")
    assert predict(vectors=formats)[0].done == 2
    out = tmp_path / "out"
    assert names_in(out) == [
        "a.geojson", "a.json", "a.png", "a.zip", "annotations.json",
        "sub/b.geojson", "sub/b.json", "sub/b.png", "sub/b.view.png", "sub/b.zip",
    ]  # fmt: skip
    for json_file, size in (("a.json", (70, 64)), ("sub/b.json", (64, 60))):
        labelme = json.loads((out / json_file).read_text())
        shown = (out / json_file).parent / labelme["imagePath"].replace("\\", "/")
        with Image.open(shown) as picture:
            assert picture.size == size
            assert picture.mode == "L"
        assert {shape["label"] for shape in labelme["shapes"]} <= {"grain"}
    images = json.loads((out / "annotations.json").read_text())["images"]
    assert sorted(image["file_name"] for image in images) == ["a.png", "sub/b.tif"]
    faults: list[Any] = []
    assert find_annotations(str(out / "a.json"), tmp_path, faults, [])
    assert not faults
    # COCO has one file for all: images that were done before stay in it.
    Image.fromarray(drawn((64, 70), 3, "uint8")).save(tmp_path / "in" / "c.png")
    assert predict(vectors=("coco",))[0] == Counted(done=1, skipped=2, failed=0)
    images = json.loads((out / "annotations.json").read_text())["images"]
    assert sorted(image["file_name"] for image in images) == ["a.png", "c.png", "sub/b.tif"]


@pytest.mark.parametrize("mask_format", ["png", "tiff", "ome-zarr"])
@pytest.mark.parametrize("size", ["small", "large"])
def test_a_full_disk_leaves_nothing_half_and_the_run_can_go_on(
    predict: Predict, tmp_path: Path, monkeypatch: Any, mask_format: str, size: str
) -> None:
    if size == "large":
        monkeypatch.setattr(bands, "LARGE_PX", 1000)
    for name in ("a", "b", "c"):
        tifffile.imwrite(tmp_path / "in" / f"{name}.tif", drawn((300, 100)), rowsperstrip=10)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(writers.os, "fsync", full)
        count, said = predict(mask_format=mask_format, overlay=True)
    assert count == Counted(done=0, skipped=0, failed=3)
    for event in said:
        assert isinstance(event, ImageFailed)
        assert "No space left on device. Free some space" in event.reason
    assert not list((tmp_path / "out").rglob(".*.tmp"))
    assert not list((tmp_path / "out").glob("?.png"))
    count, _ = predict(mask_format=mask_format, overlay=True)
    assert count == Counted(done=3, skipped=0, failed=0)


def test_ending_within_a_large_image_leaves_nothing_half(
    predict: Predict, tmp_path: Path, in_bands: None
) -> None:
    for name in ("a", "b"):
        tifffile.imwrite(tmp_path / "in" / f"{name}.tif", drawn((900, 100)), rowsperstrip=10)
    asked = iter([None] * 5)
    count, said = predict(asked=lambda: next(asked, "cancel"))
    assert count.done == 0
    assert not said
    assert names_in(tmp_path / "out") == []
    assert predict()[0].done == 2


@pytest.mark.parametrize("where", ["memory", "bands"])
def test_an_image_without_a_number_is_reported_and_gets_no_mask(
    predict: Predict, tmp_path: Path, where: str, monkeypatch: Any
) -> None:
    if where == "bands":
        monkeypatch.setattr(bands, "LARGE_PX", 10)
    tifffile.imwrite(tmp_path / "in" / "a.tif", np.full((90, 90), np.nan, np.float32))
    tifffile.imwrite(tmp_path / "in" / "b.tif", drawn((90, 90)))
    count, said = predict()
    assert (count.done, count.failed) == (1, 1)
    (failed,) = (event for event in said if isinstance(event, ImageFailed))
    assert "a.tif: holds no finite number" in failed.reason
    assert names_in(tmp_path / "out") == ["b.png"]


@pytest.mark.long
def test_what_the_commands_summary_says_is_json(model_file: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(drawn((64, 70), 1, "uint8")).save(tmp_path / "in" / "a.png")
    words = ["predict", str(model_file), str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    more = ["--json", "--uncertainty", "--vectors", "geojson", "--format", "ome-tiff"]
    command = [sys.executable, "-m", "emcfsys_engine", *words, *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=True)
    (one,) = msgspec.json.decode(done.stdout)["done"]
    assert one["mask"].endswith("a.ome.tif")
    made = {"a.geojson", "a.ome.tif", "a.uncertainty.png"}
    assert made <= set(names_in(tmp_path / "out"))
    bad = subprocess.run(
        [*command[:-4], "--vectors", "svg"],
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert bad.returncode == 2
    assert "'svg' is no format" in bad.stderr


def test_pictures_of_every_kind_are_predicted_and_others_said_to_be_left_out(
    predict: Predict, predictor: Predictor, tmp_path: Path
) -> None:
    image = drawn((64, 72), dtype="uint8")
    for name in ("a.gif", "b.webp", "c.jp2", "d.pgm"):
        options = {"lossless": True} if name == "b.webp" else {}
        Image.fromarray(image).save(tmp_path / "in" / name, **options)
    film = [Image.fromarray(image), Image.fromarray(image[::-1])]
    film[0].save(tmp_path / "in" / "e.webp", save_all=True, append_images=film[1:], lossless=True)
    (tmp_path / "in" / "f.heic").write_bytes(b"no picture for us")
    count, _ = predict()
    assert (count.done, count.failed) == (6, 0)
    wanted = predictor.predict(image).mask
    for name in ("a", "b", "c", "d", "e.0000"):
        assert np.array_equal(mask_in(tmp_path / "out" / f"{name}.png"), wanted), name
    left_out: list[Path] = []
    request = PredictRequest(model="m", inputs=(str(tmp_path / "in"),), out=str(tmp_path / "out"))
    find_inputs(request, left_out)
    assert [path.name for path in left_out] == ["f.heic"]


def test_an_image_or_stack_that_became_another_is_predicted_again_unasked(
    tmp_path: Path, predict: Predict
) -> None:
    def stack(planes: int, seed: int) -> None:
        pixels = np.stack([drawn((64, 64), seed + number) for number in range(planes)])
        tifffile.imwrite(tmp_path / "in" / "s.tif", pixels, photometric="minisblack")

    tifffile.imwrite(tmp_path / "in" / "a.tif", drawn((64, 64), 1))
    stack(5, 2)
    assert predict()[0].done == 6
    assert predict()[0] == Counted(done=0, skipped=6, failed=0)
    person = tmp_path / "out" / "s.0004.png"
    person.write_bytes(person.read_bytes() + b"by a person")
    stack(2, 3)
    counted, said = predict()
    assert counted == Counted(done=2, skipped=1, failed=0)
    # Masks of planes that are no more go, but for what a person changed.
    assert names_in(tmp_path / "out") == ["a.png", "s.0000.png", "s.0001.png", "s.0004.png"]
    (told,) = [event.message for event in said if isinstance(event, WarningGiven)]
    assert "2 files of it as it was before removed (s.0002.png, s.0003.png)" in told
    assert "1 changed file of it kept (s.0004.png)" in told
    tifffile.imwrite(tmp_path / "in" / "a.tif", drawn((64, 64), 4))
    corrected = tmp_path / "out" / "a.png"
    corrected.write_bytes(corrected.read_bytes() + b"by a person")
    counted, said = predict()
    assert counted == Counted(done=0, skipped=3, failed=0)  # a person's mask stays
    words = "1 changed mask is of an image that changed since, and kept (a.png)"
    assert words in str(said)


def _second_model(folder: Path) -> Predictor:
    """A model of the first one's shape whose class 7 is called otherwise."""
    network = build_network(TINY)
    card = ModelCard(
        network=TINY,
        classes=("resin", "crack"),
        class_values=(0, 7),
        colours=colours_for(2),
        patch_px=64,
        run="another",
    )
    save_model(folder / "other.safetensors", network, card)
    return Predictor(folder / "other.safetensors", gpus=0, tile_px=64)


def test_a_file_over_several_runs_names_no_mask_by_the_classes_of_another_model(
    predict: Predict, predictor: Predictor, tmp_path: Path
) -> None:
    out = tmp_path / "out"

    def of(model: Predictor, **options: Any) -> tuple[list[str], set[str], str]:
        request = PredictRequest(
            model="m",
            inputs=(str(tmp_path / "in"),),
            out=str(out),
            vectors=("coco",),
            rank_uncertain=True,
            **options,
        )
        said: list[Event] = []
        predict_files(request, find_inputs(request), model, said.append, lambda: None)
        document = json.loads((out / "annotations.json").read_text())
        ranked = json.loads((out / "ranking.json").read_text())["images"]
        files = sorted(one["file_name"] for one in document["images"])
        assert sorted(Path(one["image"]).name for one in ranked) == files
        names = {one["name"] for one in document["categories"]} - {"__ignore__"}
        return files, names, " ".join(e.message for e in said if isinstance(e, WarningGiven))

    Image.fromarray(drawn((64, 70), 1, "uint8")).save(tmp_path / "in" / "a.png")
    files, names, said = of(predictor)
    assert (files, names, said) == (["a.png"], {"resin", "grain"}, "")
    Image.fromarray(drawn((64, 70), 3, "uint8")).save(tmp_path / "in" / "b.png")
    other = _second_model(tmp_path)
    files, names, said = of(other)
    assert (files, names) == (["b.png"], {"resin", "crack"})
    assert "1 mask that was there is of other models or settings (a.png)" in said
    assert "left out of annotations.json and ranking.json. Use --force" in said
    files, names, said = of(other, force=True)
    assert (files, names, said) == (["a.png", "b.png"], {"resin", "crack"}, "")


@pytest.mark.parametrize("vectors", ["labelme", "coco"])
def test_outlines_never_stand_for_a_mask_that_was_corrected_since(
    predict: Predict, model_file: Path, tmp_path: Path, vectors: str
) -> None:
    out, image = tmp_path / "out", tmp_path / "in" / "a.png"
    Image.fromarray(drawn((128, 128), 1, "uint8")).save(image)
    predict(vectors=(vectors,))
    corrected = np.zeros((128, 128), np.uint8)
    corrected[:40] = 7
    Image.fromarray(corrected).save(out / "a.png")
    names = {"resin": 0, "grain": 7}
    convert_labels(str(out), tmp_path / "converted", to="masks", classes=names)
    assert np.array_equal(mask_in(tmp_path / "converted" / "a.png"), corrected)
    new = tmp_path / "new"
    make_adaptation(model_file, [str(image)], new, labels=str(out), minutes=0.1)
    trains = mask_in(new / "masks" / "a.png")
    assert np.array_equal(trains[trains != 255], corrected[trains != 255])


def test_an_image_with_outlines_in_several_formats_is_converted_once(
    predict: Predict, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        Image.fromarray(drawn((64, 70), 1, "uint8")).save(tmp_path / "in" / f"{name}.png")
    predict(vectors=("labelme", "coco", "geojson", "imagej"))
    outlines = json.loads((tmp_path / "out" / "a.json").read_text())
    box = [[5, 5], [20, 5], [20, 20], [5, 20]]
    outlines["shapes"] = [{"label": "grain", "shape_type": "polygon", "points": box}]
    (tmp_path / "out" / "a.json").write_text(json.dumps(outlines))
    made = convert_labels(
        str(tmp_path / "out"),
        tmp_path / "converted",
        to="masks",
        images=str(tmp_path / "in"),
        classes={"resin": 0, "grain": 7},
    )
    assert ([Path(one).name for one in made.written], made.skipped) == (["a.png", "b.png"], ())
    corrected = mask_in(tmp_path / "converted" / "a.png") == 7
    assert (corrected[7:18, 7:18].all(), corrected.sum() < 300) == (True, True)


def test_where_some_outlines_are_behind_their_masks_these_are_said_and_the_others_converted(
    predict: Predict, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        Image.fromarray(drawn((64, 70), 1, "uint8")).save(tmp_path / "in" / f"{name}.png")
    predict(vectors=("labelme",))
    request = PredictRequest(
        model="m", inputs=(str(tmp_path / "in" / "a.png"),), out=str(tmp_path / "out"), force=True
    )
    other = _second_model(tmp_path)
    predict_files(request, find_inputs(request), other, lambda event: None, lambda: None)
    made = convert_labels(str(tmp_path / "out"), tmp_path / "converted", to="masks")
    assert [Path(one).name for one in made.written] == ["b.png"]
    (skipped,) = made.skipped
    assert (Path(skipped.file).name, "made anew" in skipped.why) == ("a.json", True)
    masks = convert_labels(str(tmp_path / "out" / "*.png"), tmp_path / "by_masks", to="labelme")
    assert len(masks.written) == 2  # as the line says
    with pytest.raises(AnnotationError, match=r"counts?: .* Convert the masks by themselves"):
        convert_labels(str(tmp_path / "out" / "a.json"), tmp_path / "none", to="masks")


def test_one_file_for_all_images_keeps_those_of_earlier_runs_of_other_images(
    run: Predict, tmp_path: Path
) -> None:
    def listed() -> list[str]:
        document = json.loads((tmp_path / "out" / "annotations.json").read_text())
        return sorted(one["file_name"] for one in document["images"])

    for seed, place in enumerate(("monday", "tuesday")):
        draw(tmp_path / place / f"{place}.png", seed)
        run(inputs=(place,), vectors=("coco",))
    assert listed() == ["monday.png", "tuesday.png"]
    (tmp_path / "monday" / "monday.png").unlink()
    run(inputs=("tuesday",), vectors=("coco",))
    assert listed() == ["tuesday.png"]


def test_outlines_of_an_image_are_never_those_of_its_namesake_in_another_folder(
    run: Predict, tmp_path: Path
) -> None:
    for seed, place in enumerate(("monday", "tuesday")):
        draw(tmp_path / place / "x.png", seed, (48, 56 + 8 * seed))
        run(inputs=(place,), vectors=("coco",))
    file = tmp_path / "out" / "annotations.json"
    document = json.loads(file.read_text())
    named = {one["file_name"]: one["width"] for one in document["images"]}
    assert named == {"monday/x.png": 56, "tuesday/x.png": 64}
    images = find_images(str(tmp_path / "tuesday"), tmp_path)
    found = find_annotations(str(file), tmp_path, [], [])
    assert not pair_shapes(images, tmp_path / "tuesday", found, tmp_path).of_image
    images = find_images(str(tmp_path / "*" / "x.png"), tmp_path)
    pairs = pair_shapes(images, tmp_path, found, tmp_path).of_image
    assert {ref.path.parent.name: found[file][n].size_HW for ref, (file, n) in pairs.items()} == {
        "monday": (48, 56),
        "tuesday": (48, 64),
    }


@pytest.mark.parametrize("vectors", ["labelme", "geojson", "imagej"])
def test_outlines_are_of_the_image_as_it_was_and_of_none_that_took_its_name(
    run: Predict, tmp_path: Path, vectors: str
) -> None:
    draw(tmp_path / "in" / "x.png", 1)
    run(vectors=(vectors,))
    out = str(tmp_path / "out")

    def paired() -> tuple[int, str]:
        found = find_annotations(out, tmp_path, [], [])
        images = find_images(str(tmp_path / "in"), tmp_path)
        pairs = pair_shapes(images, tmp_path / "in", found, tmp_path / "out")
        return len(pairs.of_image), " ".join(pairs.notes)

    assert paired() == (1, "")
    draw(tmp_path / "in" / "x.png", 2)
    number, said = paired()
    assert number == 0
    assert "1 outline is of an image that changed since: left out, predict it again" in said


def test_masks_of_before_the_model_was_noted_are_named_as_the_runs_say(
    predict: Predict, predictor: Predictor, tmp_path: Path
) -> None:
    Image.fromarray(drawn((64, 70), 1, "uint8")).save(tmp_path / "in" / "a.png")
    assert predict()[0].done == 1
    book = tmp_path / "out" / ".emcfsys" / "outputs.jsonl"
    lines = [json.loads(line) for line in book.read_text().splitlines()]
    older = [
        {k: v for k, v in one.items() if k != "maker"} for one in lines if "classes" not in one
    ]
    book.write_text("".join(json.dumps(line) + "\n" for line in older))
    Image.fromarray(drawn((64, 70), 3, "uint8")).save(tmp_path / "in" / "b.png")
    for classes, images in ((("x", "y"), ["b.png"]), (predictor.card.classes, ["a.png", "b.png"])):
        request = PredictRequest(model="m", inputs=(str(tmp_path / "in"),), out="out")
        shutil.rmtree(tmp_path / "out" / ".emcfsys" / "runs", ignore_errors=True)
        run = new_run(tmp_path / "out" / ".emcfsys", request)
        event = RunStarted(run=run.id, does="predict", classes=classes)
        run.events_file.write_bytes(msgspec.json.encode(event) + b"\n")
        said = predict(vectors=("coco",))[1]
        document = json.loads((tmp_path / "out" / "annotations.json").read_text())
        assert sorted(one["file_name"] for one in document["images"]) == images
        assert ("of other models or settings" in str(said)) == (len(images) == 1)
        shutil.rmtree(run.folder)


def _stack(file: Path, planes: int, seed: int) -> None:
    pixels = np.stack([drawn((64, 64), seed + number) for number in range(planes)])
    tifffile.imwrite(file, pixels if planes > 1 else pixels[0], photometric="minisblack")


def test_what_a_stack_was_before_leaves_nothing_and_its_names_stay(
    predict: Predict, tmp_path: Path
) -> None:
    for planes, masks in (
        (2, ["s.0000.png", "s.0001.png"]),
        (4, [f"s.000{number}.png" for number in range(4)]),
        (1, ["s.png"]),
        (3, [f"s.000{number}.png" for number in range(3)]),
    ):
        _stack(tmp_path / "in" / "s.tif", planes, planes)
        assert predict()[0].done == planes
        assert names_in(tmp_path / "out") == masks


def test_companions_of_an_image_as_it_was_before_go_and_are_not_ranked(
    predict: Predict, tmp_path: Path
) -> None:
    out, image = tmp_path / "out", tmp_path / "in" / "a.tif"
    _stack(image, 1, 1)
    predict(rank_uncertain=True, overlay=True, vectors=("geojson",))
    geojson = out / "a.geojson"
    geojson.write_bytes(geojson.read_bytes() + b"\n")  # by a person
    _stack(image, 1, 2)
    predict()
    assert names_in(out) == ["a.geojson", "a.png", "ranking.csv", "ranking.json"]
    # The same image by another model: the uncertainty beside the mask is not its own.
    predict(rank_uncertain=True, force=True)
    other = _second_model(tmp_path)
    request = PredictRequest(model="m", inputs=(str(tmp_path / "in"),), out=str(out), force=True)
    predict_files(request, find_inputs(request), other, lambda _: None, lambda: None)
    request = msgspec.structs.replace(request, force=False, rank_uncertain=True)
    said: list[Event] = []
    predict_files(request, find_inputs(request), other, said.append, lambda: None)
    assert json.loads((out / "ranking.json").read_text())["images"] == []
    assert "1 image has a mask without its uncertainty" in str(said)


def test_coco_names_the_image_and_not_its_mask(predict: Predict, tmp_path: Path) -> None:
    """a.v2.png is the second mask of a.png: in COCO it is not to be taken for an image's name."""
    image = tmp_path / "in" / "a.png"
    Image.fromarray(drawn((64, 70), 1, "uint8")).save(image)
    predict()
    mask = tmp_path / "out" / "a.png"
    mask.write_bytes(mask.read_bytes() + b"by a person")
    predict(vectors=("coco",), force=True)
    assert names_in(tmp_path / "out") == ["a.png", "a.v2.png", "annotations.json"]
    document = json.loads((tmp_path / "out" / "annotations.json").read_text())
    assert [one["file_name"] for one in document["images"]] == ["a.png"]
