"""Tiles: they cover, they blend, and where they are cut does not show."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from emcfsys_engine.learn.inference.tiles import logit_bands, tile_starts


@given(
    length=st.integers(1, 3000), tile=st.integers(32, 512), overlap=st.sampled_from([0, 0.25, 0.5])
)
def test_tiles_cover_every_pixel_with_the_overlap_asked_for(
    length: int, tile: int, overlap: float
) -> None:
    starts = tile_starts(length, tile, overlap)
    assert starts[0] == 0
    if length > tile:
        assert starts[-1] + tile == length
        steps = [b - a for a, b in pairwise(starts)]
        assert all(0 < step <= tile * (1 - overlap) + 1 for step in steps)


def _pointwise(tiles: Tensor) -> Tensor:
    return torch.cat([tiles, tiles * 2 - 1], dim=1)


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 150),
    width=st.integers(1, 150),
    tile=st.sampled_from([32, 48, 64]),
    batch=st.integers(1, 5),
    tta=st.booleans(),
)
def test_a_pixelwise_network_gives_its_own_output_whatever_the_tiles(
    height: int, width: int, tile: int, batch: int, tta: bool
) -> None:
    image = torch.randn(1, height, width)
    bands = list(logit_bands(_pointwise, image, tile_px=tile, overlap=0.25, batch=batch, tta=tta))
    tops = [top for top, _ in bands]
    assert tops == sorted(tops)
    made = torch.cat([band for _, band in bands], dim=1)
    torch.testing.assert_close(made, _pointwise(image[None])[0], atol=1e-4, rtol=1e-4)


def test_the_seam_between_disagreeing_tiles_is_smooth() -> None:
    calls = iter(range(100))

    def forward(tiles: Tensor) -> Tensor:
        return torch.full_like(tiles, float(next(calls)))

    image = torch.zeros(1, 64, 112)
    ((_, band),) = logit_bands(forward, image, tile_px=64, overlap=0.25, batch=1)
    row = band[0, 32]
    assert row[0] == pytest.approx(0, abs=1e-3)
    assert row[-1] == pytest.approx(1, abs=1e-3)
    assert (row[1:] - row[:-1]).abs().max() < 0.15


def test_batches_do_not_change_the_result() -> None:
    torch.manual_seed(0)
    network = torch.nn.Conv2d(1, 2, 3, padding=1).eval()
    image = torch.randn(1, 100, 200)
    made = [
        torch.cat(
            [b for _, b in logit_bands(network, image, tile_px=64, overlap=0.25, batch=batch)], 1
        )
        for batch in (1, 4)
    ]
    torch.testing.assert_close(made[0], made[1], atol=1e-5, rtol=1e-5)
