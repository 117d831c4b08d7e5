"""Objects from labels to tables: trained, tuned, predicted in bands, outlined, measured, scored."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tifffile
import torch
import zarr
from PIL import Image

from emcfsys_engine.annotations.formats.labelme import SuggestedBy
from emcfsys_engine.annotations.numbered import MaskDigest, read_numbers
from emcfsys_engine.colours import colours_for
from emcfsys_engine.dataset.objects import read_objects
from emcfsys_engine.dataset.samples import list_samples, read_labels
from emcfsys_engine.errors import ModelFileError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.output_book import OutputBook
from emcfsys_engine.images.reader import read_micrograph
from emcfsys_engine.images.writers import writer_for
from emcfsys_engine.learn.inference import bands as inference_bands
from emcfsys_engine.learn.inference.predictor import Predictor
from emcfsys_engine.learn.model_file import load_model, save_model
from emcfsys_engine.learn.networks.network import build_network
from emcfsys_engine.learn.training.losses import build_loss, plane_sums, planes_of_sums
from emcfsys_engine.learn.training.start import load_start, started_network
from emcfsys_engine.model_card import Head, ModelCard, read_card, read_metadata
from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import ValidationDone
from emcfsys_engine.run.folder import Run
from emcfsys_engine.tools.adapt import make_adaptation
from emcfsys_engine.tools.clean_runs import clean_runs
from emcfsys_engine.tools.measure.masks import measure_masks
from emcfsys_engine.tools.measure.results import MeasureSettings
from emcfsys_engine.tools.suggest import _write
from tests.learn.conftest import TINY, run_here
from tests.learn.hot import Hot

Engine = Callable[..., str]
WITH_OBJECTS = msgspec.structs.replace(TINY, num_planes=2)


@pytest.fixture(scope="module")
def objects_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that tells objects apart, with random but fixed weights."""
    torch.manual_seed(0)
    network = build_network(WITH_OBJECTS).eval()
    with torch.no_grad():  # both classes, and high and low places, are somewhere
        logits = network(torch.randn(1, 1, 96, 96))[0]
        network.head.weight *= 20
        network.head.bias *= 20
        network.head.bias[1] -= 20 * (logits[1] - logits[0]).median()
        network.head.bias[2:] -= 20 * logits[2:].flatten(1).median(dim=1).values
    card = ModelCard(
        network=WITH_OBJECTS,
        classes=("resin", "grain"),
        class_values=(0, 7),
        colours=colours_for(2),
        instances=("grain",),
        patch_px=64,
    )
    file = tmp_path_factory.mktemp("model") / "objects.safetensors"
    save_model(file, network, card)
    return file


def picture(file: Path, size: tuple[int, int] = (150, 130), seed: int = 0) -> np.ndarray:
    """Save bright discs that touch."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices(size)
    made = rng.normal(60, 15, size)
    for y in range(15, size[0], 22):
        for x in range(15, size[1], 22):
            made += 120 * ((rows - y) ** 2 + (columns - x) ** 2 < rng.integers(80, 130))
    pixels = np.clip(made, 0, 255).astype(np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)
    return pixels


def test_a_training_tunes_how_objects_are_told_apart_and_says_how_well(
    project_folder: Path, engine_here: Engine
) -> None:
    file = project_folder / "project.toml"
    text = file.read_text().replace("grain = 1", "grain = { value = 1, instances = true }")
    file.write_text(text.replace("steps = 8", 'steps = 6\nbest_by = "pq"'))
    said = engine_here("check", project_folder)
    assert "objects of grain: " in said
    assert "by connected parts" in said
    run = Run(Path(engine_here("train", project_folder).strip().splitlines()[-1]))
    last = [event for event in run.events() if isinstance(event, ValidationDone)][-1]
    assert last.objects["grain"].num_true > 0
    assert last.score == last.objects["grain"].pq
    for model in (run.folder / "best.safetensors", run.folder / "final.safetensors"):
        card = read_card(model)
        assert card.instances == ("grain",)
        assert card.network.num_planes == 2
    assert card.objects.min_px in (1, 12, 40)
    plan = json.loads(run.plan_file.read_text())
    assert "objects of grain" in plan["reasons"]["network.num_planes"]
    table = engine_here("evaluate", model, project_folder, "--split", "val", "--cl-dice")
    assert "AP50" in table
    assert "clDice" in table
    found = json.loads(engine_here("evaluate", model, project_folder, "--split", "val", "--json"))
    assert found["objects"]["grain"]["num_true"] == last.objects["grain"].num_true


@pytest.mark.long
def test_files_of_an_image_agree_on_its_objects(
    objects_file: Path, tmp_path: Path, engine_here: Engine
) -> None:
    pixels = picture(tmp_path / "in" / "a.png")
    out, model = tmp_path / "out", objects_file
    vectors = ("--vectors", "labelme,geojson,coco")
    engine_here("predict", model, tmp_path / "in", "--out", out, "--overlay", *vectors)
    numbers = tifffile.imread(out / "a.instances.tif")
    mask = np.asarray(Image.open(out / "a.png"))
    assert numbers.dtype == np.uint32
    number = int(numbers.max())
    assert number > 1
    assert (mask[numbers > 0] == 7).all()
    np.testing.assert_array_equal(numbers, Predictor(model, gpus=0).predict(pixels).instances)
    shapes = json.loads((out / "a.json").read_text())["shapes"]
    assert sum(shape["label"] == "grain" for shape in shapes) >= number  # and what lies in holes
    assert len(json.loads((out / "a.geojson").read_text())["features"]) == number
    assert len(json.loads((out / "annotations.json").read_text())["annotations"]) == number
    overlay = np.asarray(Image.open(out / "a.overlay.png"))
    touching = (numbers[:, 1:] != numbers[:, :-1]) & (numbers[:, 1:] > 0) & (numbers[:, :-1] > 0)
    if touching.any():
        assert (overlay[:, 1:][touching] == read_card(model).colours[1]).all()
    said = json.loads(
        engine_here("measure", out, "--out", tmp_path / "m", "--model", model, "--json")
    )
    (grain,) = (one for one in said["classes"] if one["name"] == "grain")
    assert grain["num_objects"] == number


@pytest.mark.long
def test_objects_of_an_ome_zarr_mask_are_labels_inside_it(
    objects_file: Path, tmp_path: Path, engine_here: Engine
) -> None:
    picture(tmp_path / "in" / "a.png")
    out, model = tmp_path / "out", objects_file
    engine_here("predict", model, tmp_path / "in", "--out", tmp_path / "png")
    words = ("--format", "ome-zarr", "--overlay", "--vectors", "labelme")
    engine_here("predict", model, tmp_path / "in", "--out", out, *words)
    labels = zarr.open_group(str(out / "a.ome.zarr/labels"), mode="r")
    assert dict(labels.attrs)["ome"] == {"version": "0.5", "labels": ["instances"]}
    inside = read_micrograph(ImageRef(path=out / "a.ome.zarr/labels/instances")).pixels
    assert inside.dtype == np.uint32
    np.testing.assert_array_equal(inside, tifffile.imread(tmp_path / "png/a.instances.tif"))
    assert OutputBook(out).has(out / "a.ome.zarr")
    said = json.loads(engine_here("measure", out, "--out", tmp_path / "m", "--json"))
    (grain,) = (one for one in said["classes"] if one["name"] == "grain")
    assert grain["num_objects"] == inside.max() > 1
    assert "with them (instances …)" in " ".join(said["notes"])
    clean_runs(out, what=("companions",), remove=True)
    assert {file.name for file in out.iterdir() if file.name[0] != "."} == {"a.json", "a.ome.zarr"}
    mask = zarr.open_array(str(out / "a.ome.zarr/0"), mode="r+")
    mask[:] = 0
    mask[10:30, 10:30] = 7
    said = json.loads(engine_here("measure", out, "--out", tmp_path / "m", "--json"))
    assert said["num_objects"] == 1


def test_numbers_beside_an_ome_zarr_mask_of_before_are_used(tmp_path: Path) -> None:
    mask = np.zeros((20, 30), np.uint8)
    mask[3:9, 3:20] = 1
    numbers = mask * (1 + (np.indices(mask.shape)[1] > 10))
    writer = writer_for(tmp_path / "a.ome.zarr", mask.shape, (2.0, 2.0))
    writer.write(mask)
    writer.finish()
    digest = MaskDigest()
    digest.add(mask)
    beside = tmp_path / "a.instances.tif"
    tifffile.imwrite(beside, numbers.astype(np.uint32), description=digest.words(), metadata=None)
    np.testing.assert_array_equal(read_numbers(ImageRef(path=tmp_path / "a.ome.zarr")), numbers)
    measured = measure_masks(str(tmp_path), tmp_path / "out", MeasureSettings())
    assert measured.num_objects == 2


def test_a_mask_that_a_person_changed_is_measured_without_the_old_numbers(
    objects_file: Path, tmp_path: Path, engine_here: Engine
) -> None:
    picture(tmp_path / "in" / "a.png")
    out, model = tmp_path / "out", objects_file
    engine_here("predict", model, tmp_path / "in", "--out", out)
    mended = np.zeros((150, 130), np.uint8)
    mended[10:30, 10:30] = 7
    Image.fromarray(mended).save(out / "a.png")
    said = json.loads(
        engine_here("measure", out, "--out", tmp_path / "m", "--model", model, "--json")
    )
    (grain,) = (one for one in said["classes"] if one["name"] == "grain")
    assert grain["num_objects"] == 1


@pytest.mark.long
def test_a_large_image_has_the_objects_of_one_in_memory(
    objects_file: Path, tmp_path: Path, engine_here: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = picture(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "in.tif", pixels, photometric="minisblack", rowsperstrip=8)
    whole = Predictor(objects_file, gpus=0, tile_px=64).predict(pixels).instances
    monkeypatch.setattr(inference_bands, "LARGE_PX", 1000)
    words = (objects_file, tmp_path / "in.tif", "--out", tmp_path / "out", "--tile-px", 64)
    engine_here("predict", *words, "--overlay")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / "in.instances.tif"), whole)
    assert not [file for file in (tmp_path / "out").iterdir() if file.name.startswith(".tmp")]


def test_a_hot_folder_writes_objects_and_counts_them(objects_file: Path, tmp_path: Path) -> None:
    hot = Hot(tmp_path, objects_file, "measure = true\nlabelme = true")
    picture(hot.incoming / "a.png")
    assert run_here(hot.new_run(once=True)) == 0
    numbers = tifffile.imread(hot.output / "a.instances.tif")
    with (hot.output / ".emcfsys" / "measurements.csv").open() as file:
        (line,) = csv.DictReader(file)
    assert int(line["grain_objects"]) == numbers.max() > 1
    sizes = np.bincount(numbers.ravel())[1:]
    middle = 2 * np.sqrt(np.median(sizes) / np.pi)
    assert float(line["grain_diameter_px"]) == pytest.approx(middle, rel=1e-4)
    assert OutputBook(hot.output).has(hot.output / "a.instances.tif")


def test_cleaning_companions_keeps_objects_and_takes_the_overlay(
    objects_file: Path, tmp_path: Path, engine_here: Engine
) -> None:
    picture(tmp_path / "in" / "a.png")
    out = tmp_path / "out"
    engine_here("predict", objects_file, tmp_path / "in", "--out", out, "--overlay")
    clean_runs(out, what=("companions",), remove=True)
    left = {file.name for file in out.iterdir() if not file.name.startswith(".")}
    assert left == {"a.png", "a.instances.tif"}


@pytest.mark.parametrize("tile_px", [64, 96, 128])
def test_how_many_tiles_share_a_batch_changes_no_object(
    objects_file: Path, tmp_path: Path, tile_px: int
) -> None:
    pixels = picture(tmp_path / "a.png")
    one, many = (
        Predictor(objects_file, gpus=0, tile_px=tile_px, batch=batch).predict(pixels).instances
        for batch in (1, 5)
    )
    assert one is not None
    assert many is not None
    assert (one == many).mean() >= 0.999


def test_a_model_without_objects_gives_none(model_file: Path, tmp_path: Path) -> None:
    pixels = picture(tmp_path / "a.png")
    assert Predictor(model_file, gpus=0).predict(pixels).instances is None


def test_an_ensemble_has_the_mean_of_its_members_planes(
    objects_file: Path, model_file: Path, tmp_path: Path
) -> None:
    pixels = picture(tmp_path / "a.png")
    alone = Predictor(objects_file, gpus=0).predict(pixels).instances
    twice = Predictor.of((objects_file, objects_file), gpus=0).predict(pixels).instances
    assert alone is not None
    assert twice is not None
    assert (alone == twice).mean() > 0.999
    with pytest.raises(ModelFileError, match="tells apart objects of no class"):
        Predictor.of((objects_file, model_file), gpus=0)


@pytest.mark.parametrize("head", ["unet", "pspnet", "deeplabv3plus", "upernet"])
def test_every_head_gives_planes_beside_its_classes_and_learns_them(head: Head) -> None:
    spec = msgspec.structs.replace(WITH_OBJECTS, head=head, auxiliary=True)
    network = build_network(spec).train()
    logits, auxiliary = network.forward_with_auxiliary(torch.randn(2, 1, 64, 64))
    assert logits.shape == (2, 4, 64, 64)
    assert auxiliary is not None
    assert auxiliary.shape == (2, 2, 64, 64)
    target = torch.randint(0, 2, (2, 3, 64, 64))
    loss = build_loss("ce", num_classes=2)
    (loss(logits, target) + loss(auxiliary, target)).backward()
    assert network.head.weight.grad is not None
    assert network.head.weight.grad.abs().amax(dim=(1, 2, 3)).min() > 0


def test_unlabelled_pixels_of_planes_cost_nothing_and_a_perfect_guess_costs_0() -> None:
    target = torch.randint(0, 255, (2, 2, 8, 8))
    target[:, 1] = (target[:, 1] > 100) * 254
    target[:, :, :4] = 255
    share = (target.clamp_max(254) / 254).clamp(1e-6, 1 - 1e-6)
    logits = share.logit()
    logits[:, :, :4] = 3.0
    logits.requires_grad_()
    loss = planes_of_sums(plane_sums(logits, target))
    assert float(loss.detach()) == pytest.approx(0, abs=1e-3)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert not gradient[:, :, :4].any()


def test_a_mean_of_planes_by_hand() -> None:
    logits = torch.zeros(1, 2, 1, 2)  # shares of a half
    target = torch.tensor([[[[0, 254]], [[254, 255]]]])
    # Both distances cost ln 2; the one border pixel ln 2, and its Dice is 1 - (2 · ½ + 1)/(1½ + 1).
    by_hand = 2 * np.log(2) + 0.5 * (np.log(2) + 0.5 * (1 - 2 / 2.5))
    assert float(planes_of_sums(plane_sums(logits, target))) == pytest.approx(by_hand)


@pytest.mark.parametrize("begins_with_objects", [False, True])
def test_a_training_takes_over_planes_where_its_start_has_them(
    begins_with_objects: bool, objects_file: Path, model_file: Path, project_folder: Path
) -> None:
    file = project_folder / "project.toml"
    text = file.read_text().replace("grain = 1", "grain = { value = 1, instances = true }")
    file.write_text(text)
    project = load_project(project_folder)
    start = objects_file if begins_with_objects else model_file
    spec = started_network(project, start, auxiliary=False)
    assert spec.num_planes == 2
    network = build_network(spec)
    said = load_start(project, start, network)
    known, own = load_model(start)[0].state_dict(), network.state_dict()
    assert torch.equal(own["head.weight"][:2], known["head.weight"][:2])
    assert ("new: distance and border of objects" in said) == (not begins_with_objects)
    if begins_with_objects:
        assert torch.equal(own["head.weight"][2:], known["head.weight"][2:])


@pytest.mark.long
def test_numbers_that_a_person_corrected_count(
    objects_file: Path, tmp_path: Path, engine_here: Engine
) -> None:
    picture(tmp_path / "in" / "a.png")
    out, predict = tmp_path / "out", ("predict", objects_file, tmp_path / "in", "--out")
    engine_here(*predict, out, "--vectors", "geojson")
    file = out / "a.instances.tif"
    numbers = tifffile.imread(file)
    tifffile.imwrite(file, (numbers > 0).astype(np.uint16))  # as napari and ImageJ save them

    def measured(name: str) -> dict[str, Any]:
        words = ("measure", out, "--model", objects_file, "--out", tmp_path / name, "--json")
        return json.loads(engine_here(*words))

    assert measured("first")["num_objects"] == 1
    engine_here(*predict, out, "--force")
    assert (out / "a.v2.png").exists()
    assert measured("forced")["num_objects"] == 1
    named = ("--class", "background=0", "--class", "grain=7")
    engine_here("convert", out, "--to", "geojson", *named, "--out", tmp_path / "drawn")
    drawn = json.loads((tmp_path / "drawn" / "a.geojson").read_text())["features"]
    assert len(drawn) == 1  # of the corrected numbers: the outlines beside them are behind
    mask = np.array(Image.open(out / "a.png"))
    mask[:2] = 7
    Image.fromarray(mask).save(out / "a.png")
    assert "1 mask is measured without these (a.png)" in " ".join(measured("mask")["notes"])


def test_a_suggestion_has_a_shape_an_object(
    objects_file: Path, tmp_path: Path, engine_here: Engine
) -> None:
    picture(tmp_path / "images" / "a.png")
    out = tmp_path / "out"
    engine_here("predict", objects_file, tmp_path / "images", "--out", out)
    (tmp_path / "drawn").mkdir()
    (tmp_path / "project.toml").write_text(
        '[project]\nname = "p"\n[classes]\nresin = 0\ngrain = 7\n'
        '[[data]]\nimages = "images"\nannotations = "drawn"\n'
    )
    place = tmp_path / "drawn" / "a.json"
    by = SuggestedBy(model="m")
    image = tmp_path / "images" / "a.png"
    project = load_project(tmp_path)
    names = {value: name for name, value in project.classes.items()}
    assert _write(project, 0, image, out / "a.png", place, by, names)
    shapes = json.loads(place.read_text())["shapes"]
    sizes = np.bincount(tifffile.imread(out / "a.instances.tif").ravel())[1:]
    assert sum(shape["label"] == "grain" for shape in shapes) >= (sizes >= 50).sum() > 1


def test_adapting_keeps_touching_objects_apart(objects_file: Path, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    boxes = [
        {"label": "grain", "shape_type": "rectangle", "points": [[x, 40], [x + 29, 99]]}
        for x in (20, 50, 80)
    ]
    document = {"version": "5.5.0", "flags": {}, "imagePath": "a.png", "imageData": None}
    size = {"imageHeight": 150, "imageWidth": 130}
    (tmp_path / "a.json").write_text(json.dumps({**document, **size, "shapes": boxes}))
    image = str(tmp_path / "a.png")
    project = make_adaptation(objects_file, [image], tmp_path / "out", labels=None, minutes=1)
    assert project.instances == {"grain": "joined"}
    for sample in list_samples(project).samples:
        labels = read_labels(sample, project, (150, 130) if sample.split == "train" else (75, 65))
        truth = read_objects(sample, project, labels)
        assert truth.known == "numbers"
        assert truth.ids.max() > 1


def test_adapting_to_masks_takes_the_numbers_beside_them(
    objects_file: Path, tmp_path: Path, engine_here: Engine
) -> None:
    picture(tmp_path / "in" / "a.png")
    out, image = tmp_path / "out", str(tmp_path / "in" / "a.png")
    engine_here("predict", objects_file, tmp_path / "in", "--out", out)
    project = make_adaptation(objects_file, [image], tmp_path / "new", labels=str(out), minutes=1)
    given = tifffile.imread(out / "a.instances.tif")
    (sample,) = [one for one in list_samples(project).samples if one.split == "train"]
    labels = read_labels(sample, project, (150, 130))
    truth = read_objects(sample, project, labels)
    assert truth.known == "numbers"
    assert truth.ids.max() == len(np.unique(given[labels == 7]))


def test_an_old_header_knows_no_objects(model_file: Path) -> None:
    card = json.loads(read_metadata(model_file)["emcfsys"])
    del card["instances"], card["objects"], card["network"]["num_planes"]
    old = msgspec.convert(card, ModelCard)
    assert old.instances == ()
    assert old.network.num_planes == 0
