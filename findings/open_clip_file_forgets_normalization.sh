#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# open_clip prepares images differently when the same weights come from a file instead of by their tag.
#
# A good guess: the transform that `create_model_and_transforms(name, pretrained=...)` returns belongs to the model's name: whoever
# has no network and passes the downloaded file as `pretrained` gets the transform of the tag, or a warning.
# Seen: normalization, resizing and interpolation stand beside the tag alone. With a file they are those of OpenAI's CLIP: another mean and
# deviation, bicubic instead of bilinear, and for models that see the whole image squeezed into a square (SigLIP, PE, DFN's ViT-H-14) the
# shorter side and a crop of the middle: a part photographed in 2:1 loses half of its area. The file may bear the Hub's own name; no warning
# says that anything is assumed. 58 of 196 pairs of model and tag differ from what a file gets; LAION-2B's ViT-L-14 is one, by its mean.
# Who is hurt: stations without network, and whoever keeps weights as files: features are shifted, and a defect at the end of
# a long part is not in the image at all.
# What helps: `image_mean`, `image_std`, `image_interpolation` and `image_resize_mode` taken from `open_clip.get_pretrained_cfg(name, tag)`, or
# a folder with `open_clip_config.json`, named by "local-dir:".
# open_clip_torch 3.3.0 (factory.py, create_model), torch 2.14.1.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/environment"
"$work/environment/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 torchvision==0.29.1
"$work/environment/bin/pip" install --quiet --disable-pip-version-check open_clip_torch==3.3.0
cd "$work"
"$work/environment/bin/python" -W ignore - <<'PYTHON'
import logging
from dataclasses import asdict
from importlib.metadata import version

import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict
from PIL import Image

print("open_clip", version("open_clip_torch"), "torch", version("torch"))
messages = []
logging.captureWarnings(True)
handler = logging.Handler(logging.WARNING)
handler.emit = lambda record: messages.append(record.getMessage())

name, tag = "PE-Core-T-16-384", "meta"
torch.manual_seed(0)
torch.save(open_clip.create_model(name).state_dict(), "open_clip_model.bin")  # weights at random: only the transform matters
logging.getLogger().addHandler(handler)
model, _, given = open_clip.create_model_and_transforms(name, pretrained="open_clip_model.bin")
told = open_clip.get_pretrained_cfg(name, tag)
right = image_transform_v2(
    PreprocessCfg(**merge_preprocess_dict(asdict(PreprocessCfg(size=model.visual.image_size)), told)), is_train=False
)
for kind, transform in (("tag", right), ("file", given)):
    print(f"by the {kind}:", " ".join(str(transform).split()))
print("warnings:", messages)
assert not messages

part = Image.new("RGB", (800, 400), (128, 128, 128))
part.paste((255, 0, 0), (0, 0, 120, 400))  # a defect at the left end
seen = {kind: transform(part) for kind, transform in (("tag", right), ("file", given))}
red = {kind: float((image[0] - image[1] > 0.5).float().mean()) for kind, image in seen.items()}
gray = {kind: float(image[2, 192, 192]) for kind, image in seen.items()}
print("share of the defect in the network's image:", {kind: round(share, 3) for kind, share in red.items()})
print("blue of the gray surface:", {kind: round(value, 3) for kind, value in gray.items()})
assert red["tag"] > 0.14 and red["file"] == 0 and abs(gray["tag"] - gray["file"]) > 0.3

settings = ("mean", "std", "interpolation", "resize_mode")
plain, differ, number = asdict(PreprocessCfg()), 0, 0
for model_name in open_clip.list_models():
    for known in open_clip.list_pretrained_tags_by_model(model_name):
        config = open_clip.get_pretrained_cfg(model_name, known)
        number += 1
        differ += any(config.get(key) and config[key] != plain[key] for key in settings)
print(f"{differ} of {number} models with a tag are prepared differently by a file")
assert differ > number / 5
PYTHON
