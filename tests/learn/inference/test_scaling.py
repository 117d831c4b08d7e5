"""Scaling in bands is scaling of the whole."""

from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from emcfsys_engine.learn.inference.scaling import ReadPart, ScaledBands, needed_of, scaled_reader
from emcfsys_engine.regions import Region

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
