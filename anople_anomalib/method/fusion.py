# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Fusion of the prompt-guided and the memory-guided anomaly maps (section 3.5 of the AnoPLe paper)."""

import torch


def fuse(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Fuse harmonically, ``1 / (1 / a + 1 / b)``, equations (12) and (14).

    Written as ``a * (b / (a + b))``, which is 0 where both inputs are 0 and keeps small half-precision values from
    vanishing, as ``a * b`` would.

    Args:
        first: Any shape, values in [0, 1].
        second: A shape that broadcasts with ``first``, values in [0, 1].

    Returns:
        The fused values in [0, 0.5], never NaN.
    """
    total = first + second
    return first * (second / total.clamp_min(torch.finfo(total.dtype).tiny))


def image_score(abnormal_probability: torch.Tensor, anomaly_map: torch.Tensor) -> torch.Tensor:
    """Compute the image-level anomaly score, equation (14).

    Args:
        abnormal_probability: p_hat of equation (8), shape ``(B,)``, values in [0, 1].
        anomaly_map: M_q of equation (12), shape ``(B, H, W)``, values in [0, 1].

    Returns:
        Scores of shape ``(B,)``, values in [0, 0.5].
    """
    return fuse(abnormal_probability, anomaly_map.flatten(1).amax(dim=1))
