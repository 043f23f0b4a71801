# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Typed access to anomalib's batches."""

from typing import Any, cast

import torch
from anomalib.data import Batch, DatasetItem


def images_of(batch: Batch[Any] | DatasetItem[Any]) -> torch.Tensor:
    """Return the images of a batch, or the image of an item.

    anomalib declares every field as optional, but makes neither without images.

    Args:
        batch: A batch or an item of anomalib.

    Returns:
        Shape ``(B, 3, H, W)``, of an item ``(3, H, W)``.
    """
    return cast("torch.Tensor", batch.image)
