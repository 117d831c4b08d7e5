"""Objects told apart by the network against the semantic one with `--split watershed`.

    python -m tests.bench.objects DATA OUT [--minutes 5 | --steps 150] [--seed 0] [--weights 1,1]

DATA is the folder of particles-em (images/, instances/). Both train one after the other, as long,
on the same deal; both are scored by one account on images that neither saw: names from 9 to b. What
the network with objects chose by its validation images is in its model file. The load is printed.
With --weights only the network with objects is trained, with these weights of distance and border
in its loss, as often as they are given.
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
from emcfsys_engine.learn import worker
from emcfsys_engine.learn.inference.objects import Basins
from emcfsys_engine.learn.inference.predictor import Predictor
from emcfsys_engine.learn.training import losses
from emcfsys_engine.learn.training.dataset import load_item
from emcfsys_engine.learn.training.object_scores import Counts, counts_of, overlap_of, scores_of
from emcfsys_engine.model_card import ObjectSettings
from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import ObjectScores
from emcfsys_engine.run.folder import new_run
from emcfsys_engine.run.records import TrainRequest
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
{budget}
best_by = "{best_by}"
patience = 0
[compute]
gpus = 0
"""


def trained(folder: Path, text: str, weights: str = "") -> Path:
    """Train a project in a process of its own; return its best model."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "project.toml").write_text(text)
    words = [sys.executable, "-m", "tests.bench.objects", "--train", str(folder), weights]
    done = subprocess.run(words, stdout=subprocess.PIPE, check=True, text=True)
    return Path(done.stdout.strip().splitlines()[-1]) / "best.safetensors"


def train_here(folder: Path, weights: str) -> None:
    """Train in this process, with other weights of distance and border in the loss where given."""
    if weights:
        for name, number in zip(("DISTANCE", "BORDER"), weights.split(","), strict=True):
            assert hasattr(losses, f"_{name}_WEIGHT")
            setattr(losses, f"_{name}_WEIGHT", float(number))
    project = load_project(folder)
    run = new_run(project.runs_folder, TrainRequest(), project=project)
    assert worker.main([str(run.folder)]) == 0
    print(run.folder)


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
    """Train all, score all, print a table."""
    if sys.argv[1] == "--train":
        return train_here(Path(sys.argv[2]), sys.argv[3])
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", action="append")
    given = parser.parse_args()
    budget = f"minutes = {given.minutes}" if given.steps is None else f"steps = {given.steps}"
    common = {"data": given.data.absolute(), "budget": budget, "seed": given.seed}
    of_objects = ("{ value = 1, instances = true }", "pq")
    kinds = [("objects", *of_objects, ""), ("watershed", "1", "mean_iou", "")]
    if given.weights:
        kinds = [(f"weights-{words}", *of_objects, words) for words in given.weights]
    found: dict[str, ObjectScores] = {}
    for name, particle, best_by, weights in kinds:
        before = os.getloadavg()[0]
        text = PROJECT.format(**common, particle=particle, best_by=best_by)
        model = trained(given.out / name, text, weights)
        events = [json.loads(line) for line in (model.parent / "events.jsonl").open()]
        steps = max(event.get("step", 0) for event in events)
        print(f"{name}: {steps} steps, load {before:.1f} to {os.getloadavg()[0]:.1f}", flush=True)
        truth = given.out / "truth"
        truth.mkdir(exist_ok=True)
        text = PROJECT.format(**common, particle=of_objects[0], best_by="pq")
        (truth / "project.toml").write_text(text)
        found[name] = scored(model, truth, by_watershed=name == "watershed")
    return report(found)


def report(found: dict[str, ObjectScores]) -> None:
    """Print the scores as a table."""
    print(f"{'':<16} AP50   AP50:95 PQ     splits merges found/true size error (px)")
    for name, one in found.items():
        print(
            f"{name:<16} {one.ap50:.3f}  {one.ap50_95:.3f}   {one.pq:.3f}  {one.splits:<6} "
            f"{one.merges:<6} {one.num_found}/{one.num_true}   {one.size_error}"
        )


if __name__ == "__main__":
    main()
