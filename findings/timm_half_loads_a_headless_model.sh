#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# timm loads a file that lacks whole blocks without an error where the model has no classifier, as every model for features.
#
# Guess: `pretrained=True` with `pretrained_cfg_overlay={"file": ...}` loads strictly, and `num_classes=0` drops the classifier alone; a
# file from which a block is missing is refused in both cases.
# Seen: with the classifier, the missing block is an error. With `num_classes=0` the same file is loaded: a number of classes other than
# the file's switches strictness off for all tensors, not only the classifier's. The block keeps its random numbers, features differ
# from run to run, and the only trace is a line of the level INFO, which is not shown by default.
# Who is hurt: those who carry weights as files (no network, renamed or cut checkpoints) and compute features: distances still look
# plausible. Compare the names of the file with those of the model before loading.
# timm 1.0.31 (models/_builder.py, load_pretrained), torch 2.14.1.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/environment"
"$work/environment/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 torchvision==0.29.1 timm==1.0.31
cd "$work"
"$work/environment/bin/python" -W ignore - <<'PYTHON'
import logging

import timm
import torch

logging.basicConfig(level=logging.WARNING)
print("timm", timm.__version__, "torch", torch.__version__)
name = "vit_tiny_patch16_224"
torch.manual_seed(0)
whole = timm.create_model(name).eval()
torch.save({key: value for key, value in whole.state_dict().items() if not key.startswith("blocks.5.")}, "cut.pth")
overlay = {"file": "cut.pth"}

try:
    timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
except RuntimeError as error:
    print("with its classifier:", str(error).splitlines()[1].strip()[:76], "...")
else:
    raise SystemExit("with its classifier the file is loaded")

image, features = torch.rand(1, 3, 224, 224), []
for seed in (1, 2):
    torch.manual_seed(seed)
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0).eval()
    with torch.no_grad():
        features.append(model(image))
with torch.no_grad():
    right = whole.forward_head(whole.forward_features(image), pre_logits=True)
apart, wrong = ((features[0] - other).norm() / right.norm() for other in (features[1], right))
print(f"num_classes=0: loaded; two runs differ by {apart:.2f} of the features' length, from the whole file's by {wrong:.2f}")
assert apart > 0.01 and wrong > 0.01
PYTHON
