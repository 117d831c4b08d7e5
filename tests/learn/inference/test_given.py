"""A Predictor says what it takes: pictures of every kind, and one sentence for all else."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from emcfsys_engine.errors import InputError
from emcfsys_engine.learn.inference.predictor import Predictor

GREY = np.random.default_rng(0).integers(0, 120, (40, 50)).astype(np.uint8)


@pytest.fixture(scope="module")
def predictor(model_file: Path) -> Predictor:
    return Predictor(model_file, gpus=0)


@pytest.mark.parametrize(
    "kind", ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", "g"]
)
def test_every_real_type_gives_the_same_mask(predictor: Predictor, kind: str) -> None:
    assert np.array_equal(predictor(GREY.astype(kind)), predictor(GREY))


@pytest.mark.parametrize(
    "given",
    [
        GREY.tolist(),
        Image.fromarray(GREY),
        Image.fromarray(GREY).convert("RGB"),
        Image.fromarray(GREY).convert("LA"),
        torch.from_numpy(GREY),
        torch.from_numpy(GREY).bfloat16(),
        torch.from_numpy(GREY).float().requires_grad_(),
        GREY[..., None],
        np.stack([GREY] * 4, axis=-1),
        np.asfortranarray(GREY),
    ],
)
def test_lists_pictures_and_tensors_are_taken(predictor: Predictor, given: Any) -> None:
    assert np.array_equal(predictor(given), predictor(GREY))


def test_pictures_of_one_bit_are_taken(predictor: Predictor) -> None:
    bits = GREY > 60
    assert predictor(bits).shape == (40, 50)
    assert predictor(Image.fromarray(bits)).shape == (40, 50)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (GREY[None], "1 × 40 × 50.*predict_stack"),
        (np.stack([GREY] * 7), "7 × 40 × 50.*predict_stack"),
        (GREY[0], "1 axes.*H×W"),
        (GREY[None, None], "4 axes.*predict_stack"),
        (np.float32(3), "0 axes"),
        (GREY.astype(complex), "complex numbers.*np.abs"),
        ([[1, 2], [3]], "unlike lengths"),
        ([["a", "b"]], "holds the type"),
        (None, "holds the type object"),
    ],
)
def test_what_is_no_picture_is_refused_with_the_remedy(
    predictor: Predictor, given: Any, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        predictor(given)


def test_a_stack_is_predicted_slice_by_slice(predictor: Predictor) -> None:
    stack = np.stack([GREY, GREY[::-1], GREY[:, ::-1]])
    masks = [one.mask for one in predictor.predict_stack(stack)]
    assert all(np.array_equal(m, predictor(s)) for m, s in zip(masks, stack, strict=True))
    assert len(list(predictor.predict_stack(torch.from_numpy(stack)))) == 3
    with pytest.raises(InputError, match="is no stack"):
        list(predictor.predict_stack(GREY))
