"""What is gathered of an image while it is predicted anyway: its certainty, and how far it lies.

N tiles, C classes, H and W pixels, P cells of a tile, F features of a cell, K axes of the PCA.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from emcfsys_engine.learn.inference.ensemble import merged
from emcfsys_engine.learn.networks.network import SegmentationNetwork
from emcfsys_engine.model_card import Trust

EVERY_PX = 4  # one pixel of 16 is looked at
CELL_PX = 128  # features are pooled over squares of about this side
# Numbers of a class: pixels, their certainty, the class's total probability, unsure pixels; pixels
# of the joint mask of all members, and those that it shares with the member's own.
OF_CLASS = 6
AXES = 16  # of the PCA, at most
# Numbers of an image: cells, the sums of their three logarithmic distances and of their places.
OF_CELLS = 4 + AXES
UNSURE = 0.8
_LARGEST = 1e4  # of a feature: what is no number, or too large for fp16, is as far as can be


class Evidence:
    """Gathers sums over each image under way; it changes neither maps nor logits.

    Members of an ensemble are looked at one by one, and beside the mask that they make together.

    With `raw` set it keeps cells and logits themselves instead, for what is learned from them.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._known: list[_Known] = []
        self._is_on = False  # whether somebody takes what is gathered
        self.raw: Raw | None = None
        self._cells: list[list[Tensor]] = []  # of each member: N×P×F a call since the last batch
        # By image: M×(OF_CLASS·C + OF_CELLS), since its last band.
        self._sums: dict[int, Tensor] = {}

    @property
    def is_wanted(self) -> bool:
        """Whether anything is gathered."""
        return bool(self._known) or self.raw is not None

    def compare_with(self, trusts: Sequence[Trust]) -> None:
        """Gather from now on what these are told by, one a member."""
        self._known = [_Known(one, self._device) for one in trusts]

    def watch(self, networks: Sequence[SegmentationNetwork]) -> None:
        """Look at the maps of these networks from now on."""
        self._cells = [[] for _ in networks]
        for network, cells in zip(networks, self._cells, strict=True):
            strides = network.encoder.strides

            def see(
                _module: Any,
                _inputs: Any,
                maps: list[Tensor],
                cells: list[Tensor] = cells,
                strides: tuple[int, ...] = strides,
            ) -> None:
                if self._is_on and self.is_wanted:
                    cells.append(pooled(maps, strides))

            network.encoder.register_forward_hook(see)

    def begin(self) -> None:
        """Gather from now on; forget what is left of images that ended in the middle."""
        self._is_on = True
        self._sums.clear()
        self.back_to([0] * len(self._cells))

    def end(self) -> None:
        """Gather no more."""
        self._is_on = False

    def mark(self) -> list[int]:
        """Return where the calls of the network are."""
        return [len(cells) for cells in self._cells]

    def back_to(self, mark: list[int]) -> None:
        """Forget the calls since a mark: they did not come to an end."""
        for cells, length in zip(self._cells, mark, strict=True):
            del cells[length:]

    def add_tiles(self, tiles: Sequence[tuple[Any, float]]) -> None:
        """Sum up the cells of a batch: whose each tile is, and its share above the info bar.

        All calls since the last batch count: those of the flips, and of halves of a batch.
        """
        for member, cells in enumerate(self._cells):
            if not cells:
                continue
            cells_TPF = torch.cat(cells)
            cells.clear()
            for image, mine_PF in _by_image(cells_TPF, tiles):
                if self.raw is not None:
                    self.raw.cells.append(mine_PF)
                elif len(mine_PF):
                    self._sum(image, member)[-OF_CELLS:] += self._known[member].sums(mine_PF)

    def add_rows(self, image: Any, first: int, logits_KhW: Tensor, specimen_rows: int) -> None:
        """Sum up the certainty of some rows.

        Shapes: K×h×W float32, K = M·C, member after member.
        """
        if not self.is_wanted:
            return
        logits_MChW = logits_KhW.unflatten(0, (max(1, len(self._cells)), -1))
        rows_MChW = logits_MChW[:, :, : max(0, specimen_rows - first) : EVERY_PX, ::EVERY_PX]
        if self.raw is not None:
            self.raw.logits.append((first, rows_MChW[0]))
            return
        rows_MChW = rows_MChW[:, : len(self._known[0].temperatures_C)]  # planes of objects follow
        shared_MC2 = agreement(rows_MChW) if len(self._known) > 1 else None
        for member, (known, logits_ChW) in enumerate(zip(self._known, rows_MChW, strict=True)):
            made_C4 = certainty(logits_ChW, known.temperatures_C)
            # One that is alone makes the joint mask.
            alone_C2 = made_C4[:, :1].expand(-1, 2)
            shared_C2 = alone_C2 if shared_MC2 is None else shared_MC2[member]
            made_C6 = torch.cat((made_C4, shared_C2), dim=1)
            self._sum(image, member)[:-OF_CELLS] += made_C6.flatten()

    def taken(self, image: Any) -> Tensor | None:
        """Return what was summed up of an image since it was last taken; None: nothing was.

        Shapes: M×(OF_CLASS·C + OF_CELLS) float64, a row a member.
        """
        return self._sums.pop(id(image), None)

    def _sum(self, image: Any, member: int) -> Tensor:
        if id(image) not in self._sums:
            one = self._known[0].temperatures_C
            size = (len(self._known), OF_CLASS * len(one) + OF_CELLS)
            self._sums[id(image)] = torch.zeros(size, dtype=torch.float64, device=one.device)
        return self._sums[id(image)][member]


@dataclass(kw_only=True)
class Raw:
    """Cells and logits of one network as they came. Shapes: P×F; first row, C×h×W; all float32."""

    cells: list[Tensor] = field(default_factory=list)
    logits: list[tuple[int, Tensor]] = field(default_factory=list)


class _Known:
    """The numbers of a `Trust` on a device."""

    def __init__(self, trust: Trust, device: torch.device) -> None:
        def on(values: Any) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device)

        self.temperatures_C = on(trust.temperatures)
        self._centre_F, self._scale_F = on(trust.centre), on(trust.scale)
        self._basis_KF, self._spread_K = on(trust.basis), on(trust.spread)
        self._sample_SK, self._residual = on(trust.sample), trust.residual

    def sums(self, cells_PF: Tensor) -> Tensor:
        """Return the sums of what is known of some cells. Shapes: OF_CELLS, float64."""
        distances_P3, white_PK = self.distances(cells_PF)
        # A cell that is far off counts, but does not hide all others.
        places_K = (white_PK.sign() * white_PK.abs().log1p()).double().sum(dim=0)
        number = places_K.new_full((1,), len(distances_P3))
        made = torch.cat((number, distances_P3.double().sum(dim=0), places_K))
        return F.pad(made, (0, OF_CELLS - len(made)))

    def distances(self, cells_PF: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logarithms of three distances to the training images, and the places.

        They are those along the axes (Mahalanobis), off them, and to the nearest kept cell.
        Shapes: P×3 and P×K.
        """
        centred_PF = (cells_PF - self._centre_F) / self._scale_F
        along_PK = centred_PF @ self._basis_KF.T
        off_P = (centred_PF.square().sum(1) - along_PK.square().sum(1)).clamp_min(0).sqrt()
        white_PK = along_PK / self._spread_K
        near_P = torch.cdist(white_PK, self._sample_SK).amin(dim=1)
        far_P = white_PK.norm(dim=1)
        root = math.sqrt(white_PK.shape[1])
        distances_P3 = torch.stack((far_P / root, off_P / self._residual, near_P / root), dim=1)
        return distances_P3.add(0.05).log(), white_PK


def _by_image(
    cells_TPF: Tensor, tiles: Sequence[tuple[Any, float]]
) -> Iterator[tuple[Any, Tensor]]:
    """Yield each image of a batch with its cells above the info bar: few calls for a GPU to begin.

    Shapes: T is a multiple of the tiles, call after call; P×F.
    """
    parts: dict[int, list[Tensor]] = {}
    images: dict[int, Any] = {}
    for number, (image, above) in enumerate(tiles):
        mine_PF = cells_TPF[number :: len(tiles)].flatten(0, 1)
        images[id(image)] = image
        parts.setdefault(id(image), []).append(mine_PF[: max(0, round(above * len(mine_PF)))])
    for key, image in images.items():
        yield image, torch.cat(parts[key])


def num_features(network: SegmentationNetwork) -> int:
    """Return how many features a cell of a network has."""
    channels, strides = network.encoder.channels, network.encoder.strides
    return channels[-1] + 2 * channels[_fine(strides)]


def _fine(strides: Sequence[int]) -> int:
    return next((n for n, stride in enumerate(strides) if stride >= 4), 0)


def pooled(maps: list[Tensor], strides: tuple[int, ...]) -> Tensor:
    """Return the features of cells: means of the deepest map, and size of a fine one's.

    The mean tells what is seen, the root of the mean square how much of it: blur and noise change
    that first. Shapes: maps N×C×H×W of any float type, finest first; the result is N×P×F float32.
    """
    deep_NCHW = maps[-1].float()
    high, wide = (max(1, round(n * strides[-1] / CELL_PX)) for n in deep_NCHW.shape[-2:])
    side = (high, wide)
    parts = [F.adaptive_avg_pool2d(deep_NCHW, side)]
    fine = _fine(strides)
    step = 2 if min(maps[fine].shape[-2:]) >= 2 * max(side) else 1
    fine_NCHW = maps[fine][..., ::step, ::step].float()
    if min(fine_NCHW.shape[-2:]) < max(side):
        fine_NCHW = F.interpolate(fine_NCHW, size=side)
    parts.append(F.adaptive_avg_pool2d(fine_NCHW.square(), side).sqrt())
    parts.append(F.adaptive_avg_pool2d(fine_NCHW, side))
    return _sound(torch.cat(parts, dim=1)).flatten(2).movedim(1, 2)


def _sound(cells_NFHW: Tensor) -> Tensor:
    return cells_NFHW.nan_to_num(_LARGEST, _LARGEST, -_LARGEST).clamp(-_LARGEST, _LARGEST)


def agreement(logits_MCHW: Tensor) -> Tensor:
    """Return each class's pixels in the joint mask, and those that a member's own shares with it.

    Shapes: logits M×C×H×W of classes alone, of any float type; the result is M×C×2 float64.
    """
    num_members, num_classes = logits_MCHW.shape[:2]
    own_MN = logits_MCHW.flatten(2).max(dim=1).indices
    joint_N = merged(logits_MCHW.float().flatten(0, 1), num_members).flatten(1).max(0).indices
    sums_2MC = torch.zeros((2, num_members, num_classes), dtype=torch.float64, device=own_MN.device)
    for member, own_N in enumerate(own_MN):
        sums_2MC[0, member].index_add_(0, joint_N, torch.ones_like(joint_N, dtype=torch.float64))
        sums_2MC[1, member].index_add_(0, joint_N, (own_N == joint_N).double())
    return sums_2MC.movedim(0, -1)


def certainty(logits_CHW: Tensor, temperatures_C: Tensor) -> Tensor:
    """Return each class's number of pixels, their certainty, its total probability, unsure pixels.

    Shapes: logits C×H×W of classes alone, of any float type, temperatures C float32; the result is
    C×4 float64.
    """
    logits_CN = logits_CHW.float().flatten(1)
    best_N = logits_CN.max(dim=0).indices  # argmax takes fifteen times as long on a processor
    shares_CN = (logits_CN / temperatures_C[best_N]).softmax(dim=0).nan_to_num(0.0)
    sure_N = shares_CN.amax(dim=0)
    of_pixels_3N = torch.stack((torch.ones_like(sure_N), sure_N, (sure_N < UNSURE).float()))
    sums_3C = of_pixels_3N.new_zeros((3, len(logits_CN)), dtype=torch.float64)
    sums_3C.index_add_(1, best_N, of_pixels_3N.double())
    return torch.stack((sums_3C[0], sums_3C[1], shares_CN.sum(1).double(), sums_3C[2]), dim=1)
