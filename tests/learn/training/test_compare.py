"""What is expected of an image while it is compared is what a prediction of it says."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.reader import read_micrograph
from emcfsys_engine.learn.evaluate import evaluate_project, table_of
from emcfsys_engine.learn.evaluate_deal import images_of_project
from emcfsys_engine.learn.inference.predictor import Predictor
from emcfsys_engine.learn.model_file import load_model, save_model
from emcfsys_engine.learn.training.compare import each_compared
from emcfsys_engine.learn.training.dataset import Dataset
from emcfsys_engine.project import load_project
from tests.learn.trusting import add_validation_image, learned, with_trust


def test_expected_iou_stands_beside_the_true_one_of_each_image(
    model_file: Path, project_folder: Path, tmp_path: Path
) -> None:
    add_validation_image(project_folder)
    network, card = load_model(model_file)
    model_file = tmp_path / "of_this_project.safetensors"
    save_model(model_file, network, msgspec.structs.replace(card, class_values=(0, 1)))
    trust = learned(model_file, project_folder)
    model = with_trust(model_file, trust, tmp_path / "knows.safetensors")
    project = load_project(project_folder)
    found = evaluate_project(model, project, "val", tta=False, overlap=0.25, gpus=0)
    predictor = Predictor(model, gpus=0)
    assert len(found.per_image) == found.images == 2
    for one in found.per_image:
        (file,) = (project_folder / "images").rglob(f"{one.image}.*")
        made = predictor.predict(read_micrograph(ImageRef(path=file)).pixels)
        assert made.expected is not None
        told = (made.expected.iou, made.expected.low, made.expected.high)
        assert (one.expected, one.low, one.high) == pytest.approx(told, abs=1e-4)
        assert one.class_expected == pytest.approx(made.expected.classes, abs=1e-4)
        assert one.iou is not None
    assert found.promise is not None
    assert found.promise.images == 2
    assert "expected IoU: off by" in table_of(found)
    without = evaluate_project(model_file, project, "val", tta=False, overlap=0.25, gpus=0)
    assert without.scores == found.scores
    assert [one.iou for one in without.per_image] == [one.iou for one in found.per_image]
    assert without.promise is None
    assert "the model cannot tell how good its masks are" in table_of(without)


def test_how_sure_a_network_is_of_an_image_with_an_info_bar_is_what_a_prediction_tells(
    model_file: Path, project_folder: Path, tmp_path: Path
) -> None:
    network, card = load_model(model_file)
    model = tmp_path / "of_this_project.safetensors"
    save_model(model, network, msgspec.structs.replace(card, class_values=(0, 1)))
    pixels = np.random.default_rng(0).integers(60, 200, (96, 80), dtype=np.uint8)
    pixels[76:] = 0
    pixels[82:90, 10:30:3] = 255
    image = project_folder / "images/val/val0.png"
    Image.fromarray(pixels).save(image)
    Image.fromarray(pixels // 130).save(project_folder / "masks/val/val0.png")
    predictor = Predictor(model, gpus=0)
    told = predictor.predict(pixels, info_bar_rows=20)
    images = images_of_project((model,), load_project(project_folder), "val")
    dataset = Dataset(images.samples, images.project, predictor.normaliser)
    with torch.inference_mode():
        ((_, found),) = each_compared(
            predictor.forward, dataset, [0], None, device=predictor.device, tiles=predictor.tiles,
            overlap=0.25, tta=False, boundary_px=2.0,
        )  # fmt: skip
    assert float(found.numbers_3[2]) == pytest.approx(told.confidence, abs=1e-6)
    assert told.shares["grain"] == pytest.approx((told.mask[:76] == 1).mean())
