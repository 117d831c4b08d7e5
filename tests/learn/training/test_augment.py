"""What chance decides about a patch depends on its own seed and on nothing beside it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emcfsys_engine.learn.training.augment import Drawn, Strengths, augment, draw, strengths_of
from emcfsys_engine.project import Augmentation

CPU = torch.device("cpu")
ALL = Strengths(**dict.fromkeys(Strengths.__struct_fields__, 1.0))


def of_patch(drawn: Drawn, number: int) -> dict[str, torch.Tensor]:
    """Return what was drawn for one patch of a batch, by name."""
    found = {}
    for name, values in drawn.on_device.items():
        kind = "curtaining" if name == "fade" else name.partition(".")[0]
        if name.endswith(".places"):
            continue
        chosen = drawn.chosen.get(kind)
        if chosen is None:
            found[name] = values[number]
        elif number in chosen:
            found[name] = values[chosen.index(number)]
    return found


@given(seeds=st.lists(st.integers(0, 10**6), min_size=2, max_size=5, unique=True))
def test_a_patchs_numbers_are_its_own_in_any_batch(seeds: list[int]) -> None:
    together = draw(seeds, 32, ALL, CPU)
    for number, seed in enumerate(seeds):
        alone = draw([seed], 32, ALL, CPU)
        ours, theirs = of_patch(together, number), of_patch(alone, 0)
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            assert torch.equal(value, theirs[name]), name


def test_without_strengths_no_patch_is_chosen_for_anything() -> None:
    drawn = draw(range(16), 32, Strengths(), CPU)
    assert not any(drawn.chosen.values())


def test_every_strength_chooses_some_of_many_patches() -> None:
    drawn = draw(range(256), 32, ALL, CPU)
    assert drawn.chosen
    for name, chosen in drawn.chosen.items():
        assert 0 < len(chosen) < 256, name
        assert drawn.places(name).tolist() == chosen


STRONG = strengths_of(Augmentation(preset="strong"))


def _crops(seed: int, size_px: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (4, size_px, size_px), generator=generator)
    labels[:, :5] = 255
    return torch.randn(4, 1, size_px, size_px, generator=generator), labels


def _seeds(seed: int, number: int = 4) -> range:
    return range(seed * 1000, seed * 1000 + number)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**31))
def test_labels_gain_no_value(seed: int) -> None:
    images, labels = _crops(seed)
    warped, made = augment(images, labels, 32, STRONG, _seeds(seed))
    assert set(made.unique().tolist()) <= {0, 1, 2, 255}
    assert made.shape == (4, 32, 32)
    assert warped.shape == (4, 1, 32, 32)
    assert torch.isfinite(warped).all()


def test_the_same_seed_gives_the_same_batch() -> None:
    images, labels = _crops(0)
    first = augment(images, labels, 32, STRONG, _seeds(5))
    again = augment(images, labels, 32, STRONG, _seeds(5))
    other = augment(images, labels, 32, STRONG, _seeds(6))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_without_strengths_the_patch_is_the_middle_of_the_crop() -> None:
    images, labels = _crops(1)
    made, warped = augment(images, labels, 32, Strengths(), _seeds(0))
    torch.testing.assert_close(made, images[:, :, 8:40, 8:40], atol=1e-4, rtol=0)
    assert torch.equal(warped, labels[:, 8:40, 8:40])


@given(seed=st.integers(0, 2**31))
@settings(max_examples=20)
def test_image_and_labels_are_warped_alike(seed: int) -> None:
    """Paint the labels as an image: after any warp they still agree away from edges."""
    line = torch.arange(64)
    labels = ((line[:, None] // 16 + line[None] // 16) % 2).expand(4, 64, 64).contiguous()
    strengths = Strengths(flip=1, rotate=1, scale=1, elastic=1, drift=1)
    image, warped = augment(labels[:, None].float(), labels, 32, strengths, _seeds(seed))
    known = warped != 255
    agreement = ((image[:, 0] > 0.5) == (warped == 1))[known].float().mean()
    assert agreement > 0.97


def test_single_strengths_replace_the_presets() -> None:
    strengths = strengths_of(Augmentation(preset="none", noise=2.0))
    assert strengths == Strengths(noise=2.0)


def test_each_strength_can_be_set_in_a_project_and_no_other() -> None:
    assert {"preset", *Strengths.__struct_fields__} == {*Augmentation.__struct_fields__}


@pytest.mark.parametrize("name", Strengths.__struct_fields__)
def test_every_strength_changes_something(name: str) -> None:
    images, labels = _crops(2)
    images, labels = images.repeat(16, 1, 1, 1), labels.repeat(16, 1, 1)
    made, _ = augment(images, labels, 32, Strengths(**{name: 1.0}), _seeds(3, len(images)))
    plain, _ = augment(images, labels, 32, Strengths(), _seeds(3, len(images)))
    assert not torch.allclose(made, plain, atol=1e-3)


@given(seed=st.integers(0, 2**31), first=st.integers(0, 3))
@settings(max_examples=20)
def test_a_patch_is_changed_alike_beside_any_others(seed: int, first: int) -> None:
    images, labels = _crops(seed)
    seeds = list(_seeds(seed))
    whole = augment(images, labels, 32, STRONG, seeds)
    part = augment(images[first:], labels[first:], 32, STRONG, seeds[first:])
    torch.testing.assert_close(part[0], whole[0][first:], atol=1e-4, rtol=1e-4)
    assert torch.equal(part[1], whole[1][first:])
