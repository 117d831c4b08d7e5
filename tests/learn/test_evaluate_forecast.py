"""What an evaluation in shards will take is reckoned from a few of its images."""

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from emcfsys_engine.errors import InputError
from emcfsys_engine.learn.model_file import load_model, save_model


@pytest.fixture
def words(model_file: Path, project_folder: Path, tmp_path: Path) -> list[object]:
    network, card = load_model(model_file)
    file = tmp_path / "of_this_project.safetensors"
    save_model(file, network, msgspec.structs.replace(card, class_values=(0, 1)))
    out = project_folder / "out"
    return ["evaluate", file, project_folder, "--split", "all", "--gpus", "0", "--out", out]


def test_a_forecast_counts_images_labels_and_tasks_and_writes_nothing(
    words: list[object], project_folder: Path, engine_here: Callable[..., str]
) -> None:
    before = sorted(project_folder.rglob("*.*"))
    words = [*words, "--shards", "3%2", "--dry-run"]
    found = json.loads(engine_here(*words, "--json"))
    assert (found["images"], found["tasks"], found["at_once"], found["tried"]) == (4, 3, 2, 3)
    assert found["pixels"] == 4 * 64 * 64
    files = [
        file for kind in ("images", "masks") for file in (project_folder / kind).rglob("*.png")
    ]
    assert found["read_bytes"] == sum(file.stat().st_size for file in files)
    assert found["written_bytes"] > 4 * 100
    assert found["seconds"] == pytest.approx(2 * 64 * 64 / found["pixels_a_second"])
    assert "3 tasks, 2 at a time" in engine_here(*words)
    assert sorted(project_folder.rglob("*.*")) == before


def test_without_shards_or_an_image_that_works_it_is_said_why(
    words: list[object], project_folder: Path, engine_here: Callable[..., str]
) -> None:
    with pytest.raises(InputError, match="--dry-run.*Add --shards auto"):
        engine_here(*words, "--dry-run")
    for file in (project_folder / "images").rglob("*.png"):
        file.write_bytes(file.read_bytes()[:-300] + bytes(300))  # its header and length are whole
    with pytest.raises(InputError, match="none of 3 images that were tried can be compared"):
        engine_here(*words, "--shards", "3", "--dry-run")
