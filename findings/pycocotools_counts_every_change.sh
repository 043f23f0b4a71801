#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# pycocotools.mask.encode turns defect into background, and the rest of the image into defect, where a mask has more than one value besides 0.
#
# A good guess: whatever is not 0 is foreground. A mask of 0 and 255 is encoded as one of 0 and 1 is; so a mask of class numbers, or one with
# a soft edge, gives the union of all that is marked, or is refused.
# Seen: a run ends where a value differs from the one before it, and runs are background and foreground by turns. Of two touching
# defects with the numbers 1 and 2 the second becomes background. An odd number of changes down a column inverts all that follows, the
# good surface included. A mask at half its size has a soft edge, and the edge alone is left of it: the inside of the defect is lost.
# `area`, `toBbox` and `iou` take these runs as they are. No error: the array has the type and the order that are asked for.
# Who is hurt: masks from painting programs, resized masks and class masks on their way into COCO files, and every IoU that is computed by
# `encode(np.asfortranarray(mask))`.
# What helps: `mask > 0` (or above the middle), as uint8, before encoding.
# pycocotools 2.0.11 (common/maskApi.c, rleEncode), numpy 2.4.6.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/environment"
"$work/environment/bin/pip" install --quiet --disable-pip-version-check pycocotools==2.0.11 numpy==2.4.6 pillow==12.3.0
cd "$work"
"$work/environment/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import numpy as np
from PIL import Image
from pycocotools import mask as coco

print("pycocotools", version("pycocotools"), "numpy", version("numpy"))


def compare(name: str, mask: np.ndarray) -> tuple[int, int, float]:
    """Areas of a mask and of what is decoded again, and their intersection over union."""
    right, given = (coco.encode(np.asfortranarray(each)) for each in ((mask > 0).astype(np.uint8), mask))
    areas, iou = (int(coco.area(right)), int(coco.area(given))), float(coco.iou([right], [given], [0])[0, 0])
    print(f"{name}: {areas[0]} pixels are marked, {areas[1]} encoded, intersection over union {iou:.3f}")
    return *areas, iou


plain = np.zeros((64, 64), np.uint8)
plain[16:32, 16:48] = 255
assert compare("0 and 255", plain) == (512, 512, 1)

touching = np.zeros((64, 64), np.uint8)
touching[16:32, 16:48], touching[32:48, 16:48] = 1, 2
marked, encoded, iou = compare("two defects that touch, numbers 1 and 2", touching)
print("  decoded, column 20, rows 14 to 50:", *coco.decode(coco.encode(np.asfortranarray(touching)))[14:51, 20])
assert marked == 1024 and iou < 0.6

corner = np.zeros((64, 64), np.uint8)
corner[56:, 16:48], corner[40:56, 16:17] = 1, 2
marked, encoded, iou = compare("a dent at the edge, 1, with a scratch, 2, at its corner", corner)
assert encoded > 2 * marked

halved = np.asarray(Image.fromarray(np.roll(plain, 1, axis=0)).resize((32, 32), Image.Resampling.BILINEAR))
marked, encoded, iou = compare("the first one, a pixel lower, at half the size", halved)
print("  decoded, column 16, rows 6 to 20:", *coco.decode(coco.encode(np.asfortranarray(halved)))[6:21, 16])
assert iou < 0.6
PYTHON
