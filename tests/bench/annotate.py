"""What a person's seconds of annotation are worth: corrected suggestions beside full outlines.

    python -m tests.bench.annotate [--sets superalloy vnc] [--seed 0] [--steps 100] [--between 25]

A simulated annotator has a set's training images without a label; its validation images are given.

following: the first image is outlined in full, one training follows the labels, and after every
  `--between` steps the image that `suggest` ranks first is corrected where the suggestion is wrong.
random: images in a random order are outlined in full, and a training begins from nothing each time.
all: the training of all labels at once, whose score is the mark.

Costs are those of Bearman et al., "What's the Point" (ECCV 2016): 2.4 s to find and begin an
object, 0.9 s a click. An outline is clicked where its polygon, at most a pixel off, has a corner;
the first class is what nobody outlines. A wrong place of a suggestion is outlined as an object is,
a whole object that is none costs one click to delete, and who would be faster from nothing begins
from nothing. Wrong places under 20 px stay as they are. Both arms' scores are the best mean IoU on
the validation images so far.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.measure import approximate_polygon, find_contours, label, regionprops

from emcfsys_engine.run.events import LabelsJoined, ValidationDone, read_events
from tests.bench.machine import machine_line
from tests.bench.quality import SETS, DataSet, engine, link

FIND_S, CLICK_S = 2.4, 0.9
MARK, TARGET = 0.95, 0.5  # of the score of all labels; of the seconds of random
_SMALLEST_PX = 20  # of a wrong place that a person sees
_TRAINING = ("training.patch_px=192", "training.batch=4")
Curve = list[tuple[float, float]]  # seconds of annotation, best mean IoU


def main() -> None:
    """Print a line for each image that was annotated, then the seconds to the mark."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=["superalloy", "vnc"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--between", type=int, default=25)
    arguments = parser.parse_args()
    print(machine_line(), flush=True)
    for name in arguments.sets:
        data = SETS[name]
        with tempfile.TemporaryDirectory() as folder:
            order = np.random.default_rng(arguments.seed).permutation(len(data.pairs(data.train)))
            curves = {
                "following": _following(data, Path(folder, "f"), order, arguments),
                "random": _random(data, Path(folder, "r"), order, arguments),
            }
        mark = MARK * curves["random"][-1][1]  # the last one has all labels
        for arm, curve in curves.items():
            for number, (seconds, score) in enumerate(curve, start=1):
                print(f"{name} {arm} {number}: {seconds:.0f} s, mean IoU {score:.3f}", flush=True)
        ours, theirs = (_seconds_to(mark, curve) for curve in curves.values())
        print(f"{name}: {ours:.0f} s and {theirs:.0f} s to {mark:.3f}; {ours / theirs:.2f} x")
    print(f"target: {TARGET} x")


def _seconds_to(mark: float, curve: Curve) -> float:
    return next((seconds for seconds, score in curve if score >= mark), float("inf"))


def _following(
    data: DataSet, folder: Path, order: np.ndarray, arguments: argparse.Namespace
) -> Curve:
    pairs = data.pairs(data.train)
    project = _project(data, folder, [image for image, _ in pairs], arguments.seed)
    masks = {image.stem: np.asarray(Image.open(mask)) for image, mask in pairs}
    seconds = _outlines(pairs[order[0]][0].stem, masks, project)
    between = f"training.validate_every={arguments.between}"
    command = _training(project, arguments.seed, "training.follow=true", between)
    run, curve = folder / "runs" / "run-0001", []
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as training:
        try:
            for number in range(1, len(pairs) + 1):
                score = _score_after(run, training, number, arguments.between)
                curve.append((seconds, score))
                if number < len(pairs):
                    seconds += _corrected(project, run / "best.safetensors", masks)
        finally:
            training.terminate()
    return curve


def _random(data: DataSet, folder: Path, order: np.ndarray, arguments: argparse.Namespace) -> Curve:
    pairs = data.pairs(data.train)
    project = _project(data, folder, [image for image, _ in pairs], arguments.seed)
    masks = {image.stem: np.asarray(Image.open(mask)) for image, mask in pairs}
    ends = (f"training.steps={arguments.steps}", f"training.validate_every={arguments.steps}")
    seconds, curve = 0.0, []
    for place in order:
        seconds += _outlines(pairs[place][0].stem, masks, project)
        subprocess.run(
            _training(project, arguments.seed, *ends),
            stdout=subprocess.DEVNULL,
            check=True,
        )
        run = max((folder / "runs").iterdir())
        curve.append((seconds, _best(run)))
    return curve


def _project(data: DataSet, folder: Path, images: Iterable[Path], seed: int) -> Path:
    for image in images:
        link(folder / "images" / image.name, image)
    for image, mask in data.pairs(data.val):
        link(folder / "val" / "images" / image.name, image)
        link(folder / "val" / "masks" / image.name, mask)
    (folder / "annotations").mkdir()
    classes = "\n".join(f"{name} = {value}" for value, name in enumerate(data.classes))
    file = folder / "project.toml"
    file.write_text(
        f'[project]\nname = "bench"\nseed = {seed}\n[classes]\n{classes}\n'
        '[[data]]\nimages = "images"\nannotations = "annotations"\nsplit = "train"\n'
        '[[data]]\nimages = "val/images"\nmasks = "val/masks"\nsplit = "val"\n'
    )
    return file


def _training(project: Path, seed: int, *settings: str) -> list[str]:
    options = (*_TRAINING, f"project.seed={seed}", *settings)
    words = [word for one in options for word in ("--set", one)]
    return [sys.executable, "-m", "emcfsys_engine", "train", str(project), *words]


def _score_after(run: Path, training: subprocess.Popen[bytes], number: int, between: int) -> float:
    """Wait until so many images have trained for some steps; return the best score by then."""
    while True:
        if training.poll() is not None:
            raise SystemExit(f"the training ended with {training.returncode}: {run}")
        events = list(read_events(run / "events.jsonl")) if run.exists() else []
        joined = [one for one in events if isinstance(one, LabelsJoined)]
        since = joined[-1].step if joined else 0
        there = number == 1 or (joined and joined[-1].num_train >= number)
        done = [one for one in events if isinstance(one, ValidationDone)]
        if there and done and done[-1].step >= since + between:
            return max(one.mean_iou or 0.0 for one in done)
        time.sleep(1)


def _best(run: Path) -> float:
    events = read_events(run / "events.jsonl")
    return max(one.mean_iou or 0.0 for one in events if isinstance(one, ValidationDone))


def _corrected(project: Path, model: Path, masks: dict[str, np.ndarray]) -> float:
    """Let the program suggest one image, mend it, and return the seconds that it took."""
    annotations = project.parent / "annotations"
    before = {file.stem for file in annotations.glob("*.json")}
    engine("suggest", project, "--number", 1, "--model", model)
    (stem,) = {file.stem for file in annotations.glob("*.json")} - before
    (image,) = (project.parent / "images").glob(f"{stem}.*")
    truth, suggested = masks[stem], _predicted(image, model)
    whole_s = _seconds_of(truth)
    mended, mend_s = suggested.copy(), 0.0
    objects = np.asarray(label(suggested, background=0, connectivity=2), int)
    sizes = np.bincount(objects.ravel())
    for place, wrong in _parts(suggested != truth):
        if wrong.sum() < _SMALLEST_PX:
            continue
        mended[place][wrong] = truth[place][wrong]
        under = np.unique(objects[place][wrong])
        is_none = not truth[place][wrong].any() and under.all()
        is_whole = is_none and sizes[under].sum() == wrong.sum()
        mend_s += CLICK_S * len(under) if is_whole else _outline_s(wrong)
    is_mended = mend_s < whole_s
    _write(annotations / f"{stem}.json", mended if is_mended else truth, project)
    return min(mend_s, whole_s)


def _outlines(stem: str, masks: dict[str, np.ndarray], project: Path) -> float:
    _write(project.parent / "annotations" / f"{stem}.json", masks[stem], project)
    return _seconds_of(masks[stem])


def _seconds_of(mask: np.ndarray) -> float:
    """Return the seconds that the outlines of all objects of a mask take. Shapes: H×W ids."""
    seconds = 0.0
    for value in np.unique(mask[mask > 0]):
        seconds += sum(_outline_s(part) for _, part in _parts(mask == value))
    return seconds


def _parts(wanted: np.ndarray) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
    """Yield where each connected part lies, and its pixels there. Shapes: H×W, h×w bool."""
    for one in regionprops(np.asarray(label(wanted, connectivity=2))):
        yield one.slice, one.image


def _outline_s(place: np.ndarray) -> float:
    """Return the seconds that the outlines of one place take. Shapes: H×W bool."""
    rings = find_contours(np.pad(place, 1).astype(float), 0.5)
    corners = sum(len(approximate_polygon(ring, 1.0)) - 1 for ring in rings)
    return FIND_S + CLICK_S * corners


def _predicted(image: Path, model: Path) -> np.ndarray:
    """Return the mask whose outlines the suggestion has. Shapes: H×W ids."""
    with tempfile.TemporaryDirectory() as folder:
        engine("predict", model, image, "--out", folder)
        return np.asarray(Image.open(Path(folder, f"{image.stem}.png")))


def _write(file: Path, mask: np.ndarray, project: Path) -> None:
    """Save a mask as the Labelme file that a person would."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "masks", f"{file.stem}.png")
        made.parent.mkdir()
        Image.fromarray(mask).save(made)
        out, images = Path(folder, "out"), project.parent / "images"
        words = ("--to", "labelme", "--images", images, "--project", project, "--out", out)
        engine("convert", made.parent, *words)
        (out / file.name).replace(file)


if __name__ == "__main__":
    main()
