"""The training loop that an engineer writes in an afternoon, to stand beside ours in a bench.

smp's U-Net, albumentations (an extra package, not a dependency), a DataLoader, AdamW, fp32. Every
item is read, cropped and augmented in worker processes, as the libraries' tutorials show it.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import segmentation_models_pytorch as smp
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset


class _Pairs(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Random augmented patches of image and mask files, for ever."""

    def __init__(self, files: Sequence[tuple[Path, Path]], patch_px: int) -> None:
        import albumentations

        self.files = files
        self.cut: Any = albumentations.Compose(
            [
                albumentations.RandomCrop(patch_px, patch_px),
                albumentations.Affine(scale=(0.75, 1.33), rotate=(-30, 30), p=0.5),
                albumentations.D4(p=1),
                albumentations.ElasticTransform(p=0.3),
                albumentations.RandomBrightnessContrast(0.3, 0.3, p=0.8),
                albumentations.RandomGamma(p=0.3),
                albumentations.GaussNoise(p=0.6),
                albumentations.GaussianBlur(p=0.25),
            ]
        )

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image_file, mask_file = self.files[index % len(self.files)]
        pair = {
            "image": np.asarray(Image.open(image_file)),
            "mask": np.asarray(Image.open(mask_file)),
        }
        cut = self.cut(**pair)
        image = torch.from_numpy(cut["image"].astype(np.float32))[None]
        return (image - image.mean()) / (image.std() + 1e-6), torch.from_numpy(cut["mask"]).long()


class AfternoonLoop:
    """Its steps, timed a few at a time."""

    def __init__(
        self,
        files: Sequence[tuple[Path, Path]],
        *,
        backbone: str,
        num_classes: int,
        patch_px: int,
        batch: int,
    ) -> None:
        self.network = smp.Unet(
            f"tu-{backbone}", encoder_weights=None, in_channels=1, classes=num_classes
        ).train()
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-4)
        self.dice = smp.losses.DiceLoss("multiclass")
        loader = DataLoader(_Pairs(files, patch_px), batch_size=batch, num_workers=2, shuffle=False)
        self.batches: Iterator[list[torch.Tensor]] = iter(loader)

    def time(self, steps: int) -> float:
        """Return how long some steps take, in seconds."""
        started = time.perf_counter()
        for _ in range(steps):
            images, labels = next(self.batches)
            logits = self.network(images)
            loss = torch.nn.functional.cross_entropy(logits, labels) + self.dice(logits, labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return time.perf_counter() - started

    def close(self) -> None:
        """End the worker processes."""
        del self.batches
