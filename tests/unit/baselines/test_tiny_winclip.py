# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""anomalib's WinCLIP over the bundled CLIP."""

import torch

from anople_anomalib.baselines import TinyWinClip


def test_a_reference_scores_lower_than_its_damaged_copy() -> None:
    model = TinyWinClip(class_name="object", visualizer=False).model.eval()
    reference = torch.rand(1, 3, 240, 240)
    damaged = reference.clone()
    damaged[..., 60:140, 60:140] = 3.0
    with torch.no_grad():
        model.setup("object", reference)
        own, other = model(reference), model(damaged)
    assert own.pred_score < other.pred_score
    assert own.anomaly_map.max() < other.anomaly_map.max()
