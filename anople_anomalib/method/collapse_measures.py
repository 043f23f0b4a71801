# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Two numbers that tell a sound training step from one whose texts or whose decoder have collapsed."""

import torch

from anople_anomalib.backbones.outputs import TrainingOutput


@torch.no_grad()
def measure_soundness(output: TrainingOutput) -> dict[str, torch.Tensor]:
    """Measure how far apart the texts are, and the values of the decoder's map.

    Where w+ and w- are the same, no feature can be told to be nearer to one of them: (7) and (8) are one half
    everywhere. A decoder that gives all pixels one value leaves the fused map (12) a copy of the memory's.

    Args:
        output: Of a training step.

    Returns:
        ``text_cosine``, the cosine of w+ and w-, in [-1, 1]; with a decoder also ``map_spread``, the largest minus the
        smallest value of M_hat over all views, in [0, 1]. Scalars.
    """
    normal_text, abnormal_text = output.text_features.float()  # (w+, w-), L2-normalized
    numbers = {"text_cosine": normal_text @ abnormal_text}
    if output.pixel_logits is not None:
        abnormal = output.pixel_logits.float().softmax(dim=1)[:, 1]  # M_hat, (V, h, w)
        numbers["map_spread"] = abnormal.max() - abnormal.min()
    return numbers
