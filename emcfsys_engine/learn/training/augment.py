"""Augmentation of a whole batch on its device: one warp for image and labels, then grey values.

N patches, n of them chosen, C channels, H and W pixels. Grey values are z-scored: a strength is in
deviations. What happens to a patch depends on its own seed alone: chance is drawn on the processor
and uploaded in one copy, so that the same patch is changed alike on any device, beside any others
and by any number of processes. What is drawn for a pixel, noise, is drawn on the device. The host
never waits for the device to know it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from emcfsys_engine.project import UNLABELLED, Augmentation

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


_STANDARD = dict.fromkeys(Strengths.__struct_fields__, 1.0)
_PRESETS: dict[str, dict[str, float]] = {
    "none": {},
    "light": {"flip": 1.0, "rotate": 0.5, "scale": 0.5, "brightness": 0.5, "contrast": 0.5},
    "standard": _STANDARD,
    "strong": {**dict.fromkeys(_STANDARD, 1.5), "flip": 1.0},
}
_GEOMETRIC = frozenset({"flip", "rotate", "scale", "elastic", "drift"})
MARGIN = 1.5  # crops are this much larger than patches, so that rotation finds real pixels


def strengths_of(settings: Augmentation) -> Strengths:
    """Return the preset's strengths with the project's own laid over them."""
    own = {
        name: value
        for name in Strengths.__struct_fields__
        if (value := getattr(settings, name)) is not None
    }
    return Strengths(**{**_PRESETS[settings.preset], **own})


def augment(
    images_NCHW: Tensor,
    labels_NHW: Tensor,
    patch_px: int,
    strengths: Strengths,
    seeds: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Cut patches out of larger crops, warped, and change their grey values.

    Shapes: crops are N×C×M×M float32 and N×M×M uint8 (N×K×M×M with planes of objects),
    M ≥ patch_px; N×C×P×P float32 patches come out, centred, their labels int64. One seed a patch.
    Labels gain no value that was not there; what a warp brings in from outside is unlabelled.
    """
    drawn = draw(seeds, patch_px, strengths, images_NCHW.device)
    images, labels = _warped(images_NCHW, labels_NHW, patch_px, drawn)
    return _change_grey_values(images, drawn), labels


def two_views(
    images_NCHW: Tensor,
    labels_NHW: Tensor,
    patch_px: int,
    strengths: Strengths,
    seeds: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    """Cut and warp patches as `augment` does; return them with their own grey values, changed ones.

    Grey values change at least as the strong preset says: where both views are alike, nothing is
    learned from them. How far patches turn and stretch is as the strengths say.
    Shapes: as in `augment`, float32 twice; the last are the labels, int64, in the same place of
    both.
    """
    strong = Strengths(
        **{
            name: given if name in _GEOMETRIC else max(given, _PRESETS["strong"][name])
            for name, given in msgspec.structs.asdict(strengths).items()
        }
    )
    drawn = draw(seeds, patch_px, strong, images_NCHW.device)
    images, labels = _warped(images_NCHW, labels_NHW, patch_px, drawn)
    return images, _change_grey_values(images, drawn), labels


def _warped(
    images_NCHW: Tensor, labels_NHW: Tensor, patch_px: int, drawn: Drawn
) -> tuple[Tensor, Tensor]:
    grid = _warp_grid(images_NCHW, patch_px, drawn)
    images = F.grid_sample(
        images_NCHW, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )
    # One more, 255 becomes 0, which is what grid_sample fills the outside with; exact in fp32.
    has_planes = labels_NHW.ndim == images_NCHW.ndim
    shifted = (labels_NHW.to(torch.uint8) + 1).float()
    shifted = shifted if has_planes else shifted[:, None]
    warped = F.grid_sample(shifted, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    warped = warped if has_planes else warped[:, 0]
    return images, (warped.to(torch.int64) - 1) & UNLABELLED  # -1 is 255 again


def _warp_grid(crops_NCMM: Tensor, patch_px: int, drawn: Drawn) -> Tensor:
    """Return where each patch pixel comes from, N×P×P×2 (x, y), in -1…1 of the crop."""
    number, crop_px = crops_NCMM.shape[0], crops_NCMM.shape[-1]
    half = patch_px / crop_px
    line = (torch.arange(patch_px, device=crops_NCMM.device) + 0.5) / patch_px * 2 - 1
    y, x = torch.meshgrid(line * half, line * half, indexing="ij")
    base = torch.stack([x, y], dim=-1).expand(number, -1, -1, -1)
    grid = base @ drawn["matrices"].transpose(1, 2)[:, None]
    if drawn.chosen["elastic"]:  # bicubic fields are dear: only for the patches that are bent
        size = (patch_px, patch_px)
        bent = F.interpolate(drawn["elastic"], size=size, mode="bicubic", align_corners=True)
        grid = grid.index_add(0, drawn.places("elastic"), bent.movedim(1, -1))
    if drawn.chosen["drift"]:  # the stage moves during the scan: rows shift sideways, more and more
        shift = drawn["slope"][:, None] * line[None] * half
        grid = grid + torch.stack([shift, torch.zeros_like(shift)], -1)[:, :, None]
    return grid


def _change_grey_values(images: Tensor, drawn: Drawn) -> Tensor:
    images = _changed(images, drawn, "blur", lambda some: _filtered(some, drawn["blur"]))
    images = _changed(images, drawn, "defocus", lambda some: _filtered(some, drawn["defocus"]))
    images = _changed(images, drawn, "low_resolution", _coarsened)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    images = torch.addcmul(mean + _each(drawn["shift"]), images - mean, _each(drawn["gain"]))
    images = _changed(images, drawn, "gamma", lambda some: _with_gamma(some, drawn["gamma"]))
    images = _changed(images, drawn, "shading", lambda some: some + _shade(some, drawn))
    images = _changed(images, drawn, "curtaining", lambda some: some + _curtains(some, drawn))
    images = _changed(images, drawn, "noise", lambda some: some + _noise(some, drawn))
    return _changed(images, drawn, "missing_rows", lambda some: _with_missing_rows(some, drawn))


def _changed(images: Tensor, drawn: Drawn, name: str, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the images, of which those chosen for an augmentation are changed."""
    if not drawn.chosen[name]:
        return images
    if len(drawn.chosen[name]) == len(images):
        return change(images)
    places = drawn.places(name)
    return images.index_copy(0, places, change(images.index_select(0, places)))


def _each(numbers_N: Tensor) -> Tensor:
    return numbers_N[:, None, None, None]


def _filtered(images: Tensor, kernels_nKK: Tensor) -> Tensor:
    """Convolve each image with its own kernel."""
    number, channels, height, width = images.shape
    reach = kernels_nKK.shape[-1] // 2
    weight = kernels_nKK[:, None].expand(-1, channels, -1, -1).flatten(0, 1)[:, None]
    padded = F.pad(images.reshape(1, -1, height, width), (reach,) * 4, mode="replicate")
    return F.conv2d(padded, weight, groups=number * channels).reshape(images.shape)


def _coarsened(images: Tensor) -> Tensor:
    """Return what is left of images that were taken with half the pixels."""
    small = F.interpolate(
        images, size=[max(8, round(n * 0.5)) for n in images.shape[-2:]], mode="area"
    )
    return F.interpolate(small, size=images.shape[-2:], mode="bicubic")


def _with_gamma(images: Tensor, power_n: Tensor) -> Tensor:
    """Bend grey values between each patch's own darkest and brightest."""
    low = images.amin(dim=(1, 2, 3), keepdim=True)
    span = (images.amax(dim=(1, 2, 3), keepdim=True) - low).clamp_min(1e-3)
    return ((images - low) / span).clamp_min(1e-4) ** _each(power_n) * span + low


def _shade(images: Tensor, drawn: Drawn) -> Tensor:
    """Uneven illumination and charging: a smooth field of low order."""
    size = images.shape[-2:]
    return F.interpolate(drawn["shading"], size=size, mode="bicubic", align_corners=True)


def _curtains(images: Tensor, drawn: Drawn) -> Tensor:
    """Ion-milling stripes: they run down the image and vary across it."""
    across = F.avg_pool2d(drawn["curtaining"], (1, 5), 1, (0, 2)) * math.sqrt(5)
    size = (images.shape[-2], 1)
    return across * F.interpolate(drawn["fade"], size=size, mode="bilinear", align_corners=True)


def _noise(images: Tensor, drawn: Drawn) -> Tensor:
    """Detector noise: a part of constant size, and shot noise that grows with brightness."""
    low = images.amin(dim=(1, 2, 3), keepdim=True)
    constant, shot = drawn["noise"].unbind(1)
    variance = torch.addcmul(_each(constant), (images - low).clamp_min(0), _each(shot) / 2)
    rng = torch.Generator(images.device)
    noise = torch.empty_like(images)
    for own, number in zip(noise, drawn.chosen["noise"], strict=True):  # as no others would change
        rng.manual_seed(drawn.seeds[number])
        own.normal_(generator=rng)
    return noise * variance.sqrt()


def _with_missing_rows(images: Tensor, drawn: Drawn) -> Tensor:
    """Scan errors: single rows that repeat the row above."""
    return torch.where(drawn["missing_rows"] > 0, images.roll(1, dims=-2), images)
