"""A part of a picture lies where it is, and counts each tile once."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from emcfsys_engine.errors import InputError
from emcfsys_engine.learn.inference.picture import (
    Part,
    Picture,
    ReadPart,
    Scale,
    ScaledBands,
    needed_of,
    scaled_reader,
)
from emcfsys_engine.learn.inference.predictor import Predictor
from emcfsys_engine.learn.inference.tiles import Place
from emcfsys_engine.regions import Region, cuts, whole_of


def _read(first: int, last: int, left: int = 0, right: int = 90) -> np.ndarray:
    return np.arange(100 * 90).reshape(100, 90)[first:last, left:right]


def _picture(region: Region | None, *, scale: float = 1.0, is_one_of_many: bool = False) -> Picture:
    part = None
    if region is not None:
        part = Part(region=region, read=_read, of_HW=(100, 90), is_one_of_many=is_one_of_many)
    size = (100, 90) if region is None else region.size
    return Picture(read=_read, size_HW=size, info_bar_rows=8, scale=Scale(scale, scale), part=part)


def test_a_part_knows_its_whole_and_where_the_info_bar_begins_in_it() -> None:
    whole, part = _picture(None), _picture(Region(40, 95, 10, 30))
    assert whole.whole_size == part.whole_size == (100, 90)
    assert whole.inner_part == whole_of((100, 90))
    assert part.inner_part == Region(40, 95, 10, 30)
    assert (whole.bar_from, part.bar_from) == (92, 52)
    assert part.inner_bar_from == 92
    np.testing.assert_array_equal(part.read_columns(3, 5, (10, 12)), [[280, 281], [370, 371]])


def test_of_an_image_that_is_enlarged_a_part_needs_what_lies_around_it() -> None:
    part = _picture(Region(40, 95, 10, 30), scale=2.0)
    assert part.inner_size == (200, 180)
    inner = part.inner_part
    assert inner.top <= 80
    assert inner.bottom >= 190
    assert (inner.left, inner.right) == pytest.approx((20, 60), abs=4)


@settings(max_examples=40)
@given(
    down=st.integers(20, 100), across=st.integers(20, 90), scale=st.sampled_from([1.0, 0.5, 1.7])
)
def test_each_tile_counts_in_one_part_only(down: int, across: int, scale: float) -> None:
    parts = [
        _picture(one, scale=scale, is_one_of_many=True) for one in cuts((100, 90), (down, across))
    ]
    whole = _picture(None, scale=scale)
    height, width = whole.inner_size
    for top in range(0, height, 13):
        for left in range(0, width, 13):
            place = Place(None, top, left, 16)
            shares = [part.above_bar(place) for part in parts]
            assert sum(shares) == pytest.approx(whole.above_bar(place))


SIZES = st.tuples(st.integers(1, 60), st.integers(1, 60))


def _reader(image: Tensor) -> ReadPart:
    return lambda first, last, columns: image[:, first:last, slice(*columns)]


@given(old=SIZES, new=SIZES, cut=st.integers(1, 30))
def test_rows_and_bands_are_those_of_the_image_scaled_at_once(
    old: tuple[int, int], new: tuple[int, int], cut: int
) -> None:
    torch.manual_seed(0)
    image = torch.randn(2, *old)
    whole = scaled_reader(_reader(image), old, new)(0, new[0], (0, new[1]))
    read = scaled_reader(_reader(image), old, new)
    cuts = [*range(0, new[0], cut), new[0]]
    pieces = torch.cat([read(a, b, (0, new[1])) for a, b in pairwise(cuts)], dim=1)
    torch.testing.assert_close(pieces, whole)

    def bands() -> Iterator[tuple[int, Tensor]]:
        for first in range(0, old[0], cut):
            yield first, image[:, first : first + cut]

    scaled = ScaledBands(old, new)
    made = [one for band in bands() if (one := scaled.add(*band)) is not None]
    assert [first for first, _ in made] == sorted({first for first, _ in made})
    torch.testing.assert_close(torch.cat([band for _, band in made], dim=1), whole)


@pytest.mark.parametrize(
    ("old", "new"), [((40, 50), (20, 25)), ((30, 31), (77, 90)), ((64, 64), (23, 9))]
)
def test_it_is_torchs_antialiased_interpolation(old: tuple[int, int], new: tuple[int, int]) -> None:
    image = torch.randn(1, *old)
    ours = scaled_reader(_reader(image), old, new)(0, new[0], (0, new[1]))
    theirs = F.interpolate(image[None], size=new, mode="bilinear", antialias=True)[0]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@given(data=st.data(), old=SIZES, new=SIZES, cut=st.integers(1, 30))
def test_a_part_of_it_is_made_of_what_is_needed_for_it_alone(
    data: st.DataObject, old: tuple[int, int], new: tuple[int, int], cut: int
) -> None:
    image = torch.randn(2, *old)
    whole = scaled_reader(_reader(image), old, new)(0, new[0], (0, new[1]))
    top, left = (data.draw(st.integers(0, length - 1)) for length in new)
    bottom, right = (
        data.draw(st.integers(top + 1, new[0])),
        data.draw(st.integers(left + 1, new[1])),
    )
    wanted = whole[:, top:bottom, left:right]
    read = scaled_reader(_reader(image), old, new)
    torch.testing.assert_close(read(top, bottom, (left, right)), wanted)
    part = Region(top, bottom, left, right)
    needed = needed_of(part, old, new)
    given_CHW = image[:, needed.top : needed.bottom, slice(*needed.columns)]
    scaled, made = ScaledBands(old, new, part), list[Tensor]()
    for first in range(0, given_CHW.shape[1], cut):
        if (one := scaled.add(first, given_CHW[:, first : first + cut])) is not None:
            made.append(one[1])
    torch.testing.assert_close(torch.cat(made, dim=1), wanted)


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
