"""Whose images an evaluation looks at: those of the model's training are known by their pixels."""

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from emcfsys_engine.errors import DataFaults, EmcfError
from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.reader import read_micrograph
from emcfsys_engine.learn.evaluate_deal import images_of_folders, images_of_project
from emcfsys_engine.learn.evaluate_images import Comparer, Measure
from emcfsys_engine.learn.model_file import load_model, save_model
from emcfsys_engine.project import load_project


def _with_seen(model: Path, file: Path, **seen: dict[str, str]) -> Path:
    network, card = load_model(model)
    save_model(file, network, msgspec.structs.replace(card, class_values=(0, 1), **seen))
    return file


@pytest.fixture
def seen(model_file: Path, project_folder: Path, tmp_path: Path) -> Path:
    """A model that was trained on the project's first images, and validated on its last."""
    model = _with_seen(model_file, tmp_path / "of_this.safetensors")
    images = images_of_project([model], load_project(project_folder), "all")
    comparer = Comparer(
        Measure(models=(model,), project=images.project, tta=False, overlap=0.0, boundary_px=2.0),
        0,
    )
    digests = {sample.name: comparer.one(sample).digest for sample in images.samples}
    return _with_seen(
        model_file,
        tmp_path / "seen.safetensors",
        trained_on={name: digests[name] for name in ("train0", "train1")},
        validated_on={"train2": digests["train2"]},
    )


def _names(model: Path, folder: Path, split: str) -> tuple[list[str], bool]:
    images = images_of_project([model], load_project(folder), split)
    return [sample.name for sample in images.samples], images.is_own_deal


def test_images_are_parted_as_the_model_saw_them(seen: Path, project_folder: Path) -> None:
    assert _names(seen, project_folder, "train") == (["train0", "train1"], True)
    assert _names(seen, project_folder, "val") == (["train2"], True)
    assert _names(seen, project_folder, "test") == (["val0"], True)


def test_other_images_under_the_names_of_the_models_own_are_parted_as_the_project_says(
    seen: Path, project_folder: Path
) -> None:
    for number in range(3):
        file = project_folder / "images" / "train" / f"train{number}.png"
        with Image.open(file) as opened:
            pixels = np.asarray(opened)
        Image.fromarray(255 - pixels).save(file)
    assert _names(seen, project_folder, "train") == (["train0", "train1", "train2"], False)
    assert _names(seen, project_folder, "val") == (["val0"], False)


def test_one_image_that_is_the_same_tells_whose_they_are_and_a_torn_one_tells_nothing(
    seen: Path, project_folder: Path
) -> None:
    first, last = (project_folder / "images" / "train" / f"train{n}.png" for n in (0, 2))
    first.write_bytes(first.read_bytes()[:-300])  # its header is whole
    last.write_bytes(last.read_bytes()[:-300])
    assert _names(seen, project_folder, "all")[1]
    shutil.copy(project_folder / "images" / "val" / "val0.png", first.with_name("train1.png"))
    assert not _names(seen, project_folder, "all")[1]


def test_a_folder_of_masks_is_told_by_its_content_and_an_empty_one_by_its_name(
    seen: Path, project_folder: Path, tmp_path: Path
) -> None:
    images, masks = (str(project_folder / kind / "train") for kind in ("images", "masks"))
    found = images_of_folders([seen], images, masks)
    assert [sample.name for sample in found.samples] == ["train0", "train1", "train2"]
    assert not found.is_own_deal
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(EmcfError, match="empty"):
        images_of_folders([seen], images, str(empty))


def test_a_mask_without_its_image_and_an_image_without_its_mask_are_told(
    seen: Path, project_folder: Path
) -> None:
    masks = project_folder / "masks" / "train"
    (masks / "train1.png").rename(masks / "other.png")
    found = images_of_folders([seen], str(project_folder / "images" / "train"), str(masks))
    assert [sample.name for sample in found.samples] == ["train0", "train2"]
    told = "\n".join(found.notes)
    assert "other.png: belongs to no image" in told
    assert "1 of 3 images have no labels" in told


def test_numbers_that_are_no_class_of_the_model_are_told_with_its_classes(
    seen: Path, project_folder: Path, tmp_path: Path
) -> None:
    images = project_folder / "images" / "train"
    for image in images.iterdir():
        height, width = read_micrograph(ImageRef(path=image)).pixels.shape
        numbers = np.arange(height * width).reshape(height, width) // 400 % 200
        (tmp_path / "numbered").mkdir(exist_ok=True)
        Image.fromarray(numbers.astype(np.uint8)).save(tmp_path / "numbered" / image.name)
    with pytest.raises(DataFaults, match=r"The model's are .*make a project whose"):
        images_of_folders([seen], str(images), str(tmp_path / "numbered"))


def test_a_project_of_another_scale_than_the_models_is_told_with_the_scores(
    model_file: Path, project_folder: Path, tmp_path: Path
) -> None:
    network, card = load_model(model_file)
    told: list[bool] = []
    for pixel_nm in (None, 4.1, 8.0):  # the project says 4
        file = tmp_path / f"{pixel_nm}.safetensors"
        changed = msgspec.structs.replace(card, class_values=(0, 1), pixel_nm=pixel_nm)
        save_model(file, network, changed)
        project = load_project(project_folder, ("project.pixel_nm=4.0",))
        notes = images_of_project([file], project, "all").notes
        told.append(any("at the project's 4 nm a pixel" in note for note in notes))
    assert told == [False, False, True]
