"""The loop of active learning: train, rank, convert, correct, and read back."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from emcfsys_engine.annotations.formats.labelme import write_labelme
from emcfsys_engine.dataset.samples import list_samples
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.writers import companion
from emcfsys_engine.learn.inference.ranking import rank
from emcfsys_engine.project import load_project
from tests.learn.conftest import write_picture


def _pair(folder: Path, name: str, entropy: np.ndarray, mask: np.ndarray) -> tuple[ImageRef, Path]:
    file = folder / f"{name}.png"
    Image.fromarray(mask.astype(np.uint8)).save(file)
    Image.fromarray(entropy.astype(np.uint8)).save(companion(file, "uncertainty"))
    return ImageRef(path=folder / "in" / f"{name}.tif"), file


def test_the_most_uncertain_comes_first_and_its_region_is_found(tmp_path: Path) -> None:
    calm, spot = np.full((600, 700), 10), np.full((600, 700), 10)
    spot[320:576, 384:640] = 200
    pairs = [_pair(tmp_path, name, e, np.zeros((600, 700))) for name, e in
             (("calm", calm), ("spot", spot))]  # fmt: skip
    first, second = rank(pairs, (0, 7)).images
    assert [Path(first.image).stem, Path(second.image).stem] == ["spot", "calm"]
    assert first.score == pytest.approx(200 / 255, abs=1e-3)  # the region is more than a tenth
    assert second.score == pytest.approx(10 / 255, abs=1e-5)
    best = first.regions[0]
    assert (best.x, best.y, best.width, best.height) == (384, 320, 256, 256)
    assert best.uncertainty == pytest.approx(200 / 255, abs=1e-3)
    boxes = [(r.x, r.y) for r in first.regions]
    assert len(set(boxes)) == len(boxes) > 1
    for one in first.regions[1:]:  # none overlaps the first
        assert abs(one.x - best.x) >= 256 or abs(one.y - best.y) >= 256


def test_a_second_image_of_a_kind_waits_for_another_kind(tmp_path: Path) -> None:
    kind = np.full((100, 100), 150)
    other = np.full((100, 100), 140)
    pairs = [
        _pair(tmp_path, "a1", kind, np.zeros((100, 100))),
        _pair(tmp_path, "a2", kind - 1, np.zeros((100, 100))),
        _pair(tmp_path, "b", other, np.full((100, 100), 7)),
    ]
    images = rank(pairs, (0, 7)).images
    assert [Path(one.image).stem for one in images] == ["a1", "b", "a2"]
    assert images[0].novelty == 1
    assert images[2].novelty < 0.01


def test_an_image_is_annotated_once_a_person_saved_its_suggestion(tmp_path: Path) -> None:
    even = np.full((50, 50), 100)
    pairs = [_pair(tmp_path, name, even, np.zeros((50, 50))) for name in ("a", "b", "c")]
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        file = tmp_path / "in" / f"{name}.json"
        image = file.with_suffix(".tif")
        write_labelme(file, [], (50, 50), image, suggested_by={"model": "run-0001", "score": 0.5})
    (tmp_path / "in" / "b.json").write_text(file.read_text() + "\n")  # as a person saved it
    ranking = rank(pairs, (0, 7))
    assert {Path(one.image).stem for one in ranking.images} == {"a", "c"}
    assert [Path(one).stem for one in ranking.annotated] == ["b"]


@pytest.mark.parametrize("size", [(1, 1), (30, 500), (256, 256), (257, 319)])
def test_images_of_any_size_have_regions_inside_them(tmp_path: Path, size: tuple[int, int]) -> None:
    entropy = np.random.default_rng(0).integers(0, 255, size)
    (one,) = rank([_pair(tmp_path, "x", entropy, np.zeros(size))], (0, 7)).images
    for region in one.regions:
        assert 0 <= region.x <= region.x + region.width <= size[1]
        assert 0 <= region.y <= region.y + region.height <= size[0]
        part = entropy[region.y : region.y + region.height, region.x : region.x + region.width]
        assert region.uncertainty == pytest.approx(part.mean() / 255, abs=1e-5)


def test_the_loop_from_training_to_corrected_annotations(
    project_folder: Path, tmp_path: Path, engine_here: Callable[..., str]
) -> None:
    run = engine_here("train", project_folder, "--set", "training.steps=4").splitlines()[-1]
    new, out, corrections = tmp_path / "new", tmp_path / "out", tmp_path / "corrections"
    rng = np.random.default_rng(5)
    for number in range(3):
        write_picture(rng, new / f"n{number}.png", tmp_path / "truth" / f"n{number}.png")
    with Image.open(new / "n2.png") as picture:
        tifffile.imwrite(new / "n3.tif", np.asarray(picture).astype(np.uint16) * 9)
    (new / "n1.json").write_text("{}")  # is being annotated: not proposed again
    model = Path(run) / "final.safetensors"
    engine_here("predict", model, new, "--out", out, "--rank-uncertain")
    ranking = json.loads((out / "ranking.json").read_text())
    ranked = [Path(one["image"]).name for one in ranking["images"]]
    assert sorted(ranked) == ["n0.png", "n2.png", "n3.tif"]
    assert [Path(name).name for name in ranking["annotated"]] == ["n1.png"]
    with (out / "ranking.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    assert [Path(row["image"]).name for row in table] == ranked
    (new / "n1.json").unlink()
    project = project_folder / "project.toml"
    words = ("--to", "labelme", "--images", new, "--out", corrections, "--project", project_folder)
    engine_here("convert", out, *words)
    assert sorted(path.name for path in corrections.iterdir() if path.is_file()) == [
        "n0.json", "n1.json", "n2.json", "n3.json", "n3.png",
    ]  # fmt: skip
    for file in corrections.glob("*.json"):  # what Labelme opens: the picture, in its size
        labelme = json.loads(file.read_text())
        with Image.open(file.parent / labelme["imagePath"]) as picture:
            assert picture.size == (labelme["imageWidth"], labelme["imageHeight"])
            assert picture.mode == "L"
    text = project.read_text().replace(
        "[model]",
        f'[[data]]\nimages = "{new}"\nannotations = "{corrections}"\nsplit = "train"\n[model]',
    )
    project.write_text(text)
    samples = list_samples(load_project(project)).samples
    annotated = [sample for sample in samples if sample.image.path.parent == new]
    assert len(annotated) == 4
    assert all(sample.label is not None for sample in annotated)


def test_an_image_whose_labels_could_have_no_name_is_ranked(tmp_path: Path) -> None:
    _, mask = _pair(tmp_path, "a", np.full((60, 60), 9), np.zeros((60, 60)))
    ref = ImageRef(path=tmp_path / f"{'n' * 251}.tif")
    assert [one.image for one in rank([(ref, mask)], (0, 7)).images] == [str(ref)]
