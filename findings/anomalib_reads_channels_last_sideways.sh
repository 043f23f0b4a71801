#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# anomalib's PatchCore takes a Swin or MambaOut of timm as backbone, and reads its channels as columns of the image.
#
# A good guess: `Patchcore(backbone="swinv2_tiny_window8_256", layers=["layers.1", "layers.2"])` either works as with a ResNet or is an error:
# anomalib finds the layers by name, and timm tells their channels.
# Seen: timm hands out the features of these families as (B, H, W, C), all others as (B, C, H, W), and anomalib's extractor promises the
# latter and does not look. Rows become channels, columns become rows, channels become columns. Training ends well; a "patch" has 48 numbers
# instead of 576, and the map has the right size. A defect at the upper right is shown as a band across the whole width, lower down:
# at the height that is its distance from the left edge.
# Who is hurt: whoever compares backbones: these lose for a reason that is not theirs; pixel metrics and heat maps point to good places.
# What helps: `timm.create_model(..., features_only=True).output_fmt` is "NHWC" for them, and absent for the others.
# anomalib 2.7.0 (models/components/feature_extractors/timm.py, forward), timm 1.0.31; PaDiM, STFPM and others use the same extractor.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/environment"
"$work/environment/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 torchvision==0.29.1
"$work/environment/bin/pip" install --quiet --disable-pip-version-check anomalib==2.7.0 timm==1.0.31
cd "$work"
"$work/environment/bin/python" -W ignore - 2> "$work/log.txt" <<'PYTHON' || { tail -20 "$work/log.txt"; exit 1; }
from importlib.metadata import version

import torch
from anomalib.models.image.patchcore.torch_model import PatchcoreModel

print("anomalib", version("anomalib"), "timm", version("timm"), "torch", version("torch"))
torch.manual_seed(0)
good = torch.rand(1, 3, 256, 256)
bad = good.clone()
bad[..., 32:64, 192:224] = 3.0  # rows 32 to 63, columns 192 to 223


def hot_area(backbone: str, layers: list[str]) -> tuple[range, range]:
    """Teach PatchCore the good image, judge the bad one: rows and columns where the map is above its middle."""
    torch.manual_seed(0)
    model = PatchcoreModel(backbone=backbone, layers=layers, pre_trained=False, num_neighbors=1)
    model.train()
    model.memory_bank = model(good)  # all its patches, without thinning
    model.eval()
    with torch.no_grad():
        anomaly_map = model(bad).anomaly_map[0, 0]
        rows, columns = torch.nonzero(anomaly_map > (anomaly_map.max() + anomaly_map.min()) / 2, as_tuple=True)
    spans = [range(int(each.min()), int(each.max()) + 1) for each in (rows, columns)]
    shapes = [tuple(feature.shape) for feature in model.feature_extractor(good).values()]
    print(f"{backbone}: features {shapes}, told channels {model.feature_extractor.out_dims}, numbers a patch {model.memory_bank.shape[1]}")
    print(f"  map {tuple(anomaly_map.shape)} is hot in rows {spans[0]}, columns {spans[1]}")
    return spans[0], spans[1]


rows, columns = hot_area("resnet18", ["layer2", "layer3"])
assert 16 <= rows[0] and rows[-1] < 80 and 176 <= columns[0] and columns[-1] < 240
for backbone, layers in (("mambaout_femto", ["stages.1", "stages.2"]), ("swinv2_tiny_window8_256", ["layers.1", "layers.2"])):
    rows, columns = hot_area(backbone, layers)
    assert 176 <= rows[0] and rows[-1] < 240 and len(columns) > 240  # the defect's columns, across the whole width
PYTHON
