# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""How the weights are optimized (section 6.2 of the AnoPLe paper)."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler

_WARMUP_FRACTION = 0.1  # of all steps: linear, from 0


def sgd_with_warmup(groups: Sequence[dict[str, Any]], steps: float) -> OptimizerLRScheduler:
    """Make SGD with momentum, whose rates rise linearly over the first tenth of the steps.

    Args:
        groups: Parameters and their learning rates, as ``torch.optim`` takes them.
        steps: Number of steps of the training run; infinity for no warm-up.

    Returns:
        Optimizer and scheduler, as Lightning takes them.
    """
    optimizer = torch.optim.SGD(groups, momentum=0.9, weight_decay=1e-5)
    warmup = max(1, int(_WARMUP_FRACTION * steps)) if steps != float("inf") else 1
    # step i of the warm-up has i / warmup of the rate, i from 1: no step is wasted at 0
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup - 1)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
