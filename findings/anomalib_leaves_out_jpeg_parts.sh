#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# anomalib's MVTecAD leaves out JPEG photographs in MVTec's layout, without a word where there are PNG files beside them.
#
# Guess: "MVTec's layout" is a matter of folders; `Folder` and `predict` take JPEG, so `MVTecAD` on one's own parts takes it as well, or
# says that it does not.
# Seen: its data set lists ".png" and ".PNG" alone. Of 8 good training photographs, half of them JPEG (a second camera, a phone), 4
# are there, and 6 of 9 test images: no warning, and the metrics are those of fewer parts. Where all photographs are JPEG and the masks PNG, the error is
# pandas': "Must have equal len keys and value when setting with an iterable" (pandas 3), about nothing that the user wrote.
# Who is hurt: own parts in MVTec's layout, and published sets in that layout whose images are JPEG.
# What helps: Folder, which takes JPEG; count the files before training.
# anomalib 2.7.0, data/datasets/image/mvtecad.py, IMG_EXTENSIONS (MVTecAD2, MVTec LOCO, MPDD, VAD have the same); pandas 3.1.1.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/environment"
"$work/environment/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 torchvision==0.29.1 anomalib==2.7.0 pandas==3.1.1
cd "$work"
"$work/environment/bin/python" -W ignore - <<'PYTHON'
import logging
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

logging.disable(logging.WARNING)
from anomalib.data.datasets import MVTecADDataset

print("anomalib", version("anomalib"), "pandas", version("pandas"))


def write(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((32, 32, 3), 128, dtype=np.uint8)).save(path)


for number in range(4):
    for suffix in (".png", ".jpg"):
        write(Path("part/train/good") / f"{number}{suffix}")
for number in range(3):
    for name in (f"test/good/{number}.png", f"test/good/{number}.jpg", f"test/hole/{number}.png"):
        write(Path("part") / name)
    write(Path(f"part/ground_truth/hole/{number}_mask.png"))
sizes = {split: len(MVTecADDataset(".", "part", split=split)) for split in ("train", "test")}
print("of 8 photographs for training and 9 for the test:", sizes)
assert sizes == {"train": 4, "test": 6}

for path in (*Path("part/train").rglob("*.png"), *Path("part/test").rglob("*.png")):
    path.with_suffix(".jpg").unlink(missing_ok=True)
    path.rename(path.with_suffix(".jpg"))
try:
    MVTecADDataset(".", "part", split="train")
except ValueError as error:
    print("JPEG alone, masks as PNG:", error)
    assert "Must have equal len keys and value" in str(error)
else:
    raise AssertionError("an error was expected")
PYTHON
