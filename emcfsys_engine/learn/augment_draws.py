"""What chance decides about each patch, drawn on the processor and uploaded in one copy.

A patch's numbers come from its own seed: the same patch is changed alike on any device, beside any
others and by any number of processes. What is drawn for a pixel, noise, is drawn on the device.
N patches, n of them chosen.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import torch
from torch import Tensor

_RADIUS_PX = 5
_FIELD, _SHADE, _FADE = 5, 3, 4  # points of the coarse fields, across
_NUM_UNIFORM = 40  # a few more than are used: a new augmentation changes no old draw


class Strengths(msgspec.Struct, frozen=True, kw_only=True):
    """How strong each augmentation is; 0 is off, 1 the standard preset's strength."""

    flip: float = 0.0
    rotate: float = 0.0
    scale: float = 0.0
    elastic: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    gamma: float = 0.0
    noise: float = 0.0
    blur: float = 0.0
    defocus: float = 0.0
    low_resolution: float = 0.0
    curtaining: float = 0.0
    shading: float = 0.0
    drift: float = 0.0
    missing_rows: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """The numbers of a batch on its device; `chosen` tells on the host which patches change."""

    on_device: dict[str, Tensor]  # float32; for a chosen few one row each
    chosen: dict[str, list[int]]
    seeds: tuple[int, ...]

    def places(self, name: str) -> Tensor:
        """Return the numbers of the chosen patches, int64 on the device.

        Shapes: one number a chosen patch.
        """
        return self.on_device[f"{name}.places"].long()

    def __getitem__(self, name: str) -> Tensor:
        return self.on_device[name]


def draw(seeds: Sequence[int], patch_px: int, s: Strengths, device: torch.device) -> Drawn:
    """Draw what happens to patches with these seeds."""
    sources = [np.random.default_rng(seed) for seed in seeds]
    even = _Columns(np.stack([source.random(_NUM_UNIFORM) for source in sources]))
    found = _Found(number=len(seeds))
    _draw_warp(found, even, sources, s)
    _draw_focus(found, even, s)
    _draw_brightness(found, even, sources, s)
    _draw_stripes(found, even, sources, s, patch_px)
    return Drawn(on_device=_uploaded(found.arrays, device), chosen=found.chosen, seeds=tuple(seeds))


class _Columns:
    """Hands out one uniform number a patch after the other, in a fixed order."""

    def __init__(self, numbers: np.ndarray) -> None:
        self._columns = iter(numbers.T)

    def between(self, low: float, high: float) -> np.ndarray:
        return next(self._columns) * (high - low) + low

    def chance(self, share: float) -> np.ndarray:
        return next(self._columns) < share


class _Found:
    def __init__(self, number: int) -> None:
        self.number = number
        self.arrays: dict[str, np.ndarray] = {}
        self.chosen: dict[str, list[int]] = {}

    def choose(self, name: str, is_chosen: np.ndarray) -> list[int]:
        """Note which patches an augmentation changes; an empty list where none."""
        places = np.flatnonzero(is_chosen)
        self.chosen[name] = places.tolist()
        if len(places):
            self.arrays[f"{name}.places"] = places
        return self.chosen[name]


def _draw_warp(
    found: _Found, even: _Columns, sources: Sequence[np.random.Generator], s: Strengths
) -> None:
    """Quarter turns, rotation, scale and flips; bent patches; a stage that drifts."""
    quarters, mirror = np.floor(even.between(0, 4)), even.chance(0.5)
    turn = even.between(-s.rotate, s.rotate) * math.radians(30) * even.chance(0.5)
    zoom = np.exp2(even.between(-s.scale, s.scale) * 0.4 * even.chance(0.5))
    sign = np.where(mirror & (s.flip > 0), -1.0, 1.0)
    angle = turn + quarters * (math.pi / 2) * (s.flip > 0)
    cosine, sine = np.cos(angle) * zoom, np.sin(angle) * zoom
    rows = [np.stack([cosine * sign, -sine], -1), np.stack([sine * sign, cosine], -1)]
    found.arrays["matrices"] = np.stack(rows, 1)
    if places := found.choose("elastic", even.chance(0.3) & (s.elastic > 0)):
        fields = [sources[n].standard_normal((2, _FIELD, _FIELD)) for n in places]
        found.arrays["elastic"] = 0.02 * s.elastic * np.stack(fields)
    slope = even.between(-0.06 * s.drift, 0.06 * s.drift) * even.chance(0.15)
    found.choose("drift", slope != 0)
    found.arrays["slope"] = slope


def _draw_focus(found: _Found, even: _Columns, s: Strengths) -> None:
    """Gaussian blur (spot size), a disc (defocus), or a detour over fewer pixels."""
    sigma = even.between(0.3, 1.6) * s.blur
    if places := found.choose("blur", even.chance(0.25) & (s.blur > 0)):
        found.arrays["blur"] = _gaussians(sigma[places])
    radius = even.between(1.0, 2.5) * s.defocus
    if places := found.choose("defocus", even.chance(0.08) & (s.defocus > 0)):
        found.arrays["defocus"] = _discs(radius[places])
    found.choose("low_resolution", even.chance(0.15 * min(1.0, s.low_resolution)))


def _draw_brightness(
    found: _Found, even: _Columns, sources: Sequence[np.random.Generator], s: Strengths
) -> None:
    """Contrast, brightness and gamma of each patch; uneven illumination; how much noise."""
    octaves = even.between(-s.contrast, s.contrast) * 0.75
    found.arrays["gain"] = np.exp2(octaves * even.chance(0.8))
    found.arrays["shift"] = even.between(-s.brightness, s.brightness) * 0.7 * even.chance(0.8)
    power = np.exp2(even.between(-s.gamma, s.gamma) * 0.7)
    if places := found.choose("gamma", even.chance(0.3) & (s.gamma > 0)):
        found.arrays["gamma"] = power[places]
    if places := found.choose("shading", even.chance(0.3) & (s.shading > 0)):
        fields = [sources[n].standard_normal((1, _SHADE, _SHADE)) for n in places]
        found.arrays["shading"] = 0.35 * s.shading * np.stack(fields)
    constant = even.between(0, 0.35 * s.noise) * even.chance(0.6)
    shot = even.between(0, 0.3 * s.noise) * even.chance(0.3)
    if places := found.choose("noise", constant + shot > 0):
        found.arrays["noise"] = np.stack([constant, shot], -1)[places] ** 2


def _draw_stripes(
    found: _Found,
    even: _Columns,
    sources: Sequence[np.random.Generator],
    s: Strengths,
    patch_px: int,
) -> None:
    """Ion-milling stripes, which run down the image and fade; rows that repeat the one above."""
    if places := found.choose("curtaining", even.chance(0.15) & (s.curtaining > 0)):
        across = [sources[n].standard_normal((1, 1, patch_px)) for n in places]
        found.arrays["curtaining"] = 0.3 * s.curtaining * np.stack(across)
        found.arrays["fade"] = np.stack([sources[n].random((1, _FADE, 1)) for n in places])
    if places := found.choose("missing_rows", even.chance(0.1) & (s.missing_rows > 0)):
        share = 0.01 * s.missing_rows
        lost = [sources[n].random((1, patch_px, 1)) < share for n in places]
        found.arrays["missing_rows"] = np.stack(lost)


def _gaussians(sigma_N: np.ndarray) -> np.ndarray:
    kernels = np.exp(-_squared_distance() / (2 * np.maximum(sigma_N, 0.05)[:, None, None] ** 2))
    return kernels / kernels.sum((1, 2), keepdims=True)


def _discs(radius_N: np.ndarray) -> np.ndarray:
    kernels = np.clip(radius_N[:, None, None] + 0.5 - np.sqrt(_squared_distance()), 0, 1)
    kernels[:, _RADIUS_PX, _RADIUS_PX] = 1
    return kernels / kernels.sum((1, 2), keepdims=True)


def _squared_distance() -> np.ndarray:
    line = np.arange(-_RADIUS_PX, _RADIUS_PX + 1, dtype=np.float64)
    return line[:, None] ** 2 + line[None] ** 2


def _uploaded(arrays: dict[str, np.ndarray], device: torch.device) -> dict[str, Tensor]:
    """Return all arrays on the device, as float32: one copy, which the host does not wait for."""
    flat = np.concatenate([array.ravel() for array in arrays.values()]).astype(np.float32)
    packed = torch.from_numpy(flat)
    if device.type == "cuda":
        packed = packed.pin_memory().to(device, non_blocking=True)
    parts = packed.split([array.size for array in arrays.values()])
    return {
        name: part.view(array.shape)
        for (name, array), part in zip(arrays.items(), parts, strict=True)
    }
