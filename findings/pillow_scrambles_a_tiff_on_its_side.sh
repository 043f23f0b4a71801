#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Pillow scrambles an uncompressed gray TIFF that lies on its side, if it opens the file by its name; OpenCV turns TIFFs even where it is
# told not to.
#
# Guess: `Image.open(path)` and `Image.open(open(path, "rb"))` give the same pixels; either leave a TIFF with orientation 6 as it is
# stored, or turn it. OpenCV's `imdecode` with IMREAD_IGNORE_ORIENTATION leaves it.
# Seen: by its name, the 2 rows of 3 pixels are taken for 3 rows of 2, and those are turned: every row begins where it should not,
# without an error. As an open stream they are upright. The same with 16 bits; not with RGB, deflate or an orientation that keeps the
# shape. Pillow maps such a file into memory, with width and height already exchanged. OpenCV's TIFF decoder turns by itself, whatever
# the flags say, so that whoever turns by EXIF afterwards has turned twice.
# Who is hurt: gray scans and microscopes' images, where they are read by `Image.open(path)`, as anomalib does: skewed stripes go into
# training.
# What helps: open a stream; ask OpenCV once, with a tiny TIFF, whether it turns.
# Pillow 12.3.0 and 13.0.0 (TiffImagePlugin.py, size is exchanged before ImageFile.load maps), opencv-python-headless 4.13.0.92.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
for pillow in 12.3.0 13.0.0; do
  python3 -m venv "$work/$pillow"
  "$work/$pillow/bin/pip" install --quiet --disable-pip-version-check pillow==$pillow opencv-python-headless==4.13.0.92 \
    tifffile==2026.3.3 numpy==2.4.6
  "$work/$pillow/bin/python" -W ignore - "$work/image.tiff" <<'PYTHON'
import sys

import cv2
import numpy as np
import PIL
import tifffile
from PIL import Image

path = sys.argv[1]
print("Pillow", PIL.__version__, "OpenCV", cv2.__version__)
for dtype in (np.uint8, np.uint16):
    stored = np.array([[1, 2, 3], [4, 5, 6]], dtype=dtype)
    upright = np.rot90(stored, -1)
    tifffile.imwrite(path, stored, photometric="minisblack", extratags=[(274, "H", 1, 6, True)])
    by_name = np.asarray(Image.open(path))
    with open(path, "rb") as stream:
        by_stream = np.asarray(Image.open(stream))
    content = np.fromfile(path, np.uint8)
    by_opencv = cv2.imdecode(content, cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    print(dtype.__name__, "stored", stored.tolist(), "upright", upright.tolist())
    print("  Pillow by name", by_name.tolist(), "by stream", by_stream.tolist(), "OpenCV", by_opencv.tolist())
    assert np.array_equal(by_name, np.rot90(stored.reshape(3, 2), -1))
    assert np.array_equal(by_stream, upright)
    assert np.array_equal(by_opencv, upright)
PYTHON
done
