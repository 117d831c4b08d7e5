"""Objects are the same whatever rows come at once; touching ones are parted; none is lost."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emcfsys_engine.dataset.objects import targets_of
from emcfsys_engine.learn.inference import objects
from emcfsys_engine.learn.inference.objects import ObjectFinder, find_objects
from emcfsys_engine.learn.training.object_scores import GRID
from emcfsys_engine.model_card import ObjectSettings

SETTINGS = ObjectSettings()


def discs(
    seed: int, size: tuple[int, int] = (90, 110), number: int = 14
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Discs that touch, their class, and the planes that a perfect network gives."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices(size)
    ids = np.zeros(size, np.int32)
    for place in range(1, number + 1):
        y, x, radius = rng.uniform(0, size[0]), rng.uniform(0, size[1]), rng.uniform(3, 11)
        inside = (rows - y) ** 2 + (columns - x) ** 2 < radius**2
        if (ids[inside] > 0).mean() < 0.1:
            ids[inside & (ids == 0)] = place
    mask = (ids > 0).astype(np.uint8)
    planes = np.minimum(targets_of(ids, mask), 254)
    noise = rng.normal(0, 8, planes.shape)
    return ids, mask, np.clip(planes + noise, 0, 255).astype(np.uint8)


def in_bands(mask: np.ndarray, planes: np.ndarray, cuts: Sequence[int]) -> np.ndarray:
    """Return the objects of an image that comes cut at some rows."""
    finder, values = ObjectFinder(mask.shape[1], np.unique(mask)[1:].tolist()), []
    ends = [0, *sorted(cuts), len(mask)]
    for first, last in itertools.pairwise(ends):
        values.append(finder.add(mask[first:last], planes[:, first:last]))
    rest, basins = finder.end()
    return basins.joined(SETTINGS)[np.concatenate([*values, rest])]


@given(st.integers(0, 1000), st.sets(st.integers(1, 89), max_size=30))
def test_objects_are_the_same_whatever_rows_come_at_once(seed: int, cuts: set[int]) -> None:
    _, mask, planes = discs(seed)
    whole = find_objects(mask, planes, (1,), SETTINGS)
    np.testing.assert_array_equal(in_bands(mask, planes, sorted(cuts)), whole)


@given(st.integers(0, 1000), st.integers(1, 30), st.integers(1, 30))
def test_noise_of_two_classes_in_bands_is_that_of_the_whole(seed: int, tall: int, cut: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, 3, (tall, 17)).astype(np.uint8)
    planes = rng.integers(0, 3, (2, tall, 17)).astype(np.uint8)  # plateaus everywhere
    whole = find_objects(mask, planes, (1, 2), SETTINGS)
    finder = ObjectFinder(17, (1, 2))
    marks = [finder.add(mask[a : a + cut], planes[:, a : a + cut]) for a in range(0, tall, cut)]
    rest, basins = finder.end()
    made = basins.joined(SETTINGS)[np.concatenate([*marks, rest])]
    np.testing.assert_array_equal(made, whole)
    assert ((whole > 0) == (mask > 0)).all()  # none is lost
    for number in np.unique(whole[whole > 0]):
        assert len(np.unique(mask[whole == number])) == 1


@pytest.mark.parametrize("seed", range(4))
def test_touching_discs_are_parted_as_they_were(seed: int) -> None:
    truth, mask, planes = discs(seed)
    found = find_objects(mask, planes, (1,), SETTINGS)
    same = 0
    large = [n for n in np.unique(truth)[1:] if (truth == n).sum() > 60]
    for number in large:
        own = truth == number
        best = np.bincount(found[own]).argmax()
        same += bool(best and (own & (found == best)).sum() > 0.85 * (own | (found == best)).sum())
    assert same >= len(large) - 1


def test_an_object_of_any_form_over_many_bands_is_one() -> None:
    mask = np.zeros((60, 30), np.uint8)
    mask[5:55, 4:8] = mask[5:55, 20:24] = mask[51:55, 4:24] = 1  # a U: two until the last band
    planes = np.stack([np.where(mask, 200, 0), np.zeros_like(mask)]).astype(np.uint8)
    found = in_bands(mask, planes, range(1, 60, 3))
    assert found.max() == 1
    assert ((found == 1) == (mask == 1)).all()


def test_numbers_follow_the_first_pixels_and_small_ones_are_none() -> None:
    mask = np.zeros((20, 20), np.uint8)
    mask[10:16, 2:8] = mask[1:7, 12:18] = 1
    mask[1, 1] = 1
    planes = np.stack([mask * 200, mask * 0])
    found = find_objects(mask, planes, (1,), ObjectSettings(min_px=2))
    assert found[1, 1] == 0
    assert found[3, 14] == 1
    assert found[12, 4] == 2


def test_what_is_too_small_is_part_of_what_it_touches() -> None:
    mask = np.zeros((12, 24), np.uint8)
    mask[2:10, 2:22] = 1
    height = np.zeros(mask.shape, np.uint8)
    height[2:10, 2:16], height[2:10, 16] = 200, 5  # a valley parts off the last columns
    height[2:10, 17:22] = 150
    planes = np.stack([height, mask * 0])
    assert find_objects(mask, planes, (1,), ObjectSettings(min_px=1)).max() == 2
    found = find_objects(mask, planes, (1,), ObjectSettings(min_px=60))
    assert ((found == 1) == (mask == 1)).all()


def test_an_image_without_objects_has_none() -> None:
    nothing = np.zeros((3, 4), np.uint8)
    assert not find_objects(nothing, np.zeros((2, 3, 4), np.uint8), (1,), SETTINGS).any()


@given(st.integers(0, 2**32 - 1), st.sampled_from(GRID))
def test_passes_that_close_a_ring_decide_nothing(seed: int, settings: ObjectSettings) -> None:
    rng = np.random.default_rng(seed)
    mask = (rng.random((24, 30)) < 0.9).astype(np.uint8)
    planes = rng.integers(0, rng.integers(2, 256), (2, 24, 30)).astype(np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objects, "_spanning", lambda keys, heights, _: (keys, heights))
        every = find_objects(mask, planes, (1,), settings)
    np.testing.assert_array_equal(find_objects(mask, planes, (1,), settings), every)
