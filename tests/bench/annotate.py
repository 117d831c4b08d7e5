"""What a person's seconds of annotation are worth: corrected suggestions beside full outlines.

    python -m tests.bench.annotate [--sets superalloy vnc] [--seed 0] [--steps 100] [--between 100]
                                   [--images 5] [--windows 4]

A simulated annotator has a set's training images without a label; its validation images are given.

following: in a window of each of the first images (a third of its sides) all objects are outlined,
  and the window is drawn as reviewed; what is drawn nowhere teaches nothing. One training follows
  the labels, from the first window on. After `--windows` of them, every `--between` steps, the
  image that `suggest` ranks first is corrected where the suggestion is wrong. With `--windows 0`
  the whole first image is outlined.
random: images in a random order are outlined in full, and a training begins from nothing each time.
all: the training of all labels at once, whose score is the mark.

`--between` steps are few: the seconds that a person draws meanwhile are far more steps.

Costs are those of Bearman et al., "What's the Point" (ECCV 2016): 2.4 s to find and begin an
object, 0.9 s a click. An outline is clicked where its polygon, at most a pixel off, has a corner;
the first class is what nobody outlines. A wrong place of a suggestion is outlined as an object is,
a whole object that is none costs one click to delete, and who would be faster from nothing begins
from nothing. Wrong places under 20 px stay as they are. Both arms' scores are the best mean IoU on
the validation images so far.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.measure import approximate_polygon, find_contours, label, regionprops

from emcfsys_engine.run.events import LabelsJoined, ValidationDone, read_events
from tests.bench.machine import machine_line
from tests.bench.quality import SETS, DataSet, engine, link

FIND_S, CLICK_S = 2.4, 0.9
MARK, TARGET = 0.95, 0.5  # of the score of all labels; of the seconds of random
USEFUL, SOON_S = 0.8, 300  # of the score of all labels; after the first outline was saved
_SMALLEST_PX = 20  # of a wrong place that a person sees
_TRAINING = ("training.patch_px=192", "training.batch=4")
Curve = list[tuple[float, float]]  # seconds of annotation, best mean IoU


def main() -> None:
    """Print a line for each image that was annotated, then the seconds to the mark."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=["superalloy", "vnc"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--between", type=int, default=100)
    parser.add_argument("--images", type=int, default=5, help="So many are annotated in each arm.")
    parser.add_argument("--windows", type=int, default=4, help="So many of them in part.")
    arguments = parser.parse_args()
    print(machine_line(), flush=True)
    for name in arguments.sets:
        data = SETS[name]
        with tempfile.TemporaryDirectory() as folder:
            order = np.random.default_rng(arguments.seed).permutation(len(data.pairs(data.train)))
            best = _all(data, Path(folder, "a"), arguments)
            curves = {
                "following": _following(data, Path(folder, "f"), order, arguments),
                "random": _random(data, Path(folder, "r"), order, arguments),
            }
            useful_s = _useful_s(Path(folder, "f"), USEFUL * best)
        print(f"{name} all: mean IoU {best:.3f}")
        print(f"{name}: {USEFUL:g} of it {useful_s:.0f} s after the first outline was saved")
        mark = MARK * best
        for arm, curve in curves.items():
            for number, (seconds, score) in enumerate(curve, start=1):
                print(f"{name} {arm} {number}: {seconds:.0f} s, mean IoU {score:.3f}", flush=True)
        ours, theirs = (_seconds_to(mark, curve) for curve in curves.values())
        print(f"{name}: {ours:.0f} s and {theirs:.0f} s to {mark:.3f}; {ours / theirs:.2f} x")
    print(f"targets: {SOON_S} s; {TARGET} x")


def _seconds_to(mark: float, curve: Curve) -> float:
    return next((seconds for seconds, score in curve if score >= mark), float("inf"))


def _following(
    data: DataSet, folder: Path, order: np.ndarray, arguments: argparse.Namespace
) -> Curve:
    pairs = data.pairs(data.train)
    project = _project(data, folder, [image for image, _ in pairs], arguments.seed)
    masks = {image.stem: _read(mask) for image, mask in pairs}
    stems = [pairs[place][0].stem for place in order]
    windows = [_window(masks[stem]) for stem in stems[: arguments.windows]]
    seconds = _outlines(stems[0], masks, project, windows[0] if windows else None)
    between = f"training.validate_every={arguments.between}"
    command = _training(project, arguments.seed, "training.follow=true", between)
    run, curve = folder / "runs" / "run-0001", []
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as training:
        try:
            for number in range(1, arguments.images + 1):
                score = _score_after(run, training, number, arguments.between)
                curve.append((seconds, score))
                if number < len(windows):
                    seconds += _outlines(stems[number], masks, project, windows[number])
                elif number < arguments.images:
                    seconds += _corrected(project, run / "best.safetensors", masks)
        finally:
            training.terminate()
    return curve


def _random(data: DataSet, folder: Path, order: np.ndarray, arguments: argparse.Namespace) -> Curve:
    pairs = data.pairs(data.train)
    project = _project(data, folder, [image for image, _ in pairs], arguments.seed)
    masks = {image.stem: _read(mask) for image, mask in pairs}
    seconds, curve = 0.0, []
    for place in order[: arguments.images]:
        seconds += _outlines(pairs[place][0].stem, masks, project)
        curve.append((seconds, _from_nothing(project, arguments)))
    return curve


def _all(data: DataSet, folder: Path, arguments: argparse.Namespace) -> float:
    pairs = data.pairs(data.train)
    project = _project(data, folder, [image for image, _ in pairs], arguments.seed)
    for image, mask in pairs:
        _write(project.parent / "annotations" / f"{image.stem}.json", _read(mask), project)
    return _from_nothing(project, arguments)


def _from_nothing(project: Path, arguments: argparse.Namespace) -> float:
    """Train with the labels that there are; return the score."""
    ends = (f"training.steps={arguments.steps}", f"training.validate_every={arguments.steps}")
    command = _training(project, arguments.seed, *ends)
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return _best(max((project.parent / "runs").iterdir()))


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
        'undrawn = "ignore"\n'
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


def _useful_s(folder: Path, score: float) -> float:
    """Return the seconds from the first outline's file to the first mask that is so good."""
    began = min(file.stat().st_mtime for file in (folder / "annotations").glob("*.json"))
    events = read_events(folder / "runs" / "run-0001" / "events.jsonl")
    done = [one for one in events if isinstance(one, ValidationDone)]
    return next((one.time - began for one in done if (one.mean_iou or 0) >= score), float("inf"))


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


def _window(mask: np.ndarray) -> tuple[slice, slice]:
    """Return the ninth of the image with the most classes, next to its middle. Shapes: H×W ids."""
    height, width = (side // 3 for side in mask.shape)
    places = [
        (slice(y * height, (y + 1) * height), slice(x * width, (x + 1) * width))
        for y, x in sorted(product(range(3), repeat=2), key=lambda at: sum(abs(n - 1) for n in at))
    ]
    return max(places, key=lambda place: len(np.unique(mask[place])))


def _outlines(
    stem: str,
    masks: dict[str, np.ndarray],
    project: Path,
    window: tuple[slice, slice] | None = None,
) -> float:
    """Outline all objects, or those in a window; return the seconds."""
    file, mask = project.parent / "annotations" / f"{stem}.json", masks[stem]
    if window is None:
        _write(file, mask, project)
        return _seconds_of(mask)
    drawn = np.zeros_like(mask)
    drawn[window] = mask[window]
    _write(file, drawn, project, window)
    return _seconds_of(mask[window]) + FIND_S + 2 * CLICK_S  # and the window, by two corners


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


def _read(mask: Path) -> np.ndarray:
    return np.asarray(Image.open(mask))


def _write(
    file: Path,
    mask: np.ndarray,
    project: Path,
    window: tuple[slice, slice] = (slice(None), slice(None)),
) -> None:
    """Save a mask as the Labelme file that a person would, a window of it as reviewed."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "masks", f"{file.stem}.png")
        made.parent.mkdir()
        Image.fromarray(mask).save(made)
        out, images = Path(folder, "out"), project.parent / "images"
        words = ("--to", "labelme", "--images", images, "--project", project, "--out", out)
        engine("convert", made.parent, *words)
        drawn = json.loads((out / file.name).read_text())
        (top, bottom, _), (left, right, _) = (
            cut.indices(side) for cut, side in zip(window, mask.shape, strict=True)
        )
        corners = [[left, top], [right, bottom]]
        drawn["shapes"].append(
            {"label": "reviewed", "points": corners, "shape_type": "rectangle", "flags": {}}
        )
        (out / file.name).write_text(json.dumps(drawn))
        (out / file.name).replace(file)


if __name__ == "__main__":
    main()
