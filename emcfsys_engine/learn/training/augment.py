"""Augmentation of a whole batch on its device: one warp for image and labels, then grey values.

N patches, n of them chosen, C channels, H and W pixels. Grey values are z-scored: a strength is in
deviations. What happens to a patch depends on its own seed alone (augment_draws.py); the host never
waits for the device to know it.
"""

import math
from collections.abc import Callable, Sequence

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor

from emcfsys_engine.learn.augment_draws import Drawn, Strengths, draw
from emcfsys_engine.project import UNLABELLED, Augmentation

__all__ = ["MARGIN", "Strengths", "augment", "strengths_of", "two_views"]

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

    Shapes: crops are N×C×M×M float and N×M×M uint8 (N×K×M×M with planes of objects), M ≥ patch_px;
    patches come out centred, their labels int64. One seed a patch.
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
    Shapes: as in `augment`; the last are the labels, in the same place of both.
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
