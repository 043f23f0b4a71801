#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Once a model of anomalib with a ViT has been made, every other ViT of timm in the process gives other features.
#
# A good guess: `TimmFeatureExtractor`, and with it AnomalyDINO, Dinomaly and others, own their network; a `timm.create_model` elsewhere in the
# program gives what it gave before.
# Seen: for the sake of ONNX the extractor exchanges timm's function that resizes position embeddings by one without antialiasing, for the
# whole process and for good. A ViT that sees images of another size than its own changes: one that stands already, at its next image
# (`dynamic_img_size`), and one that is loaded later, in its weights (`img_size`). Same weights, same image, other features.
# Who is hurt: comparisons that run a model of anomalib first: the rows depend on their order. And a memory of features that was
# filled in one process and is asked in another: its images are no longer at distance 0.
# What helps: make the timm models in a process of their own, or hold `timm.layers.resample_abs_pos_embed` against the name in
# `timm.models.vision_transformer`: they are one object as long as nothing was exchanged.
# anomalib 2.7.0 (models/components/feature_extractors/timm.py, _disable_pos_embed_antialiasing), timm 1.0.31 (models/vision_transformer.py).
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/environment"
"$work/environment/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 torchvision==0.29.1
"$work/environment/bin/pip" install --quiet --disable-pip-version-check anomalib==2.7.0 timm==1.0.31
cd "$work"
"$work/environment/bin/python" -W ignore - 2> "$work/log.txt" <<'PYTHON' || { tail -20 "$work/log.txt"; exit 1; }
from importlib.metadata import version

import timm
import torch
from anomalib.models.components import TimmFeatureExtractor
from safetensors.torch import save_file

print("anomalib", version("anomalib"), "timm", version("timm"), "torch", version("torch"))
name, sides = "vit_tiny_patch16_224", (224, 160)
torch.manual_seed(0)
network = timm.create_model(name, num_classes=0, dynamic_img_size=True).eval()
with torch.no_grad():
    network.pos_embed.normal_()  # as large as the tokens; at random, since there are no pretrained weights here
save_file(network.state_dict(), "weights.safetensors")
images = {side: torch.rand(1, 3, side, side) for side in sides}


@torch.no_grad()
def features() -> dict[str, torch.Tensor]:
    """Tokens of the network that stands and of one that is loaded now, from the same weights."""
    found = {}
    for side, image in images.items():
        loaded = timm.create_model(
            name,
            pretrained=True,
            pretrained_cfg_overlay={"file": "weights.safetensors", "num_classes": 0},
            num_classes=0,
            img_size=side,
        ).eval()
        found[f"a network that stands, {side} pixels"] = network.forward_features(image)
        found[f"a network that is loaded, {side} pixels"] = loaded.forward_features(image)
    return found


before, again = features(), features()
assert all(torch.equal(before[key], again[key]) for key in before)
TimmFeatureExtractor(name, ["blocks.2"], pre_trained=False)
for key, after in features().items():
    change = float((after - before[key]).norm() / before[key].norm())
    print(f"{key}: features changed by {change:.3f} of their length")
    assert (change == 0) == ("224" in key)
PYTHON
