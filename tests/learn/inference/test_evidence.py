"""What is gathered while an image is predicted: sums that do not depend on tiles or company."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from emcfsys_engine.errors import ModelFileError
from emcfsys_engine.learn.inference.evidence import OF_CELLS, OF_CLASS, certainty, pooled
from emcfsys_engine.learn.inference.predictor import Picture, Predictor
from emcfsys_engine.model_card import Trust, read_card
from tests.contracts.test_old_files import DATA
from tests.learn.inference.made import drawn
from tests.learn.trusting import with_trust


@pytest.fixture(scope="module")
def trust() -> Trust:
    """Return what a network of the same kind learned."""
    found = read_card(DATA / "model-format-2.safetensors").trust
    assert found is not None
    return found


@pytest.fixture(scope="module")
def model_file() -> Path:
    """A model that learned when it fails."""
    return DATA / "model-format-2.safetensors"


def judging(model: Path, trust: Trust, members: int = 1, **options: object) -> Predictor:
    predictor = Predictor([model] * members, gpus=0, tile_px=64, **options)  # type: ignore[arg-type]
    predictor.take_trusts((trust,) * members)
    return predictor


def test_certainty_of_pixels_worked_by_hand() -> None:
    shares = torch.tensor([[[0.9, 0.6]], [[0.1, 0.4]]])
    found = certainty(shares.log(), torch.ones(2))
    assert found[0].tolist() == pytest.approx([2, 1.5, 1.5, 1])
    assert found[1].tolist() == pytest.approx([0, 0, 0.5, 0])


@pytest.mark.parametrize("size", [1, 2, 3, 17])
def test_maps_of_any_size_and_of_no_number_give_finite_features(size: int) -> None:
    fine, deep = torch.randn(2, 5, 8 * size, 8 * size), torch.randn(2, 7, size, size)
    fine[0, 0, 0, 0], deep[1, 0, 0, 0] = torch.inf, torch.nan
    cells = pooled([fine.half(), deep.half()], (4, 32))
    assert cells.shape[0] == 2
    assert cells.shape[2] == 7 + 2 * 5
    assert bool(cells.isfinite().all())


def test_nothing_changes_in_the_mask_and_flips_and_members_are_looked_at(
    model_file: Path, trust: Trust
) -> None:
    image = drawn((150, 130))
    plain = Predictor(DATA / "model-format-1.safetensors", gpus=0, tile_px=64).predict(image)
    made = judging(model_file, trust).predict(image)
    assert np.array_equal(plain.mask, made.mask)
    assert plain.expected is None
    assert made.expected is not None
    assert made.evidence is not None
    flipped = judging(model_file, trust, tta=True).predict(image)
    assert flipped.evidence is not None
    assert flipped.evidence[0, -OF_CELLS] == 4 * made.evidence[0, -OF_CELLS]
    both = judging(model_file, trust, members=2).predict(image)
    assert both.expected is not None
    assert both.expected.iou == pytest.approx(made.expected.iou, abs=0.02)
    assert both.evidence is not None
    for row in (*made.evidence, *both.evidence):  # all are one model: all masks are one
        pixels_C, joint_C, shared_C = row[:-OF_CELLS].reshape(-1, OF_CLASS)[:, (0, 4, 5)].T
        assert pixels_C.sum() > 0
        assert np.array_equal(pixels_C, joint_C)
        assert np.array_equal(pixels_C, shared_C)


def test_images_that_share_a_batch_are_told_apart(model_file: Path, trust: Trust) -> None:
    predictor = judging(model_file, trust, batch=3)
    images = [drawn((64, 100), seed).astype(np.float32) for seed in range(3)]
    ready = [predictor.prepare(image)[..., 0] for image in images]
    pictures = [
        (n, Picture(read=lambda first, last, n=n: ready[n][first:last], size_HW=(64, 100)))
        for n in range(3)
    ]
    alone = [predictor.predict(image).evidence for image in images]
    for number, bands in predictor.stream(pictures):
        total = sum(band.evidence for band in bands if band.evidence is not None)
        assert np.allclose(total, alone[number], rtol=1e-2, atol=0.5)


def test_an_image_that_is_all_info_bar_is_expected_to_be_nothing(
    model_file: Path, trust: Trust
) -> None:
    assert judging(model_file, trust).predict(drawn((64, 64)), info_bar_rows=64).expected is None


def test_what_only_runs_the_network_gathers_nothing(model_file: Path, trust: Trust) -> None:
    predictor = judging(model_file, trust)
    predictor.forward(torch.zeros(1, 1, 64, 64))
    assert predictor.evidence.mark() == [0]


def test_numbers_of_another_network_are_refused_when_the_file_is_loaded(
    trust: Trust, tmp_path: Path
) -> None:
    other = msgspec.structs.replace(
        trust, centre=(0.0,), scale=(1.0,), basis=((1.0,),), spread=(1.0,), sample=((0.0,),)
    )
    file = with_trust(DATA / "model-format-1.safetensors", other, tmp_path / "x.safetensors")
    with pytest.raises(ModelFileError, match="how good its masks are is of another network"):
        Predictor(file, gpus=0)
