"""Projects around images and masks of a few pixels."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from emcfsys_engine.project import Project

Maker = Callable[..., Project]


TWO = "background = 0\nparticle = 1"


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def picture(seed: int, size: tuple[int, int] = (40, 50)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, size, np.uint8)


def mask(*values: int, size: tuple[int, int] = (40, 50)) -> np.ndarray:
    ids = np.zeros(size, np.uint8)
    for number, value in enumerate(values):
        ids[number * 4 : number * 4 + 4, :10] = value
    return ids


def fill(folder: Path, count: int, *values: int, suffix: str = "") -> None:
    for number in range(count):
        save(folder / "images" / f"im{number}x.png", picture(number))
        save(folder / "masks" / f"im{number}x{suffix}.png", mask(*values))


AUTO = '[[data]]\nimages = "images"\nmasks = "masks"\n'


def labelme(name: str, label: str, size: tuple[int, int] = (40, 50)) -> str:
    points = [[2, 2], [12, 2], [12, 12], [2, 12]]
    shape = {"label": label, "points": points, "shape_type": "polygon", "group_id": 3, "flags": {}}
    return json.dumps(
        {
            "version": "5.0.1",
            "flags": {},
            "shapes": [shape],
            "imagePath": name,
            "imageData": None,
            "imageHeight": size[0],
            "imageWidth": size[1],
        }
    )
