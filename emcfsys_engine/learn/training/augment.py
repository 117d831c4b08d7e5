"""Augmentation of a whole batch on its device: one warp for image and labels, then grey values.

N patches, C channels, H and W pixels. Grey values are z-scored: a strength is in deviations.
Every draw comes from one generator, seeded by the step: the same step gives the same batch.
"""

import math

import msgspec
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from emcfsys_engine.project import UNLABELLED, Augmentation


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


_STANDARD = dict.fromkeys(Strengths.__struct_fields__, 1.0)
_PRESETS: dict[str, dict[str, float]] = {
    "none": {},
    "light": {"flip": 1.0, "rotate": 0.5, "scale": 0.5, "brightness": 0.5, "contrast": 0.5},
    "standard": _STANDARD,
    "strong": {**dict.fromkeys(_STANDARD, 1.5), "flip": 1.0},
}
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
    images_NCHW: Tensor, labels_NHW: Tensor, patch_px: int, strengths: Strengths, rng: Generator
) -> tuple[Tensor, Tensor]:
    """Cut patches out of larger crops, warped, and change their grey values.

    Shapes: crops are N×C×M×M float and N×M×M int64, M ≥ patch_px; patches come out centred.
    Labels gain no value that was not there; what a warp brings in from outside is unlabelled.
    """
    grid = _warp_grid(images_NCHW, patch_px, strengths, rng)
    images = F.grid_sample(
        images_NCHW, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )
    # Shifted by one, 0 stands for "outside": grid_sample fills with zeros, in fp32 exactly.
    shifted = torch.where(labels_NHW == UNLABELLED, 0, labels_NHW + 1)[:, None].float()
    warped = F.grid_sample(shifted, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    labels = warped[:, 0].to(torch.int64) - 1
    labels = torch.where(labels < 0, UNLABELLED, labels)
    return _change_grey_values(images, strengths, rng), labels


def _warp_grid(crops_NCMM: Tensor, patch_px: int, s: Strengths, rng: Generator) -> Tensor:
    """Return where each patch pixel comes from, N×P×P×2 (x, y), in -1…1 of the crop."""
    number, crop_px = crops_NCMM.shape[0], crops_NCMM.shape[-1]
    device = crops_NCMM.device
    half = patch_px / crop_px
    line = (torch.arange(patch_px, device=device) + 0.5) / patch_px * 2 - 1
    y, x = torch.meshgrid(line * half, line * half, indexing="ij")
    base = torch.stack([x, y], dim=-1).expand(number, -1, -1, -1)
    grid = base @ _matrices(number, s, rng, device).transpose(1, 2)[:, None]
    if s.elastic:
        chosen = _chance(number, 0.3, rng, device).bool()
        coarse = torch.randn(number, 2, 5, 5, generator=rng, device=device)
        if chosen.any():  # bicubic fields are dear: only for the patches that are bent
            size = (patch_px, patch_px)
            field = F.interpolate(coarse[chosen], size=size, mode="bicubic", align_corners=True)
            grid[chosen] += 0.02 * s.elastic * field.movedim(1, -1)
    if s.drift:  # the stage moves during the scan: rows shift sideways, more and more
        chosen = _chance(number, 0.15, rng, device)
        slope = _uniform(number, -0.06 * s.drift, 0.06 * s.drift, rng, device) * chosen
        shift = slope[:, None] * line[None] * half
        grid = grid + torch.stack([shift, torch.zeros_like(shift)], -1)[:, :, None]
    return grid


def _matrices(number: int, s: Strengths, rng: Generator, device: torch.device) -> Tensor:
    """Return N 2×2 matrices: quarter turns, rotation, scale and flips."""
    angle = torch.zeros(number, device=device)
    if s.flip:
        quarters = torch.randint(0, 4, (number,), generator=rng, device=device)
        angle = angle + quarters * (math.pi / 2)
    if s.rotate:
        turn = _uniform(number, -s.rotate, s.rotate, rng, device) * math.radians(30)
        angle = angle + turn * _chance(number, 0.5, rng, device)
    zoom = torch.ones(number, device=device)
    if s.scale:
        octaves = _uniform(number, -s.scale, s.scale, rng, device) * 0.4
        zoom = torch.exp2(octaves * _chance(number, 0.5, rng, device))
    mirror = torch.ones(number, device=device)
    if s.flip:
        mirror = 1 - 2 * _chance(number, 0.5, rng, device)
    cosine, sine = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    rows = [torch.stack([cosine * mirror, -sine], -1), torch.stack([sine * mirror, cosine], -1)]
    return torch.stack(rows, 1)


def _change_grey_values(images: Tensor, s: Strengths, rng: Generator) -> Tensor:
    number, device = images.shape[0], images.device
    images = _blurred(images, s, rng)
    if s.contrast:
        octaves = _uniform(number, -s.contrast, s.contrast, rng, device) * 0.75
        gain = torch.exp2(octaves * _chance(number, 0.8, rng, device))
        mean = images.mean(dim=(1, 2, 3), keepdim=True)
        images = (images - mean) * gain[:, None, None, None] + mean
    if s.brightness:
        shift = _uniform(number, -s.brightness, s.brightness, rng, device) * 0.7
        shift = shift * _chance(number, 0.8, rng, device)
        images = images + shift[:, None, None, None]
    if s.gamma:
        images = _with_gamma(images, s.gamma, rng)
    if s.shading:
        images = _with_shading(images, s.shading, rng)
    if s.curtaining:
        images = images + _curtains(images, s.curtaining, rng)
    if s.noise:
        images = images + _noise(images, s.noise, rng)
    if s.missing_rows:
        images = _with_missing_rows(images, s.missing_rows, rng)
    return images


def _with_gamma(images: Tensor, strength: float, rng: Generator) -> Tensor:
    """Bend grey values between each patch's own darkest and brightest."""
    number, device = images.shape[0], images.device
    octaves = _uniform(number, -strength, strength, rng, device) * 0.7
    power = torch.exp2(octaves * _chance(number, 0.3, rng, device))[:, None, None, None]
    low = images.amin(dim=(1, 2, 3), keepdim=True)
    span = (images.amax(dim=(1, 2, 3), keepdim=True) - low).clamp_min(1e-3)
    return ((images - low) / span).clamp_min(1e-4) ** power * span + low


def _with_shading(images: Tensor, strength: float, rng: Generator) -> Tensor:
    """Uneven illumination and charging: a smooth field of low order."""
    number, device = images.shape[0], images.device
    coarse = torch.randn(number, 1, 3, 3, generator=rng, device=device)
    chosen = _chance(number, 0.3, rng, device).bool()
    if not chosen.any():
        return images
    size = images.shape[-2:]
    field = F.interpolate(coarse[chosen], size=size, mode="bicubic", align_corners=True)
    images = images.clone()
    images[chosen] += 0.35 * strength * field
    return images


def _curtains(images: Tensor, strength: float, rng: Generator) -> Tensor:
    """Ion-milling stripes: they run down the image and vary across it."""
    number, width = images.shape[0], images.shape[-1]
    device = images.device
    across = torch.randn(number, 1, 1, width, generator=rng, device=device)
    across = F.avg_pool2d(across, (1, 5), 1, (0, 2)) * math.sqrt(5)
    fade = torch.rand(number, 1, 4, 1, generator=rng, device=device)
    fade = F.interpolate(fade, size=(images.shape[-2], 1), mode="bilinear", align_corners=True)
    size = 0.3 * strength * _chance(number, 0.15, rng, device)
    return size[:, None, None, None] * across * fade


def _noise(images: Tensor, strength: float, rng: Generator) -> Tensor:
    """Detector noise: a part of constant size, and shot noise that grows with brightness."""
    number, device = images.shape[0], images.device
    constant = _uniform(number, 0, 0.35 * strength, rng, device) * _chance(number, 0.6, rng, device)
    shot = _uniform(number, 0, 0.3 * strength, rng, device) * _chance(number, 0.3, rng, device)
    low = images.amin(dim=(1, 2, 3), keepdim=True)
    brightness = ((images - low) / 2).clamp_min(0)
    variance = constant[:, None, None, None] ** 2 + shot[:, None, None, None] ** 2 * brightness
    drawn = torch.randn(images.shape, generator=rng, device=device)
    return drawn * variance.sqrt()


def _with_missing_rows(images: Tensor, strength: float, rng: Generator) -> Tensor:
    """Scan errors: single rows that repeat the row above."""
    number, height = images.shape[0], images.shape[-2]
    device = images.device
    share = 0.01 * strength * _chance(number, 0.1, rng, device)
    lost = torch.rand(number, height, generator=rng, device=device) < share[:, None]
    above = images.roll(1, dims=-2)
    return torch.where(lost[:, None, :, None], above, images)


def _blurred(images: Tensor, s: Strengths, rng: Generator) -> Tensor:
    """Gaussian blur (spot size), a disc (defocus), or a detour over fewer pixels."""
    number, device = images.shape[0], images.device
    if s.blur:
        sigma = _uniform(number, 0.3, 1.6, rng, device) * s.blur
        sigma = sigma * _chance(number, 0.25, rng, device)
        images = _filtered(images, _gaussians(sigma))
    if s.defocus:
        radius = _uniform(number, 1.0, 2.5, rng, device) * s.defocus
        radius = radius * _chance(number, 0.08, rng, device)
        images = _filtered(images, _discs(radius))
    if s.low_resolution:
        chosen = _chance(number, 0.15 * min(1.0, s.low_resolution), rng, device).bool()
        if chosen.any():
            size = [max(8, round(n * 0.5)) for n in images.shape[-2:]]
            small = F.interpolate(images[chosen], size=size, mode="area")
            images = images.clone()
            images[chosen] = F.interpolate(small, size=images.shape[-2:], mode="bicubic")
    return images


_RADIUS_PX = 5


def _gaussians(sigma_N: Tensor) -> Tensor:
    square_KK = _squared_distance(sigma_N.device)
    kernels = torch.exp(-square_KK / (2 * sigma_N.clamp_min(0.05)[:, None, None] ** 2))
    return kernels / kernels.sum(dim=(1, 2), keepdim=True)


def _discs(radius_N: Tensor) -> Tensor:
    distance_KK = _squared_distance(radius_N.device).sqrt()
    kernels = (radius_N[:, None, None] + 0.5 - distance_KK).clamp(0, 1)
    kernels[:, _RADIUS_PX, _RADIUS_PX] = 1
    return kernels / kernels.sum(dim=(1, 2), keepdim=True)


def _squared_distance(device: torch.device) -> Tensor:
    line = torch.arange(-_RADIUS_PX, _RADIUS_PX + 1, device=device, dtype=torch.float32)
    return line[:, None] ** 2 + line[None] ** 2


def _filtered(images: Tensor, kernels_NKK: Tensor) -> Tensor:
    """Convolve each image that needs it with its own kernel."""
    changed = kernels_NKK[:, _RADIUS_PX, _RADIUS_PX] < 0.999
    if not changed.any():
        return images
    some = images[changed]
    number, channels, height, width = some.shape
    weight = kernels_NKK[changed].repeat_interleave(channels, 0)[:, None]
    padded = F.pad(some.reshape(1, -1, height, width), (_RADIUS_PX,) * 4, mode="replicate")
    filtered = F.conv2d(padded, weight, groups=number * channels).reshape(some.shape)
    images = images.clone()
    images[changed] = filtered
    return images


def _uniform(number: int, low: float, high: float, rng: Generator, device: torch.device) -> Tensor:
    return torch.rand(number, generator=rng, device=device) * (high - low) + low


def _chance(number: int, share: float, rng: Generator, device: torch.device) -> Tensor:
    """Return 1 for about a `share` of the patches, else 0."""
    return (torch.rand(number, generator=rng, device=device) < share).float()
