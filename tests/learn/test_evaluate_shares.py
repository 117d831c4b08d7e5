"""An evaluation by several processes finds what one finds; who dies gives its images back."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from emcfsys_engine.errors import DataFaults, InputError
from emcfsys_engine.learn import evaluate_shares
from emcfsys_engine.learn.evaluate import Evaluation, evaluate_project
from emcfsys_engine.project import load_project
from tests.learn.conftest import replace_model


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
    assert evaluate_shares._MOST_STARTS > 1


@pytest.mark.long
def test_a_model_replaced_under_its_name_meanwhile_is_told_and_no_scores_are_of_two_models(
    many: Path, model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model.safetensors"
    shutil.copy(model_file, model)
    real = evaluate_shares._done_by_pool

    def replaced_meanwhile(*arguments: Any) -> list[range]:
        replace_model(model)
        return real(*arguments)

    monkeypatch.setattr(evaluate_shares, "_done_by_pool", replaced_meanwhile)
    with pytest.raises(InputError, match="another model than when this evaluation began"):
        _evaluated(many, model, gpus=0, processes=2)
