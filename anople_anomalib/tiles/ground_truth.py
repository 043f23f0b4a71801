# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The ground truth within the region of interest, which alone is judged."""

from typing import Any

import torch
from anomalib.data import Batch

from .region import Region, at_size


def within_region(batch: Batch[Any], regions: Region | torch.Tensor) -> Batch[Any]:
    """Take what is outside of the region out of the ground truth of a batch.

    An image whose mask has nothing left is a normal one: its defect is none of the region's. Labels without masks stay.

    Args:
        batch: A batch with whatever ground truth there is.
        regions: The region of all images, or those of each, shape ``(B, 1, H, W)``.

    Returns:
        The batch.
    """
    truth = getattr(batch, "gt_mask", None)
    if truth is None or (isinstance(regions, Region) and not regions):
        return batch
    size = (int(truth.shape[-2]), int(truth.shape[-1]))
    inside = regions(size) if isinstance(regions, Region) else at_size(regions, size)
    left = truth.bool() & inside.squeeze(1)
    emptied = truth.flatten(1).any(dim=1) & ~left.flatten(1).any(dim=1)
    label = getattr(batch, "gt_label", None)
    return batch.update(gt_mask=left, gt_label=None if label is None else label.bool() & ~emptied)
