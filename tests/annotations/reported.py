"""Other people's bug reports: their files, and what convert makes of them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emcfsys_engine.tools.convert.conversion import convert_labels
from emcfsys_engine.tools.convert.writing import Conversion


def reported(shared_data: Path, name: str) -> Path:
    folder = shared_data / "reported" / name
    if not folder.exists():
        pytest.skip(f"the reported inputs are not here ({folder})")
    return folder


def converted(folder: Path, out: Path, source: str = "ann", **kwargs: object) -> Conversion:
    images = "images"
    return convert_labels(source, out, to="masks", images=images, base=folder, **kwargs)  # type: ignore[arg-type]


def mask(out: Path, name: str = "img.png") -> np.ndarray:
    return np.asarray(Image.open(out / name))


def image(folder: Path, name: str = "img.png", size: tuple[int, int] = (64, 48)) -> None:
    (folder / "images").mkdir(exist_ok=True)
    (folder / "ann").mkdir(exist_ok=True)
    noise = np.random.default_rng(1).integers(0, 255, (size[1], size[0]), np.uint8)
    Image.fromarray(noise).save(folder / "images" / name)


def coco(annotations: list[dict], images: int = 1, categories: tuple[str, ...] = ("p",)) -> dict:
    names = ("img.png", "b.png")[:images]
    size = {"width": 64, "height": 48}
    return {
        "images": [{"id": 1, "file_name": name, **size} for name in names],
        "categories": [{"id": 1, "name": name} for name in categories],
        "annotations": annotations,
    }
