"""A small project that looks like electron microscopy: seeded micrographs with Labelme outlines.

Cells with dark membranes on a bright resin, mitochondria-like organelles with cristae inside,
vesicles and granules that have no label, shot noise and uneven illumination.
"""

import io
import itertools
import json
import math
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from scipy import fft, ndimage
from shapely.geometry import Polygon, box
from skimage.draw import polygon2mask

from emcfsys_engine.errors import InputError
from emcfsys_engine.files import remedy_of
from emcfsys_engine.images.own_files import write_new

Manner = Literal["whole", "slow", "rename", "burst", "mixed"]
_PIECES = 8
_BURST = 10


def play_microscope(
    folder: Path,
    *,
    manner: Manner = "mixed",
    every_s: float = 2.0,
    count: int | None = None,
    seed: int = 7,
    pause: Callable[[float], None] = time.sleep,
) -> Iterator[Path]:
    """Write micrographs into a folder, one after the other; yield each when it is complete.

    whole: at once; slow: in eight pieces over half the interval; rename: under a temporary name,
    then renamed; burst: ten at once, then a long pause; mixed: any of these, by chance. What is
    there is left alone.
    Raises: InputError if the folder cannot be written.
    """
    chance = random.Random(seed)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = (
            number for number in itertools.count() if not os.path.lexists(_grid(folder, number))
        )
        for number in itertools.islice(free, count):
            _, pixels = make_micrograph(seed, 10_000 + number)
            file = _grid(folder, number)
            how = (
                chance.choice(("whole", "slow", "rename", "burst")) if manner == "mixed" else manner
            )
            _write(file, encode_png(pixels), how, every_s, pause)
            yield file
            is_in_burst = how == "burst" and number % _BURST
            if not is_in_burst:
                pause(every_s)
    except OSError as error:
        raise InputError(folder, f"cannot be written: {error.strerror}", remedy_of(error)) from None


def _grid(folder: Path, number: int) -> Path:
    return folder / f"grid_{number:05d}.png"


def _write(
    file: Path, content: bytes, how: str, every_s: float, pause: Callable[[float], None]
) -> None:
    if how == "rename":
        temporary = file.with_name(f"{file.name}.part")
        temporary.write_bytes(content)
        temporary.replace(file)
        return
    if how != "slow":
        file.write_bytes(content)
        return
    size = -(-len(content) // _PIECES)
    with file.open("wb") as stream:
        for start in range(0, len(content), size):
            stream.write(content[start : start + size])
            stream.flush()
            os.fsync(stream.fileno())
            pause(every_s / 2 / _PIECES)


SIZE_PX = 384
PIXEL_NM = 8.0
_MEMBRANE_PX = 6.0

PROJECT_TOML = """\
# The demo: synthetic micrographs with Labelme annotations.
#   emcfsys-engine train project.toml

[project]
name     = "demo"
pixel_nm = 8
seed     = 0

[classes]
background    = 0
membrane      = 1
mitochondrion = 2

[[data]]
images      = "images/train"
annotations = "annotations/train"
split       = "train"

[[data]]
images      = "images/val"
annotations = "annotations/val"
split       = "val"

[training]
minutes = 2.3

[hotfolder]
watch  = "incoming"
output = "predictions"
"""

Outline = np.ndarray  # K×2, (x, y) in pixels


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What lies in one field of view, as outlines. Shapes: K×2 float64. Units: pixels."""

    cells: tuple[tuple[Outline, Outline], ...]  # outer and inner side of the membrane
    organelles: tuple[tuple[Outline, float], ...]  # with the direction of their cristae, radians
    vesicles: tuple[Outline, ...]  # no label: what a network must learn to leave out


def make_demo(folder: Path, *, num_train: int = 10, num_val: int = 3, seed: int = 7) -> list[Path]:
    """Write the demo project into a folder that is new or empty; return the micrographs.

    Raises: InputError if the folder holds something already or cannot be written.
    """
    if folder.exists() and any(folder.iterdir()):
        raise InputError(folder, "is not empty", "Name a new folder")
    written: list[Path] = []
    made: list[Path] = []  # folders of ours: what somebody lays there meanwhile is not
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("images", "annotations"):
            (folder / name).mkdir()
            made.append(folder / name)
        for split, number, first in (("train", num_train, 0), ("val", num_val, 1000)):
            images, labels = folder / "images" / split, folder / "annotations" / split
            images.mkdir()
            labels.mkdir()
            for index in range(number):
                name = f"cell_{first + index:04d}"
                scene, pixels = make_micrograph(seed, first + index)
                written.append(images / f"{name}.png")
                written[-1].write_bytes(encode_png(pixels))
                text = _labelme(scene, f"../../images/{split}/{name}.png")
                (labels / f"{name}.json").write_text(text)
        write_new(folder / "project.toml", PROJECT_TOML.encode())
    except OSError as error:
        for place in made:
            shutil.rmtree(place, ignore_errors=True)
        with suppress(OSError):
            if is_new:
                folder.rmdir()
        raise InputError(folder, f"cannot be written: {error.strerror}", remedy_of(error)) from None
    return written


def make_micrograph(seed: int, index: int, size_px: int = SIZE_PX) -> tuple[Scene, np.ndarray]:
    """Return the outlines and the 8-bit picture of one field of view; the same for the same seed.

    Shapes: the picture is size_px × size_px uint8.
    """
    rng = np.random.default_rng((seed, index))
    scene = _make_scene(rng, size_px)
    return scene, _render(scene, rng, size_px)


def encode_png(pixels: np.ndarray) -> bytes:
    """Return a PNG with the demo's pixel size.

    Shapes: H×W uint8 or uint16.
    """
    stream = io.BytesIO()
    dpi = 0.0254 / (PIXEL_NM * 1e-9)
    Image.fromarray(pixels).save(stream, "PNG", optimize=True, dpi=(dpi, dpi))
    return stream.getvalue()


def _make_scene(rng: np.random.Generator, size_px: int) -> Scene:
    cells: list[tuple[Outline, Outline]] = []
    organelles: list[tuple[Outline, float]] = []
    vesicles: list[Outline] = []
    spacing = size_px / 3
    shift = rng.uniform(-0.3, 0.3, 2) * spacing
    for row in range(-1, 4):
        for column in range(-1, 4):
            centre = (np.array([column + 0.5 + 0.5 * (row % 2), row + 0.5]) * spacing) + shift
            centre += rng.uniform(-0.06, 0.06, 2) * spacing
            radius = spacing * rng.uniform(0.41, 0.46)
            outer = _blob(rng, centre, radius, wobble=0.09)
            inner = _shrunk(outer, centre, _MEMBRANE_PX)
            if not _touches(outer, size_px):
                continue
            cells.append((outer, inner))
            inside = _fill_cell(rng, centre, radius)
            organelles += inside[0]
            vesicles += inside[1]
    seen = [one for one in organelles if _touches(one[0], size_px)]
    return Scene(cells=tuple(cells), organelles=tuple(seen), vesicles=tuple(vesicles))


def _fill_cell(
    rng: np.random.Generator, centre: np.ndarray, radius: float
) -> tuple[list[tuple[Outline, float]], list[Outline]]:
    """Place organelles and vesicles in a cell so that none overlap."""
    taken: list[tuple[np.ndarray, float]] = []
    organelles: list[tuple[Outline, float]] = []
    vesicles: list[Outline] = []
    for kind in rng.permutation([*["organelle"] * 3, *["vesicle"] * 4]):
        size = rng.uniform(0.17, 0.28) * radius if kind == "organelle" else rng.uniform(3.5, 6.5)
        for _ in range(20):
            reach = max(0.0, radius * 0.8 - 1.35 * size)
            angle, distance = rng.uniform(0, 2 * math.pi), reach * math.sqrt(rng.uniform())
            place = centre + distance * np.array([math.cos(angle), math.sin(angle)])
            if all(np.hypot(*(place - other)) > 1.4 * (size + own) for other, own in taken):
                break
        else:
            continue
        taken.append((place, size))
        if kind == "organelle":
            direction = rng.uniform(0, math.pi)
            stretch = rng.uniform(1.0, 1.35)
            organelles.append((_blob(rng, place, size, 0.08, direction, stretch), direction))
        else:
            vesicles.append(_blob(rng, place, size, wobble=0.04))
    return organelles, vesicles


def _blob(
    rng: np.random.Generator,
    centre: np.ndarray,
    radius: float,
    wobble: float,
    direction: float = 0.0,
    stretch: float = 1.0,
) -> Outline:
    """Return a smooth closed outline: an ellipse with a few random harmonics."""
    angle = np.linspace(0, 2 * math.pi, 64, endpoint=False)
    length = np.ones_like(angle)
    for order in (2, 3, 4, 5):
        amount = rng.normal(0, wobble / order)
        length += amount * np.cos(order * angle + rng.uniform(0, 2 * math.pi))
    x, y = radius * length * np.cos(angle) * stretch, radius * length * np.sin(angle) / stretch
    turned_x = x * math.cos(direction) - y * math.sin(direction)
    turned_y = x * math.sin(direction) + y * math.cos(direction)
    return centre + np.stack([turned_x, turned_y], axis=1)


def _shrunk(outline: Outline, centre: np.ndarray, by_px: float) -> Outline:
    arms = outline - centre
    length = np.hypot(arms[:, 0], arms[:, 1])[:, None]
    return centre + arms * (length - by_px) / length


def _touches(outline: Outline, size_px: int) -> bool:
    low, high = outline.min(axis=0), outline.max(axis=0)
    return bool((high > 2).all() and (low < size_px - 2).all())


def _render(scene: Scene, rng: np.random.Generator, size_px: int) -> np.ndarray:
    """Paint a scene: brightness 0 (electron-dense) to 1, then optics and detector."""
    size = (size_px, size_px)
    picture = np.full(size, 0.80) + 0.02 * _smooth_noise(rng, size, 3)
    for outer, inner in scene.cells:
        picture[_inside(outer, size)] = 0.28
        cell = _inside(inner, size)
        texture = 0.62 + 0.05 * _smooth_noise(rng, size, 2) + 0.03 * _smooth_noise(rng, size, 12)
        picture[cell] = texture[cell]
    granules = np.asarray(ndimage.binary_dilation(rng.random(size) < 0.004), bool)
    picture[granules & (picture < 0.75) & (picture > 0.45)] -= 0.18
    for outline in scene.vesicles:
        picture[_inside(outline, size)] = 0.35
        picture[_inside(_shrunk(outline, outline.mean(axis=0), 2.0), size)] = 0.74
    for outline, direction in scene.organelles:
        _paint_organelle(picture, outline, direction, rng)
    picture = ndimage.gaussian_filter(picture, 0.9)
    picture *= 1 + 0.22 * _illumination(rng, size_px)
    electrons = rng.uniform(55, 110)
    picture = rng.poisson(np.clip(picture, 0.02, None) * electrons) / electrons
    picture = picture * rng.uniform(0.8, 1.0) + rng.uniform(-0.05, 0.08)
    return (np.clip(picture, 0, 1) * 255).round().astype(np.uint8)


def _paint_organelle(
    picture: np.ndarray, outline: Outline, direction: float, rng: np.random.Generator
) -> None:
    """A dark double membrane around a grey matrix with wavy dark cristae across it."""
    size = picture.shape
    picture[_inside(outline, size)] = 0.24
    matrix = np.nonzero(_inside(_shrunk(outline, outline.mean(axis=0), 2.2), size))
    rows, columns = matrix
    across = columns * math.cos(direction) + rows * math.sin(direction)
    along = -columns * math.sin(direction) + rows * math.cos(direction)
    waves = np.sin(along / rng.uniform(3.5, 6) + rng.uniform(0, 6)) * 1.2
    cristae = np.cos((across + waves) * 2 * math.pi / rng.uniform(6.5, 8.5)) > 0.35
    picture[matrix] = np.where(cristae, 0.30, 0.50)


def _illumination(rng: np.random.Generator, size_px: int) -> np.ndarray:
    line = np.linspace(-1, 1, size_px)
    x, y = np.meshgrid(line, line)
    a, b, c, d, e = rng.uniform(-0.5, 0.5, 5)
    return a * x + b * y + c * x * y + d * x * x + e * y * y


def _smooth_noise(rng: np.random.Generator, size: tuple[int, int], sigma_px: float) -> np.ndarray:
    found = np.asarray(fft.rfft2(rng.standard_normal(size))) * _blur(size, sigma_px)
    noise = np.asarray(fft.irfft2(found, s=size))
    return noise / noise.std()


@lru_cache
def _blur(size: tuple[int, int], sigma_px: float) -> np.ndarray:
    """Return a Gaussian blur over the picture's borders, for its Fourier transform."""
    point = np.zeros(size)
    point[0, 0] = 1
    return np.asarray(fft.rfft2(ndimage.gaussian_filter(point, sigma_px, mode="wrap")))


def _inside(outline: Outline, size: tuple[int, int]) -> np.ndarray:
    return polygon2mask(size, outline[:, ::-1])


def _labelme(scene: Scene, image_path: str) -> str:
    """Return a Labelme 5 file; later shapes lie over earlier ones, as Labelme draws them."""
    outlines: list[tuple[str, Outline]] = []
    for outer, inner in scene.cells:
        outlines += [("membrane", outer), ("background", inner)]
    outlines += [("mitochondrion", outline) for outline, _ in scene.organelles]
    inside = [(label, _inside_picture(outline)) for label, outline in outlines]
    shapes = [_shape(label, points) for label, points in inside if len(points)]
    document = {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": image_path,
        "imageData": None,
        "imageHeight": SIZE_PX,
        "imageWidth": SIZE_PX,
    }
    return json.dumps(document, separators=(",", ":"))


def _inside_picture(outline: Outline) -> Outline:
    """Cut an outline at the picture's edges, as Labelme does; nothing is left of one outside."""
    inside = Polygon(outline).buffer(0).intersection(box(0, 0, SIZE_PX, SIZE_PX))
    parts = [inside] if isinstance(inside, Polygon) else list(getattr(inside, "geoms", ()))
    largest = max(parts, key=lambda part: part.area, default=Polygon())
    return np.asarray(largest.exterior.coords)[:-1] if largest.area >= 1 else np.empty((0, 2))


def _shape(label: str, outline: Outline) -> dict[str, object]:
    return {
        "label": label,
        "points": np.round(outline, 1).tolist(),
        "group_id": None,
        "description": "",
        "shape_type": "polygon",
        "flags": {},
    }
