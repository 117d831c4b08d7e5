"""Objects of an image in bands are those of the whole, and nothing lies in the folder after."""

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from emcfsys_engine.learn.inference.object_rows import ObjectRows, outlines
from emcfsys_engine.learn.inference.objects import find_objects, values_of
from emcfsys_engine.model_card import ModelCard, NetworkSpec, ObjectSettings

CARD = ModelCard(
    network=NetworkSpec(head="unet", backbone="resnet10t", num_classes=2, num_planes=2),
    classes=("resin", "grain"),
    class_values=(0, 1),
    colours=((0, 0, 0), (255, 255, 255)),
    patch_px=64,
    instances=("grain",),
    objects=ObjectSettings(),
)


def image(tall: int = 600) -> tuple[np.ndarray, np.ndarray]:
    """Return class values and both planes of blobs: H×W and 2×H×W."""
    noise = np.random.default_rng(2).random((tall, 90))
    mask = (ndimage.gaussian_filter(noise, 4) > 0.5).astype(np.uint8)
    distance = ndimage.distance_transform_edt(mask)
    height = (distance / max(1, distance.max()) * 255).astype(np.uint8)
    return mask, np.stack([height, np.where(distance == 1, 200, 0).astype(np.uint8)])


@pytest.mark.parametrize("cut", [37, 600])
def test_bands_give_the_objects_of_the_whole(cut: int, tmp_path: Path) -> None:
    mask, planes = image()
    rows = ObjectRows(tmp_path, (mask.shape[0], mask.shape[1]), CARD)
    for first in range(0, len(mask), cut):
        rows.add(mask[first : first + cut], planes[:, first : first + cut])
    whole = rows.whole()
    assert np.array_equal(whole, find_objects(mask, planes, values_of(CARD), CARD.objects))
    for first, band, numbers in rows.rows():
        last = first + len(band)
        assert np.array_equal(band, mask[first:last])
        assert np.array_equal(numbers[1:-1], whole[first:last])
        assert np.array_equal(numbers[0], whole[max(0, first - 1)])
        assert np.array_equal(numbers[-1], whole[min(len(whole) - 1, last)])
    rows.close()
    assert list(tmp_path.iterdir()) == []


def test_an_outline_is_of_objects_alone() -> None:
    numbers = np.zeros((5, 6), np.uint32)
    numbers[1:4, 1:3] = 1
    numbers[1:4, 3:5] = 2  # touches the first
    assert outlines(numbers).tolist() == [
        [False, True, True, True, True, False],
        [False, True, True, True, True, False],
        [False, True, True, True, True, False],
    ]
    large = np.pad(np.ones((5, 5), np.uint32), 1)
    assert not outlines(large)[2, 3]
