#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# anomalib's Folder gives the images of one kind of defect the masks of another, depending on the alphabet, and its check is passed.
#
# A good guess: `abnormal_dir=["scratch", "scratch_deep"]` and `mask_dir=["scratch_mask", "scratch_deep_mask"]` belong together in the order
# in which they are given; where images and masks do not fit, Folder refuses them, as it has an error for just that.
# Seen: the order of the lists is dropped. All images and all masks are sorted by their paths, and paired by their numbers. "scratch/" is
# before "scratch_deep/", "scratch_deep_mask/" before "scratch_mask/": every image of one folder has a mask of the other. The check
# compares file names alone, and 000.png is in both folders. The other order of the lists changes nothing.
# Who is hurt: own parts with a folder of masks for every kind of defect and numbered files, as cameras and MVTec AD name them: all
# pixel metrics and pixel thresholds are computed on masks of other images; image metrics are right, so that nothing looks broken.
# What helps: look at `samples[["image_path", "mask_path"]]` once, or give one folder at a time.
# anomalib 2.7.0 (data/datasets/image/folder.py, make_folder_dataset), pandas 3.1.1.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/environment"
"$work/environment/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 torchvision==0.29.1
"$work/environment/bin/pip" install --quiet --disable-pip-version-check anomalib==2.7.0 pandas==3.1.1
cd "$work"
"$work/environment/bin/python" -W ignore - 2> "$work/log.txt" <<'PYTHON' || { tail -20 "$work/log.txt"; exit 1; }
from importlib.metadata import version
from pathlib import Path

import numpy as np
from anomalib.data import Folder
from PIL import Image

print("anomalib", version("anomalib"), "pandas", version("pandas"))
kinds = {"scratch": slice(0, 8), "scratch_deep": slice(24, 32)}  # rows of the defects


def write(path: str, marked: slice, value: int) -> None:
    """An image of 32 x 32 pixels with a bar in it."""
    pixels = np.full((32, 32), 0, np.uint8)
    pixels[marked] = value
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


for number in range(3):
    write(f"parts/good/{number:03}.png", slice(0), 0)
    for kind, rows in kinds.items():
        write(f"parts/{kind}/{number:03}.png", rows, 200)
        write(f"parts/{kind}_mask/{number:03}.png", rows, 255)

for order in (list(kinds), list(kinds)[::-1]):
    folders = {"abnormal_dir": order, "mask_dir": [f"{kind}_mask" for kind in order]}
    data = Folder("parts", root="parts", normal_dir="good", num_workers=0, val_split_mode="none", **folders)
    data.setup()
    print(folders)
    swapped = 0
    for item in data.test_data:
        if item.gt_label:
            pair = [Path(path).parent.name + "/" + Path(path).name for path in (item.image_path, item.mask_path)]
            overlap = int(((item.image[0] > 0.5) & item.gt_mask).sum())
            print("  image", pair[0], "mask", pair[1], "pixels of the defect under the mask:", overlap)
            swapped += overlap == 0
    assert swapped == 6
PYTHON
