"""Tiles: they cover, they blend, and where they are cut does not show."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from emcfsys_engine.learn.inference.tiles import (
    LOCAL_GROWTH,
    ImageRows,
    Tiles,
    bands_of,
    logit_bands,
    tile_starts,
)
from emcfsys_engine.regions import Region


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


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 150), st.integers(1, 150)), min_size=1, max_size=6),
    px=st.sampled_from([32, 64]),
    step_px=st.sampled_from([0, 8, 32]),
    batch=st.integers(1, 5),
    tta=st.booleans(),
)
def test_images_that_share_batches_come_in_order_each_with_its_own_output(
    sizes: list[tuple[int, int]], px: int, step_px: int, batch: int, tta: bool
) -> None:
    images = [torch.randn(1, *size) for size in sizes]
    most_px = 0

    def forward(tiles: Tensor) -> Tensor:
        nonlocal most_px
        most_px = max(most_px, tiles.shape[0] * tiles.shape[-1] * tiles.shape[-2])
        return _pointwise(tiles)

    rows = [
        (n, ImageRows(lambda ranges, _, n=n: (images[n][:, a:b] for a, b in ranges), size))
        for n, size in enumerate(sizes)
    ]
    tiles = Tiles(px=px, batch=batch, step_px=step_px)
    made = list(bands_of(forward, rows, tiles, overlap=0.25, tta=tta))
    assert [done.key for done in made if done.is_last] == list(range(len(sizes)))
    assert [done.key for done in made] == sorted(done.key for done in made)
    for number, image in enumerate(images):
        own = torch.cat([done.logits for done in made if done.key == number], dim=1)
        torch.testing.assert_close(own, _pointwise(image[None])[0], atol=1e-4, rtol=1e-4)
    assert most_px <= batch * px**2


@given(
    length=st.integers(1, 6000),
    px=st.sampled_from([256, 512, 768]),
    overlap=st.sampled_from([0, 0.25, 0.5]),
    growth=st.sampled_from([1.25, LOCAL_GROWTH]),
    batch=st.integers(1, 16),
)
def test_longer_tiles_are_taken_where_they_compute_less(
    length: int, px: int, overlap: float, growth: float, batch: int
) -> None:
    tiles = Tiles(px=px, batch=batch, step_px=32, most_growth=growth)
    side = tiles.side(length, overlap)
    assert side == min(px, length) or (side > px and batch > 1)
    assert side <= px * growth and side**2 <= batch * px**2
    assert side % 32 == 0 or side == length
    shares = [tiles.overlap_of(one, overlap) for one in (side, px)]
    work = [
        one * len(tile_starts(length, one, share))
        for one, share in zip((side, px), shares, strict=True)
    ]
    assert work[0] <= work[1] or length < px


def test_sides_by_hand() -> None:
    tiles = Tiles(px=512, batch=16, step_px=32)
    # 128 pixels overlap: 11 of 512 or 8 of 640 are 5632 or 5120; 3 of 512 or 2 of 576; 2 or one.
    assert [tiles.side(length, 0.25) for length in (4096, 1024, 600)] == [640, 576, 600]
    local = Tiles(px=512, batch=16, step_px=32, most_growth=LOCAL_GROWTH)
    assert [local.side(length, 0.25) for length in (4096, 1024, 600)] == [
        928,
        1024,
        600,
    ]  # 5 of 928
    assert [tiles.at_once(side, side) for side in (512, 544, 608, 256, 32)] == [16, 14, 11, 64, 64]


def test_the_last_batch_of_an_image_is_as_full_as_the_others() -> None:
    seen: list[int] = []

    def forward(tiles: Tensor) -> Tensor:
        seen.append(len(tiles))
        return tiles

    image = torch.zeros(1, 256, 208)  # 5 times 4 tiles
    list(logit_bands(forward, image, tile_px=64, overlap=0.25, batch=19))
    assert seen == [10, 10]


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    height=st.integers(20, 260),
    width=st.integers(20, 260),
    tile=st.sampled_from([32, 48, 64]),
    overlap=st.sampled_from([0, 0.25, 0.5]),
    batch=st.integers(1, 5),
    tta=st.booleans(),
)
def test_a_part_is_what_the_whole_image_has_there(
    data: st.DataObject,
    height: int,
    width: int,
    tile: int,
    overlap: float,
    batch: int,
    tta: bool,
) -> None:
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    bottom, right = (
        data.draw(st.integers(top + 1, height)),
        data.draw(st.integers(left + 1, width)),
    )
    torch.manual_seed(0)
    network = torch.nn.Conv2d(1, 2, 9, padding=4)  # what a tile's border hides, it notices
    image = torch.randn(1, height, width)
    looked_at: list[tuple[int, int]] = []

    def read(ranges: Sequence[tuple[int, int]], columns: tuple[int, int]) -> Iterator[torch.Tensor]:
        for first, last in ranges:
            looked_at.append((last - first, columns[1] - columns[0]))
            yield image[:, first:last, slice(*columns)]

    def made(part: Region | None) -> torch.Tensor:
        rows = [(0, ImageRows(read, (height, width), part))]
        tiles = Tiles(px=tile, batch=batch)
        found = list(bands_of(network, rows, tiles, overlap=overlap, tta=tta, is_alone=True))
        assert [one.is_last for one in found] == [False] * (len(found) - 1) + [True]
        return torch.cat([one.logits for one in found], dim=1)

    with torch.inference_mode():
        whole = made(None)
        looked_at.clear()
        part = made(Region(top, bottom, left, right))
    torch.testing.assert_close(part, whole[:, top:bottom, left:right], atol=1e-5, rtol=1e-5)
    assert sum(rows for rows, _ in looked_at) <= bottom - top + 2 * tile
    assert all(columns <= right - left + 2 * tile for _, columns in looked_at)
