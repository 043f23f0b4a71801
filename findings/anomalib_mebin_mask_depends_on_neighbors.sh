#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# anomalib's MEBinPostProcessor gives a part another mask when other parts are in its batch; the mildest of a batch has none.
#
# A good guess: a threshold "per image", as its page says, depends on that image: a part has one mask, whether it is tested
# in batches of 32 or judged alone at the line.
# Seen: the range of thresholds that is searched goes from the smallest to the largest of the batch's peaks. Whatever lies below the
# mildest part's peak is cut off in all of them, so that the mildest of a batch always gets an empty mask, a clear defect too. Alone, a part
# has a range of its own, down to its background. One part with a defect of 400 pixels: 2,698 of 4,096 pixels alone, none beside a worse
# part, 224 among three, 845 when a good part is added. Nothing is logged.
# Who is hurt: whoever measures masks by a test in batches and then judges part by part, changes the batch size, or has a last, shorter
# batch: every area and every pixel metric is that of the company a part was in.
# anomalib 2.7.0 (post_processing/mebin.py, mebin_binarize; the post-processor's forward and its hooks alike).
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/environment"
"$work/environment/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 torchvision==0.29.1
"$work/environment/bin/pip" install --quiet --disable-pip-version-check anomalib==2.7.0 scipy==1.17.1
cd "$work"
"$work/environment/bin/python" -W ignore - 2> "$work/log.txt" <<'PYTHON' || { tail -20 "$work/log.txt"; exit 1; }
from importlib.metadata import version

import numpy as np
import torch
from anomalib.data import InferenceBatch
from anomalib.post_processing import MEBinPostProcessor
from scipy.ndimage import gaussian_filter

print("anomalib", version("anomalib"), "torch", version("torch"))


def anomaly_map(peak: float, left: int) -> torch.Tensor:
    """A soft blot of 20 x 20 pixels on faint noise."""
    blot = np.zeros((64, 64), np.float32)
    blot[20:40, left : left + 20] = 1
    blot = gaussian_filter(blot, 3)
    noise = 0.05 * np.random.default_rng(left).random((64, 64), dtype=np.float32)
    return torch.tensor(blot / blot.max() * peak + noise)


parts = {"worst": anomaly_map(0.9, 10), "worse": anomaly_map(0.8, 30), "mild": anomaly_map(0.6, 15), "good": anomaly_map(0.0, 25)}
processor = MEBinPostProcessor(enable_normalization=False)


def areas(*names: str) -> dict[str, int]:
    """Pixels of the masks of parts that are judged together."""
    maps = torch.stack([parts[name] for name in names])
    masks = processor(InferenceBatch(anomaly_map=maps, pred_score=maps.amax((-1, -2)))).pred_mask
    found = dict(zip(names, masks.flatten(1).sum(1).tolist(), strict=True))
    print("judged together:", found)
    return found


alone, pair = areas("worse"), areas("worst", "worse")
three, four = areas("worst", "worse", "mild"), areas("worst", "worse", "mild", "good")
seen = [batch["worse"] for batch in (alone, pair, three, four)]
assert areas("mild")["mild"] > 400 and three["mild"] == 0  # a clear defect, but the mildest of its batch
assert seen[1] == 0 < seen[2] < seen[3] / 2 < seen[0] / 4
PYTHON
