"""How large tiles are, and how many are predicted at a time: by the memory that there is."""

from collections.abc import Iterable

import torch

from emcfsys_engine.learn.memory import footprint_of, usable_memory
from emcfsys_engine.model_card import NetworkSpec

TILE_PX = 512
_MOST_TILES = {"cpu": 4, "cuda": 16}  # more keep a device no busier
_COMMON_BYTES = 2 << 30  # of a tile of 512²: more than any of the usual networks takes


def choose_tiles(
    networks: Iterable[NetworkSpec],
    device: torch.device,
    precision: torch.dtype,
    *,
    patch_px: int,
    tile_px: int | None = None,
) -> tuple[int, int]:
    """Return the side of a tile in pixels, and how many are predicted at a time.

    Tiles are as large as the patches that the network learnt from, and at least 512². Fewer are
    taken, and then smaller ones, down to the patches, where memory is short; the side that is given
    as `tile_px` is kept. What a training would keep of a tile is the measure: a prediction, which
    keeps nothing for a way back, takes less.
    """
    side_px = tile_px or max(patch_px, TILE_PX)
    memory, most = usable_memory(device), _MOST_TILES[device.type]
    if memory >= most * _COMMON_BYTES * (side_px / TILE_PX) ** 2:
        return side_px, most  # counting takes up to a second: only where it may matter
    specs = set(networks)
    while True:
        fits = _tiles_that_fit(specs, side_px, precision, memory)
        smaller_px = max(patch_px, side_px // 2 // 32 * 32)
        if fits or tile_px or smaller_px >= side_px:
            return side_px, max(1, min(most, fits))
        side_px = smaller_px


def _tiles_that_fit(
    specs: Iterable[NetworkSpec], side_px: int, precision: torch.dtype, memory: int
) -> int:
    counted = [footprint_of(spec, side_px, precision) for spec in specs]
    return min(memory // each.patch if each else 1 for each in counted)
