# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""A training step: its views of normal and of damaged images, and how the weights are optimized (section 6.2)."""

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from lightning.pytorch import Callback
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from torchvision.transforms.v2 import Transform

from anople_anomalib.method.torch_model import AnoPLeModel
from anople_anomalib.method.views import cut_masks, cut_views
from anople_anomalib.utils.transforms import pointwise

_WARMUP_FRACTION = 0.1  # of all steps: linear, from 0


def sgd_with_warmup(groups: Sequence[dict[str, Any]], steps: float) -> OptimizerLRScheduler:
    """Make SGD with momentum, whose rates rise linearly over the first tenth of a finite number of steps."""
    optimizer = torch.optim.SGD(groups, momentum=0.9, weight_decay=1e-5)
    warmup = max(1, int(_WARMUP_FRACTION * steps)) if steps != float("inf") else 1
    # step i of the warm-up has i / warmup of the rate, i from 1: no step is wasted at 0
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup - 1)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def simulated_views(
    model: AnoPLeModel,
    simulator: nn.Module | None,
    transform: Transform | None,
    images: torch.Tensor,
    regions: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Damage images, cut them into views and normalize those, in this order.

    Args:
        model: The model, which knows sizes, tiles, region and the number of views.
        simulator: Damages images before they are normalized; ``None`` to leave them as they are.
        transform: What the pre-processor does to an image; without its resizing it is done to the views.
        images: Normal images of shape ``(B, 3, H, W)``, values in [0, 1].
        regions: Regions of these images, where each has its own.

    Returns:
        Views of shape ``(B', V, 3, h, w)``, B' being 2 B for pairs of whole and damaged images, and their masks of
        shape ``(B' * V, h, w)``, 1 where anomalous. Both are 0 outside of the region.
    """
    size, multi_view = model.image_size, model.num_views > 1
    images, inside = model.training_images(images, regions)
    if simulator is None:
        masks = images.new_zeros(len(images), 1, *images.shape[-2:])
    else:
        images, masks = simulator(images)
    views, cut = cut_views(images, size, multi_view), cut_masks(masks, size, multi_view)
    for part in pointwise(transform):
        views = part(views)
    if inside is not None:
        seen = cut_masks(inside, size, multi_view).repeat(len(views) // len(inside), 1, 1, 1)  # (B', V, h, w)
        views, cut = views * seen.unsqueeze(2), cut * seen
    return views, rearrange(cut, "b v h w -> (b v) h w")


class EvaluationPreProcessing(Callback):
    """Callback that runs anomalib's pre-processor at evaluation only.

    A training image is damaged and cut at twice the model's resolution, before it is resized and normalized.

    Args:
        pre_processor: The model's pre-processor.
    """

    def __init__(self, pre_processor: Callback) -> None:
        self.pre_processor = pre_processor

    def on_validation_batch_start(self, *args: Any, **kwargs: Any) -> None:
        """Transform a validation batch."""
        self.pre_processor.on_validation_batch_start(*args[:4], **kwargs)

    def on_test_batch_start(self, *args: Any, **kwargs: Any) -> None:
        """Transform a test batch."""
        self.pre_processor.on_test_batch_start(*args, **kwargs)

    def on_predict_batch_start(self, *args: Any, **kwargs: Any) -> None:
        """Transform a batch to predict."""
        self.pre_processor.on_predict_batch_start(*args, **kwargs)
