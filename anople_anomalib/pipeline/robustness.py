# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Test images as another day on the line would show them: another lamp, out of focus, JPEG, glare, a shifted part.

Sizes are shares of the image's side, so that models of different resolutions see the same.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from types import MappingProxyType

import torch
from anomalib.data import ImageBatch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as tv_functional

from .settings import CORRUPTIONS

SEVERITIES = (1, 2, 3, 4, 5)
ROBUST_METRICS = ("image_AUROC", "pixel_AUROC")
"""Metrics of tests under corruptions; a name such as ``"image_AUROC@blur3"`` holds kind and severity, too."""
AT = "@"
_TINT = (0.05, 0.09, 0.13)  # share of red, green and blue that a lamp loses with each step: darker, and warmer
_SIGMA, _GLARE, _RADIUS, _SHIFT = 0.004, 0.2, 0.15, 0.02
_QUALITY = (60, 45, 30, 20, 10)


def lamp(images: torch.Tensor, severity: int) -> torch.Tensor:
    """Light images of shape ``(B, 3, H, W)`` by a darker and warmer lamp."""
    return images * (1 - severity * images.new_tensor(_TINT)).reshape(3, 1, 1)


def blur(images: torch.Tensor, severity: int) -> torch.Tensor:
    """Put images out of focus."""
    sigma = severity * _SIGMA * min(images.shape[-2:])
    return tv_functional.gaussian_blur(images, kernel_size=[2 * round(3 * sigma) + 1] * 2, sigma=[sigma] * 2)


def jpeg(images: torch.Tensor, severity: int) -> torch.Tensor:
    """Compress images."""
    pixels = (images * 255).round().clamp(0, 255).byte().cpu()
    return (tv_functional.jpeg(pixels, _QUALITY[severity - 1]).float() / 255).to(images)


def glare(images: torch.Tensor, severity: int) -> torch.Tensor:
    """Reflect a lamp on the upper right of the part."""
    height, width = images.shape[-2:]
    y = (torch.arange(height, device=images.device) / height - 0.3).unsqueeze(1)
    x = torch.arange(width, device=images.device) / width - 0.7
    return (images + severity * _GLARE * torch.exp(-(x**2 + y**2) / (2 * _RADIUS**2))).clamp(max=1)


def shift(images: torch.Tensor, severity: int) -> torch.Tensor:
    """Move the part down and to the right, mirrored at the border; of masks, shape ``(B, 1, H, W)``, alike."""
    down, right = (round(severity * _SHIFT * side) for side in images.shape[-2:])
    return F.pad(images, [right, 0, down, 0], mode="reflect")[..., : images.shape[-2], : images.shape[-1]]


KINDS: Mapping[str, Callable[[torch.Tensor, int], torch.Tensor]] = MappingProxyType(
    dict(zip(CORRUPTIONS, (lamp, blur, jpeg, glare, shift), strict=True))
)


class Corruption(Callback):
    """Corrupts the images of a test before the pre-processor sees them.

    Attributes:
        kind: One of :data:`KINDS`; ``None`` leaves images as they are.
        severity: One of :data:`SEVERITIES`.
    """

    kind: str | None = None
    severity: int = 1

    def metrics(self, kinds: Sequence[str], test: Callable[[], Mapping[str, float]]) -> dict[str, float]:
        """Return :data:`ROBUST_METRICS` of the function ``test`` by kind and severity: nothing is trained anew."""
        found = {}
        for self.kind, self.severity in product(kinds, SEVERITIES):
            for name, value in test().items():
                if name.rpartition("/")[-1] in ROBUST_METRICS:
                    found[f"{name}{AT}{self.kind}{self.severity}"] = value
        return found

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: ImageBatch, *_: int, **__: int
    ) -> None:
        """Corrupt a batch; where the part moves, its mask moves, too."""
        del trainer, pl_module
        if self.kind is None or batch.image is None:
            return
        batch.image = KINDS[self.kind](batch.image, self.severity)
        if self.kind == "shift" and batch.gt_mask is not None:
            masks = batch.gt_mask
            batch.gt_mask = shift(masks.unsqueeze(1).float(), self.severity).squeeze(1).to(masks.dtype)
