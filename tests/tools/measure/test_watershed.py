"""Objects that touch are parted at their necks, and nothing is lost."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt
from skimage.measure import label
from skimage.morphology import local_maxima
from skimage.segmentation import watershed

from emcfsys_engine.tools.measure.objects import measure_objects
from emcfsys_engine.tools.measure.watershed import split_labels
from tests.tools.drawn_masks import SMALL_MASKS, disc


def test_watershed_parts_touching_discs_and_keeps_their_sizes() -> None:
    ids = (disc((60, 110), (30, 30), 20) | disc((60, 110), (30, 66), 20)).astype(np.uint8)
    assert len(measure_objects(ids, [1])) == 1
    parts = measure_objects(ids, [1], split="watershed")
    assert len(parts) == 2
    assert parts.area_px.sum() == ids.sum()
    assert abs(int(parts.area_px[0]) - int(parts.area_px[1])) < 60
    assert parts.neighbour_distance == pytest.approx([36, 36], abs=2)


def test_watershed_leaves_what_has_no_neck_whole() -> None:
    rod = np.zeros((30, 120), bool)
    rod[10:20, 5:115] = True
    for ids in (disc((80, 80), (40, 40), 30), rod):
        assert len(measure_objects(ids.astype(np.uint8), [1], split="watershed")) == 1


def test_a_lower_neck_parts_less() -> None:
    ids = (disc((60, 110), (30, 30), 20) | disc((60, 110), (30, 60), 20)).astype(np.uint8)
    assert len(measure_objects(ids, [1], split="watershed", neck=0.9)) == 2
    assert len(measure_objects(ids, [1], split="watershed", neck=0.3)) == 1


@given(ids=SMALL_MASKS)
def test_watershed_gives_every_pixel_of_every_class_to_one_object(ids: np.ndarray) -> None:
    parts = measure_objects(ids, [1, 2], split="watershed")
    for value in (1, 2):
        assert parts.area_px[parts.class_value == value].sum() == (ids == value).sum()
    assert len(parts) >= len(measure_objects(ids, [1, 2]))


@given(seed=st.integers(0, 2**32 - 1), touching=st.booleans())
def test_classes_split_together_are_split_as_each_alone(seed: int, touching: bool) -> None:
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((90, 90))
    ids = np.zeros((90, 90), np.uint8)
    for _ in range(12):
        y, x, radius = rng.uniform(0, 90), rng.uniform(0, 90), rng.uniform(3, 12)
        ids[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = rng.integers(1, 3)
    if not touching:
        ids[:, 44:47] = 0
        ids[:, :44][ids[:, :44] == 2] = 1
        ids[:, 47:][ids[:, 47:] == 1] = 2
    both = split_labels(ids, (1, 2))
    first, second = split_labels(ids, (1,)), split_labels(ids, (2,))
    apart = np.where(second > 0, second + first.max(), first)
    assert np.array_equal(both > 0, ids > 0)
    assert both.max() == apart.max()
    assert np.mean(both != apart) < 0.01  # ties at a pass may fall to either side


@example(seed=116083, across=1.0)  # nine pixels of a pass on the other side
@given(seed=st.integers(0, 2**32 - 1), across=st.sampled_from([1.0, 2.5]))
def test_the_split_is_that_of_its_plain_recipe(seed: int, across: float) -> None:
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((70, 150))  # more rows than are looked at together
    ids = np.zeros((70, 150), np.uint8)
    for _ in range(14):
        y, x, radius = rng.uniform(0, 70), rng.uniform(0, 150), rng.uniform(3, 14)
        ids[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = 1
    found = split_labels(ids, (1,), pixel=(1.0, across), neck=0.75)
    plain = _split_plainly(ids > 0, (1.0, across), neck=0.75)
    shared = np.zeros((found.max() + 1, plain.max() + 1), np.int64)  # pixels of each two parts
    np.add.at(shared, (found.ravel(), plain.ravel()), 1)
    partner = shared.argmax(axis=1)
    assert sorted(partner) == np.unique(plain).tolist()
    # Pixels at a pass that are as near to one peak as to the other may fall to either side.
    assert shared.sum() - shared.max(axis=1).sum() <= 0.003 * ids.size


def _split_plainly(inside: np.ndarray, pixel: tuple[float, float], *, neck: float) -> np.ndarray:
    """Flood everything from every peak, then join parts pass after pass."""
    depth = distance_transform_edt(inside, pixel).astype(np.float32)
    padded = np.pad(depth, 1)
    peaks = label(local_maxima(padded)[1:-1, 1:-1] & inside, connectivity=2)
    parts = watershed(-depth, peaks, mask=inside, connectivity=2)
    passes: dict[tuple[int, int], float] = {}
    for (y, x), here in np.ndenumerate(parts):
        for near in ((y, x + 1), (y + 1, x), (y + 1, x + 1), (y + 1, x - 1)):
            if not (near[0] < parts.shape[0] and 0 <= near[1] < parts.shape[1]):
                continue
            there = parts[near]
            if here and there and here != there:
                pair = (min(here, there), max(here, there))
                height = float(min(depth[y, x], depth[near]))
                passes[pair] = max(height, passes.get(pair, 0.0))
    name = {part: part for part in range(parts.max() + 1)}
    highest = {part: float(depth[parts == part].max()) for part in name if part}
    for pair, height in sorted(passes.items(), key=lambda item: (-item[1], item[0])):
        one, other = (name[part] for part in pair)
        if one == other:
            continue
        lower = min(highest[one], highest[other])
        if height >= neck * lower or lower - height < min(pixel):
            kept, gone = min(one, other), max(one, other)
            highest[kept] = max(highest[one], highest[other])
            name = {part: kept if into == gone else into for part, into in name.items()}
    return np.vectorize(name.__getitem__)(parts)
