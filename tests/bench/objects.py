"""Objects told apart by the network against the semantic one with `--split watershed`.

    python tests/bench/objects.py DATA OUT [--minutes 5] [--seed 0]

DATA is the folder of particles-em (images/, instances/). Both train one after the other, as long,
on the same deal; both are scored by one account on images that neither saw: names from 9 to b. What
the network with objects chose by its validation images is in its model file. The load is printed.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from emcfsys_engine.dataset.samples import list_samples
from emcfsys_engine.dataset.splits import Sample
from emcfsys_engine.images.reader import read_micrograph
from emcfsys_engine.learn.inference.objects import Basins
from emcfsys_engine.learn.inference.predictor import Predictor
from emcfsys_engine.learn.training.dataset import load_item
from emcfsys_engine.learn.training.object_scores import Counts, counts_of, overlap_of, scores_of
from emcfsys_engine.model_card import ObjectSettings
from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import ObjectScores
from emcfsys_engine.tools.measure.watershed import split_labels

PROJECT = """[project]
name = "particles"
seed = {seed}
[classes]
background = 0
particle = {particle}
[[data]]
images = "{data}/images/[0-8c-f]*"
masks = "{data}/instances"
[data.labels]
"1-65535" = "particle"
[[data]]
images = "{data}/images/[9ab]*"
masks = "{data}/instances"
split = "test"
[data.labels]
"1-65535" = "particle"
[training]
minutes = {minutes}
best_by = "{best_by}"
patience = 0
[compute]
gpus = 0
"""


def trained(folder: Path, text: str) -> Path:
    """Train a project in a process of its own; return its best model."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "project.toml").write_text(text)
    words = [sys.executable, "-m", "emcfsys_engine", "train", str(folder)]
    done = subprocess.run(words, stdout=subprocess.PIPE, check=True, text=True)
    return Path(done.stdout.strip().splitlines()[-1]) / "best.safetensors"


def as_basins(ids: np.ndarray) -> Basins:
    """Return numbered objects as basins that are never joined."""
    num = int(ids.max(initial=0)) + 1
    return Basins(
        basin_of=np.arange(num),
        peak=np.ones(num),
        area_px=np.bincount(ids.ravel(), minlength=num),
        first=np.arange(num),
        class_value=np.ones(num, np.uint8),
        passes=np.empty((2, 0), np.int64),
        heights=np.empty(0),
    )


def scored(model: Path, project_file: Path, *, by_watershed: bool) -> ObjectScores:
    """Score the objects that a model finds in the images kept aside."""
    predictor = Predictor(model, gpus=0)
    project = load_project(project_file)
    samples: list[Sample] = list(list_samples(project).of("test"))
    counts: list[Counts] = []
    for sample in samples:
        item = load_item(sample, project, predictor.normaliser)
        made = predictor.predict(read_micrograph(sample.image).pixels)
        ids = split_labels(made.mask, (1,)) if by_watershed else made.instances
        assert ids is not None
        assert item.truth is not None
        ids = ids.astype(np.int64)
        one = overlap_of(ids, as_basins(ids), item.truth.ids, item.labels, item.pixel_nm)
        counts += counts_of(one, ObjectSettings(seed=0, neck=1), (1,))
    return scores_of(counts)


def main() -> None:
    """Train both, score both, print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    common = {"data": given.data.absolute(), "minutes": given.minutes, "seed": given.seed}
    with_objects, plain = given.out / "objects", given.out / "plain"
    found: dict[str, ObjectScores] = {}
    models: dict[str, Path] = {}
    for name, folder, particle, best_by in (
        ("objects", with_objects, "{ value = 1, instances = true }", "pq"),
        ("watershed", plain, "1", "mean_iou"),
    ):
        before = os.getloadavg()[0]
        text = PROJECT.format(**common, particle=particle, best_by=best_by)
        models[name] = trained(folder, text)
        events = [json.loads(line) for line in (models[name].parent / "events.jsonl").open()]
        steps = max(event.get("step", 0) for event in events)
        print(f"{name}: {steps} steps, load {before:.1f} to {os.getloadavg()[0]:.1f}", flush=True)
    for name, model in models.items():
        found[name] = scored(model, with_objects, by_watershed=name == "watershed")
    print(f"{'':<10} AP50   AP50:95 PQ     splits merges found/true size error (px)")
    for name, one in found.items():
        print(
            f"{name:<10} {one.ap50:.3f}  {one.ap50_95:.3f}   {one.pq:.3f}  {one.splits:<6} "
            f"{one.merges:<6} {one.num_found}/{one.num_true}   {one.size_error}"
        )


if __name__ == "__main__":
    main()
