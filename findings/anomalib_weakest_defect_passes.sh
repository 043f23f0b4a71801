#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# anomalib's adaptive threshold is the score of the weakest known defect, and that defect is then called good.
#
# A good guess: a threshold fitted for the largest F1 score lies between the good parts and the defects, or else the defect that it was
# taken from counts as found, as in the curve of precision and recall (`score >= threshold`); F1Max and F1Score of one set then agree.
# Seen: `F1AdaptiveThreshold` returns the lowest score that still counts as a defect, and the post-processor asks for MORE than that:
# `score > threshold`. Normalized, that part is 0.5 exactly, label "normal". Good parts at 1 to 3, defects at 7, 8 and 9: the one at 7 passes,
# although any threshold above 3 and below 7 tells them apart without a fault. With one known defect none is found: F1Max 1, F1Score 0.
# Who is hurt: a plant with a handful of known defects, whose threshold always gives up one of them, the one nearest to the good parts; and
# whoever reads F1Max as what the shipped threshold does.
# What helps: a threshold midway between that score and the next lower one.
# anomalib 2.7.0 (metrics/threshold/f1_adaptive_threshold.py; post_processing/post_processor.py, _apply_threshold), torchmetrics 1.9.0.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/environment"
"$work/environment/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 torchvision==0.29.1
"$work/environment/bin/pip" install --quiet --disable-pip-version-check anomalib==2.7.0 torchmetrics==1.9.0
cd "$work"
"$work/environment/bin/python" -W ignore - 2> "$work/log.txt" <<'PYTHON' || { tail -20 "$work/log.txt"; exit 1; }
from importlib.metadata import version

import torch
from anomalib.data import ImageBatch
from anomalib.metrics import F1Max, F1Score
from anomalib.post_processing import PostProcessor

print("anomalib", version("anomalib"), "torch", version("torch"))


def judge(good: list[float], defective: list[float]) -> tuple[list[bool], float, float]:
    """Fit the threshold to parts and judge the same parts: labels, F1Max and F1Score."""

    def batch() -> ImageBatch:
        labels = torch.tensor([False] * len(good) + [True] * len(defective))
        return ImageBatch(image=torch.zeros(len(labels), 3, 8, 8), pred_score=torch.tensor(good + defective), gt_label=labels)

    processor = PostProcessor()
    processor.on_validation_batch_end(None, None, batch())
    processor.on_validation_epoch_end(None, None)
    judged = batch()
    processor.on_test_batch_end(None, None, judged)
    best, real = F1Max(fields=["pred_score", "gt_label"]), F1Score(fields=["pred_label", "gt_label"])
    best.update(judged)
    real.update(judged)
    print(f"good {good}, defective {defective}: threshold {processor.image_threshold.item()}")
    print("  normalized", judged.pred_score.tolist(), "defective:", judged.pred_label.tolist())
    print(f"  F1Max {best.compute():.2f}, F1Score {real.compute():.2f}")
    return judged.pred_label.tolist(), float(best.compute()), float(real.compute())


labels, best, real = judge([1.0, 2.0, 3.0], [7.0, 8.0, 9.0])
assert labels == [False, False, False, False, True, True] and best == 1 and abs(real - 0.8) < 1e-6
labels, best, real = judge([1.0, 2.0, 3.0], [9.0])
assert not any(labels) and best == 1 and real == 0
PYTHON
