"""How much memory a training will need, counted before it begins: no step is taken for it.

The network is built and run on torch's meta device, where tensors have sizes but no content, and
what autograd keeps for the way back is added up. Measured peaks stand beside it in the bench
`tests/bench/training_memory.py`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from emcfsys_engine.learn.device import gpu_share
from emcfsys_engine.learn.networks.network import build_network
from emcfsys_engine.memory_limit import memory_bytes
from emcfsys_engine.model_card import NetworkSpec

# Of a machine's memory, the share that activations and weights may take: on a CPU the decoded
# images (data.py), the system and other people need the rest.
_SHARES = {"cpu": 0.4, "cuda": 0.85}
_COPIES = 5  # of each weight: itself, its gradient, AdamW's two moments, the average
_PROBE = 2  # patches: batch normalisation wants more than one


@dataclass(frozen=True)
class Footprint:
    """Bytes that a training needs at its peak, beside images and libraries."""

    weights: int  # whatever the batch
    patch: int  # for each patch of a micro-batch

    def of(self, micro_batch: int) -> int:
        """Return the bytes that a step on so many patches needs."""
        return self.weights + micro_batch * self.patch


@lru_cache(maxsize=16)
def footprint_of(spec: NetworkSpec, patch_px: int, precision: torch.dtype) -> Footprint | None:
    """Return what a training of this network on patches of P×P pixels needs; None: unknown.

    Under autocast nearly all kept activations are of the lower precision; logits and loss, a few
    maps of the classes' number at full size, are not.
    """
    try:
        with torch.device("meta"):
            network = build_network(spec).train()
            patches = torch.empty(_PROBE, spec.in_channels, patch_px, patch_px)
        kept = _kept_bytes(network, patches)
    except (NotImplementedError, RuntimeError, TypeError, ValueError):
        return None  # a network that looks at its numbers cannot run on tensors without any
    weights = sum(each.numel() * each.element_size() for each in network.parameters())
    share = torch.finfo(precision).bits / 32
    channels = spec.num_classes + spec.num_planes
    loss = 6 * channels * patch_px**2 * 4  # logits, their probabilities, gradients of both
    return Footprint(weights=_COPIES * weights, patch=round(kept * share / _PROBE) + loss)


def usable_memory(device: torch.device, processes: int = 1) -> int:
    """Return the bytes that one process's work may take: of all there is, free or not.

    The memory that happens to be free differs from run to run; the plan must not.
    """
    if device.type == "cuda":
        total = round(torch.cuda.get_device_properties(device).total_memory * gpu_share())
    else:
        total = memory_bytes()[0] // processes
    return int(total * _SHARES[device.type])


def _kept_bytes(network: torch.nn.Module, patches: Tensor) -> int:
    """Return the bytes of all that the forward pass keeps for the backward pass, each once."""
    own = {_storage(each) for each in network.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if (key := _storage(tensor)) not in own:
            kept.setdefault(key, tensor)
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        network(patches)
        return sum(each.untyped_storage().nbytes() for each in kept.values())


def _storage(tensor: Tensor) -> int:
    """Name the memory that a tensor shows: views share it."""
    return tensor.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]


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
