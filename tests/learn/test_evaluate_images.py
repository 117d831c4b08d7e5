"""What is found in an image is the same beside whomever it is compared, and adds up exactly."""

import os
import shutil
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

from emcfsys_engine import any_names
from emcfsys_engine.errors import DataFaults, InputError
from emcfsys_engine.learn import evaluate_images
from emcfsys_engine.learn.evaluate import Evaluation, evaluate_project, evaluation_of
from emcfsys_engine.learn.evaluate_deal import Images, images_of_project
from emcfsys_engine.learn.evaluate_images import Comparer, ImageCompared, Measure, added
from emcfsys_engine.learn.model_file import load_model, save_model
from emcfsys_engine.learn.training.metrics import boundary_f1, scores
from emcfsys_engine.project import load_project
from tests.learn.conftest import replace_model
from tests.learn.trusting import add_validation_image, learned, with_trust


@pytest.fixture
def knowing(model_file: Path, project_folder: Path, tmp_path: Path) -> Path:
    """A model of the project that can tell how good its masks are."""
    add_validation_image(project_folder)
    network, card = load_model(model_file)
    file = tmp_path / "of_this_project.safetensors"
    save_model(file, network, msgspec.structs.replace(card, class_values=(0, 1)))
    return with_trust(file, learned(file, project_folder), tmp_path / "knows.safetensors")


def _measure(model: Path, images: Images) -> Measure:
    return Measure(
        models=(model,),
        project=images.project,
        tta=False,
        overlap=0.25,
        boundary_px=2.0,
        middle_lines=True,
    )


def test_an_image_alone_and_as_a_line_of_json_is_what_one_process_makes_of_it(
    knowing: Path, project_folder: Path
) -> None:
    images = images_of_project([knowing], load_project(project_folder), "all")
    comparer = Comparer(_measure(knowing, images), 0)
    alone = {n: comparer.one(sample) for n, sample in enumerate(images.samples)}
    written = {
        number: any_names.decode(any_names.encode(one), ImageCompared)
        for number, one in reversed(alone.items())
    }
    found = evaluation_of([knowing], images.project, written, is_own_deal=images.is_own_deal)
    in_one: Evaluation = evaluate_project(
        knowing,
        load_project(project_folder),
        "all",
        tta=False,
        overlap=0.25,
        middle_lines=True,
        gpus=0,
    )
    assert found == in_one
    assert found.images == len(images.samples) == 13
    assert found.promise is not None
    assert found.scores.cl_dice


def test_scores_are_those_of_all_pixels_together_and_of_each_source(
    knowing: Path, project_folder: Path
) -> None:
    images = images_of_project([knowing], load_project(project_folder), "all")
    comparer = Comparer(_measure(knowing, images), 0)
    found = {n: comparer.one(sample) for n, sample in enumerate(images.samples)}
    total = added(images.project, found)
    pixels = sum(torch.tensor(one.pixels) for one in found.values())
    assert isinstance(pixels, torch.Tensor)
    names = images.project.class_names
    assert total.scores.iou == scores(pixels, names).iou
    assert int(pixels.sum()) == total.scores.pixels == 13 * 64 * 64
    of_source = total.per_source["images/val"]
    edges = sum(torch.tensor(one.edges) for one in found.values() if one.source == 1)
    assert isinstance(edges, torch.Tensor)
    assert of_source.boundary_f1 == boundary_f1(edges, names)
    middles = sum(torch.tensor(one.middles) for one in found.values() if one.source == 1)
    assert isinstance(middles, torch.Tensor)
    assert of_source.cl_dice == boundary_f1(middles, names)


def test_an_image_of_another_source_changes_only_that_source(
    knowing: Path, project_folder: Path
) -> None:
    images = images_of_project([knowing], load_project(project_folder), "all")
    comparer = Comparer(_measure(knowing, images), 0)
    of_first = [sample for sample in images.samples if sample.source == 0][:2]
    found = [comparer.one(sample) for sample in of_first]
    moved = comparer.one(replace(of_first[1], source=1))
    assert msgspec.structs.replace(moved, source=0) == found[1]
    both = added(images.project, {0: found[0], 1: moved})
    assert both.scores == added(images.project, dict(enumerate(found))).scores
    alone = added(images.project, {0: moved}).per_source
    assert both.per_source["images/val"] == alone["images/val"]


def test_an_image_is_drawn_with_its_labels_its_prediction_and_where_they_differ(
    knowing: Path, project_folder: Path
) -> None:
    images = images_of_project([knowing], load_project(project_folder), "all")
    comparer, sample = Comparer(_measure(knowing, images), 0), images.samples[0]
    drawn = np.asarray(Image.open(BytesIO(comparer.strip(sample))))
    pixels = np.array(comparer.one(sample).pixels)
    width = (drawn.shape[1] - 3 * 2) // 4
    _, labels, predicted, error = (drawn[:, n * (width + 2) :][:, :width] for n in range(4))
    differ = (labels != predicted).any(axis=2)
    assert differ.sum() == pixels.sum() - np.trace(pixels) > 0  # small: drawn pixel by pixel
    assert ((error == (220, 50, 47)).all(axis=2) == differ).all()


@pytest.fixture
def many(project_folder: Path) -> Path:
    """A project with nine images to evaluate."""
    for kind in ("images", "masks"):
        folder = project_folder / kind / "val"
        for number in range(1, 9):
            shutil.copy(
                project_folder / kind / "train" / f"train{number % 3}.png",
                folder / f"val{number}.png",
            )
    for mask in (project_folder / "masks").rglob("*.png"):
        with Image.open(mask) as opened:
            values = np.asarray(opened) * np.uint8(7)  # as the model's
        Image.fromarray(values).save(mask)
    file = project_folder / "project.toml"
    file.write_text(file.read_text().replace("grain = 1", "grain = 7"))
    return project_folder


def _evaluated(project: Path, model: Path, **options: Any) -> Evaluation:
    loaded = load_project(project)
    return evaluate_project(
        model, loaded, "all", tta=False, overlap=0.25, as_dealt_now=True, **options
    )


@pytest.mark.long
def test_two_processes_find_what_one_finds_and_run_nothing_of_the_folder_they_stand_in(
    many: Path, model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = _evaluated(many, model_file, gpus=0)
    assert alone.images == 12
    trap, marked = tmp_path / "trap", tmp_path / "marked"
    trap.mkdir()
    for name in ("multiprocessing", "torch", "numpy"):
        (trap / f"{name}.py").write_text(f"open({str(marked)!r}, 'w')\n")
    monkeypatch.chdir(trap)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert _evaluated(many, model_file, gpus=0, processes=2) == alone
    assert not marked.exists()


@pytest.mark.long
def test_every_fault_is_named_whichever_process_met_it(many: Path, model_file: Path) -> None:
    for name in ("val2.png", "val7.png"):
        image = many / "images" / "val" / name
        image.write_bytes(image.read_bytes()[:-900])  # its header is whole
    with pytest.raises(DataFaults) as found:
        _evaluated(many, model_file, gpus=0, processes=2)
    assert [Path(fault.where).name for fault in found.value.faults] == ["val2.png", "val7.png"]


@pytest.mark.long
def test_the_images_of_a_process_that_dies_are_done_again(
    many: Path, model_file: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    alone = _evaluated(many, model_file, gpus=0)
    deadly = tmp_path / "deadly"
    deadly.mkdir()
    # Python runs it at its start: the first process that reads this image is killed.
    (deadly / "sitecustomize.py").write_text(
        "import os, sys\n"
        f"once = {str(tmp_path / 'once')!r}\n"
        "def look(event, arguments):\n"
        "    if event == 'open' and str(arguments[0]).endswith('val/val5.png'):\n"
        "        if not os.path.exists(once):\n"
        "            os.mkdir(once)\n"
        "            os.kill(os.getpid(), 9)\n"
        "if 'spawn_main' in ' '.join(sys.orig_argv):\n"
        "    sys.addaudithook(look)\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{deadly}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        found = _evaluated(many, model_file, gpus=0, processes=2)
    assert (tmp_path / "once").exists()
    assert found == alone
    assert "parts go back" in capfd.readouterr().err
    assert evaluate_images._MOST_STARTS > 1


@pytest.mark.long
def test_a_model_replaced_under_its_name_meanwhile_is_told_and_no_scores_are_of_two_models(
    many: Path, model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model.safetensors"
    shutil.copy(model_file, model)
    real = evaluate_images._done_by_pool

    def replaced_meanwhile(*arguments: Any) -> list[range]:
        replace_model(model)
        return real(*arguments)

    monkeypatch.setattr(evaluate_images, "_done_by_pool", replaced_meanwhile)
    with pytest.raises(InputError, match="another model than when this evaluation began"):
        _evaluated(many, model, gpus=0, processes=2)
