"""One project of unlike sources: index masks, 0/127/255 masks and Labelme outlines."""

from pathlib import Path

import pytest

from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import ValidationDone
from emcfsys_engine.run.folder import new_run
from emcfsys_engine.run.records import TrainRequest
from emcfsys_engine.tools.demo import make_demo
from tests.learn.conftest import run_here

PROJECT = """
[project]
name = "mixed"
[classes]
ground = 0
large = 1
thin = 2
[[data]]
images = "{shared}/superalloy-sem/images/train/spot3*"
masks = "{shared}/superalloy-sem/masks/train"
split = "train"
[[data]]
images = "{shared}/superalloy-sem/images/val"
masks = "{shared}/superalloy-sem/masks/val"
split = "val"
[[data]]
images = "{shared}/axon-myelin-sem/images/sub-rat3*"
masks = "{shared}/axon-myelin-sem/masks_original"
group = '(sample-data\\d+)'
weight = 2.0
[data.labels]
"0-63" = "ground"
"64-191" = "thin"
"192-255" = "large"
[[data]]
images = "demo/images/train"
annotations = "demo/annotations/train"
split = "train"
[data.labels]
"background" = "ground"
"membrane" = "thin"
"mitochondrion" = "large"
[model]
backbone = "mobilenetv3_small_050"
weights = "none"
[training]
steps = 4
patch_px = 64
batch = 4
[compute]
gpus = 0
"""


@pytest.mark.long
def test_index_masks_grey_masks_and_labelme_train_together(
    shared_data: Path, tmp_path: Path
) -> None:
    make_demo(tmp_path / "demo", num_train=2, num_val=1)
    (tmp_path / "project.toml").write_text(PROJECT.format(shared=shared_data))
    project = load_project(tmp_path)
    run = new_run(project.runs_folder, TrainRequest(), project=project)
    assert run_here(run) == 0, run.outcome()
    last = [event for event in run.events() if isinstance(event, ValidationDone)][-1]
    assert set(last.iou) == {"ground", "large", "thin"}
    assert len(last.source_mean_iou) == 2  # superalloy's own, and the third of the axons
