"""Pictures to predict, and what a prediction said."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from emcfsys_engine.images.micrograph import ImageRef
from emcfsys_engine.images.reader import read_micrograph
from emcfsys_engine.learn.inference.files import Counted
from emcfsys_engine.run.events import Event, WarningGiven

Predict = Callable[..., tuple[Counted, list[Event]]]


def drawn(shape: tuple[int, ...], seed: int = 0, dtype: str = "uint16") -> np.ndarray:
    rng = np.random.default_rng(seed)
    smooth = np.kron(rng.integers(50, 200, (shape[0] // 8 + 1, shape[1] // 8 + 1)), np.ones((8, 8)))
    noisy = smooth[: shape[0], : shape[1]] + rng.normal(0, 9, shape[:2])
    return noisy.clip(0, 255).astype(dtype)


def mask_in(file: Path) -> np.ndarray:
    return read_micrograph(ImageRef(path=file)).pixels


def draw(file: Path, seed: int = 0, shape: tuple[int, ...] = (48, 56)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, shape, np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".png":
        Image.fromarray(pixels).save(file)
    else:
        tifffile.imwrite(file, pixels, photometric="minisblack")
    return file.read_bytes()


def names_in(folder: Path) -> list[str]:
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(str(file) for file in files if file.parts[0] != ".emcfsys")


def warnings_of(said: list[Event]) -> str:
    return "\n".join(event.message for event in said if isinstance(event, WarningGiven))
