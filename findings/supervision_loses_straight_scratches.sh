#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# supervision turns the mask of a straight hair-thin scratch into nothing (COCO, Pascal VOC) or into its whole bounding box (YOLO).
#
# A good guess: a mask that is saved as COCO, YOLO or Pascal VOC and read again is the same mask, but for a pixel at the border; what cannot be
# written as a polygon is an error, or is written as RLE, which COCO has and supervision writes for masks with holes.
# Seen: OpenCV gives a straight line one pixel wide as a contour of its two ends, and polygons of less than three points are dropped.
# A level scratch of 80 pixels has `"segmentation": []` and `"area": 80.0` in COCO, and no pixel when it is read. At 45 degrees COCO
# keeps it (as RLE), VOC loses it, and YOLO writes a box into a file of polygons: 71 pixels become 5,041. A scratch beside a dent in one mask: YOLO and
# VOC keep the dent alone. Lines that bend or are two pixels wide survive. COCO's export warns of a skipped polygon; the others say nothing.
# Who is hurt: scratches, cracks and hairs are defects of that shape, labelled with a line tool or by thinning: the part becomes a good one,
# or its mask seventy times too large, before training and before pixel metrics alike.
# What helps: dilate masks by a pixel before export, and compare areas after it.
# supervision 0.31.2 (detection/utils/converters.py, mask_to_polygons; dataset/formats/), opencv-python-headless 4.14.0.94.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/environment"
"$work/environment/bin/pip" install --quiet --disable-pip-version-check supervision==0.31.2 opencv-python-headless==4.14.0.94 numpy==2.4.6
cd "$work"
"$work/environment/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import supervision as sv

print("supervision", version("supervision"), "OpenCV", cv2.__version__)


def scratch(start: tuple[int, int], end: tuple[int, int], width: int = 1) -> np.ndarray:
    """A line in an image of 100 x 100 pixels."""
    return cv2.line(np.zeros((100, 100), np.uint8), start, end, 1, width) > 0


beside = scratch((10, 30), (89, 30))
beside[60:90, 60:90] = True
masks = {
    "horizontal": scratch((10, 50), (89, 50)),
    "at 45 degrees": scratch((10, 10), (80, 80)),
    "steeper": scratch((10, 10), (70, 89)),
    "two pixels wide": scratch((10, 50), (89, 50), 2),
    "beside a dent": beside,
}
Path("images").mkdir()
annotations = {}
for name, mask in masks.items():
    cv2.imwrite(f"images/{name}.png", np.zeros((100, 100, 3), np.uint8))
    annotations[f"images/{name}.png"] = sv.Detections(sv.mask_to_xyxy(mask[None]), mask=mask[None], class_id=np.array([0]))
data = sv.DetectionDataset(classes=["scratch"], images=list(annotations), annotations=annotations)
data.as_coco(annotations_path="coco.json")
data.as_yolo(annotations_directory_path="yolo", data_yaml_path="yolo.yaml")
data.as_pascal_voc(annotations_directory_path="voc")
read = {
    "COCO": sv.DetectionDataset.from_coco("images", "coco.json", force_masks=True),
    "YOLO": sv.DetectionDataset.from_yolo("images", "yolo", "yolo.yaml", force_masks=True),
    "VOC": sv.DetectionDataset.from_pascal_voc("images", "voc", force_masks=True),
}
found = {name: {} for name in masks}
for kind, back in read.items():
    for path, _, detections in back:
        found[Path(path).stem][kind] = int(detections.mask.any(axis=0).sum()) if detections.mask is not None else 0
for name, areas in found.items():
    print(f"{name}: {masks[name].sum()} pixels, read again {dict(sorted(areas.items()))}")
print("in yolo/at 45 degrees.txt:", Path("yolo/at 45 degrees.txt").read_text().strip())
assert found["horizontal"] == {"COCO": 0, "YOLO": 80, "VOC": 0}
assert found["at 45 degrees"] == {"COCO": 71, "YOLO": 5041, "VOC": 0}
assert found["beside a dent"] == {"COCO": 980, "YOLO": 900, "VOC": 900}
assert all(set(found[name].values()) == {int(masks[name].sum())} for name in ("steeper", "two pixels wide"))
PYTHON
