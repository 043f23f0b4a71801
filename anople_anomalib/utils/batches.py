# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Typed access to anomalib's batches."""

from typing import Any, cast

import torch
from anomalib.data import Batch


def images_of(batch: Batch[Any]) -> torch.Tensor:
    """Return the images of a batch.

    anomalib declares every field of a batch as optional, but makes no batch without images.

    Args:
        batch: A batch of anomalib.

    Returns:
        Shape ``(B, 3, H, W)``.
    """
    return cast("torch.Tensor", batch.image)
