"""`adapt` on a changed microscope: two labelled images, a minute, and the score that comes back.

    python -m tests.bench.adapt [--minutes 5] [--adapt-minutes 0.5] [--sets superalloy vnc axon ebc]

A model is trained on each set. Its validation images, and two of its training images, are then
taken by "another microscope": pixel size × 1.4 (as its files tell: 10 nm become 14), another gamma,
noise and blur (seeded). Told are the model's score on the old validation images, on the changed
ones, on these brought to its pixel size (`--rescale`), the adapted model's on both, and the seconds
of the whole command. All are scored by `quality`'s confusion matrix. With `--unsized` no file tells
its pixel size.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image
from scipy import ndimage

from emcfsys_engine.images.reader import read_micrograph
from tests.bench.machine import machine_line
from tests.bench.quality import SETS, DataSet, engine, write_project

TARGET = 0.95  # of the model's score on the old images
LIMIT_S = 60
_ZOOM, _GAMMA, _BLUR_PX, _NOISE = 1 / 1.4, 0.6, 0.8, 0.06
_PIXEL_NM = 10.0  # of the sets' own images, as if
_NUM_IMAGES = 2


@dataclass(frozen=True, kw_only=True)
class Pair:
    """An image and its mask."""

    image: Path
    mask: Path


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--adapt-minutes", type=float, default=0.5)
    parser.add_argument("--unsized", action="store_true")
    parser.add_argument("--model", type=Path, help="Instead of training; of the one set named.")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    arguments = parser.parse_args()
    print(machine_line())
    heads = ("old", "changed", "rescaled", "adapted", "of old", "old now")
    print(f"{'set':12} {' '.join(f'{head:>8}' for head in heads)}  seconds")
    for name in arguments.sets:
        with tempfile.TemporaryDirectory() as folder:
            told = _one_set(SETS[name], Path(folder), arguments)
        print(f"{name:12} {told}", flush=True)
    print(f"targets: of old >= {TARGET}, seconds <= {LIMIT_S}")


def _one_set(data: DataSet, folder: Path, arguments: argparse.Namespace) -> str:
    model = arguments.model or _trained(data, folder, arguments)
    old = [Pair(image=image, mask=mask) for image, mask in data.pairs(data.val)]
    rng = np.random.default_rng(0)
    is_sized = not arguments.unsized
    val = [_changed(pair, folder / "val", rng, is_sized=is_sized) for pair in old]
    shown = [Pair(image=image, mask=mask) for image, mask in data.pairs(data.train)]
    few = shown[:: max(1, len(shown) // _NUM_IMAGES)][:_NUM_IMAGES]
    new = [_changed(pair, folder / "new", rng, is_sized=is_sized) for pair in few]
    began = time.perf_counter()
    words = ("--labels", folder / "new" / "masks", "--minutes", arguments.adapt_minutes)
    adapted = Path(engine("adapt", model, *(pair.image for pair in new), *words))
    seconds = time.perf_counter() - began
    number = len(data.classes)
    before, changed, rescaled, after, now = (
        _score(one, pairs, folder / f"out{n}", number, *words)
        for n, (one, pairs, *words) in enumerate(
            (
                (model, old),
                (model, val),
                (model, val, "--rescale"),
                (adapted, val),
                (adapted, old),
            )
        )
    )
    told = (before, changed, rescaled, after, after / before, now)
    return f"{' '.join(f'{each:8.3f}' for each in told)}  {seconds:.0f}"


def _trained(data: DataSet, folder: Path, arguments: argparse.Namespace) -> Path:
    project = write_project(data, folder / "project", 0)
    sizes = () if arguments.unsized else ("--set", f"project.pixel_nm={_PIXEL_NM}")
    run = engine("train", project, "--set", f"training.minutes={arguments.minutes}", *sizes)
    return Path(run) / "best.safetensors"


def _changed(pair: Pair, folder: Path, rng: np.random.Generator, *, is_sized: bool) -> Pair:
    """Write what another microscope makes of an image, and its mask."""
    grey = np.asarray(Image.open(pair.image).convert("L"), np.float32) / 255
    small = ndimage.zoom(ndimage.gaussian_filter(grey, _BLUR_PX / _ZOOM), _ZOOM, order=1)
    bent = np.clip(small, 0, 1) ** _GAMMA + rng.normal(0, _NOISE, small.shape)
    truth = np.asarray(Image.open(pair.mask))
    rows, columns = (
        np.clip(np.rint(np.arange(n) / _ZOOM).astype(int), 0, side - 1)
        for n, side in zip(small.shape, truth.shape, strict=True)
    )
    made = Pair(
        image=folder / "images" / f"{pair.image.stem}.tif",
        mask=folder / "masks" / f"{pair.image.stem}.png",
    )
    for file in (made.image, made.mask):
        file.parent.mkdir(parents=True, exist_ok=True)
    metadata: dict[str, object] = {"axes": "YX"}
    for axis in "YX" if is_sized else "":
        metadata[f"PhysicalSize{axis}"] = _PIXEL_NM / _ZOOM
        metadata[f"PhysicalSize{axis}Unit"] = "nm"
    pixels = np.rint(np.clip(bent, 0, 1) * 255).astype(np.uint8)
    tifffile.imwrite(made.image, pixels, ome=True, metadata=metadata)
    Image.fromarray(truth[np.ix_(rows, columns)]).save(made.mask)
    return made


def _score(model: Path, pairs: list[Pair], out: Path, number: int, *words: str) -> float:
    engine("predict", model, *(pair.image for pair in pairs), "--out", out, *words)
    counted = np.zeros((number, number), np.int64)
    for pair in pairs:
        truth = np.asarray(Image.open(pair.mask)).astype(int)
        found = _mask_of(out, pair).astype(int)
        known = truth < number
        joined = truth[known] * number + found[known]
        counted += np.bincount(joined, minlength=number**2).reshape(number, number)
    union = counted.sum(0) + counted.sum(1) - counted.diagonal()
    each = counted.diagonal() / np.maximum(1, union)
    return float(each[union > 0].mean())


def _mask_of(out: Path, pair: Pair) -> np.ndarray:
    (file,) = (path for path in out.iterdir() if path.stem == pair.image.stem)
    return read_micrograph(file).pixels


if __name__ == "__main__":
    main()
