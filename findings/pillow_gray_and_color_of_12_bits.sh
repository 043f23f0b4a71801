#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# The same 12-bit photograph becomes white in gray and black in color when Pillow makes 8-bit RGB of it.
#
# Guess: `Image.open(file).convert("RGB")`, the line by which anomalib, torchvision and most loaders read a picture, treats 16-bit files
# alike: either all are scaled to 8 bits, or all are clipped.
# Seen: OpenCV writes the values 0, 1024, 2048, 4095 as PNG and TIFF. The gray files open in mode "I;16", and `convert("RGB")` CLIPS to
# 0, 255, 255, 255. The color files open as plain "RGB", the low byte having been dropped while they were decoded: 0, 4, 8, 15. No mode, warning or
# `info` entry says that there were 16 bits. An industrial camera of 12 bits fills 16-bit files up to 4095: white parts or black parts,
# by the number of its channels.
# Who is hurt: everybody who trains on PNG or TIFF of machine-vision cameras; a nearest-neighbor model on nearly black images still gives
# a score.
# What helps: read the header (PNG's IHDR holds the bit depth; tifffile, OpenCV's IMREAD_UNCHANGED) before Pillow reads the pixels.
# Pillow 12.3.0, opencv-python-headless 4.13.0.92.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/environment"
"$work/environment/bin/pip" install --quiet --disable-pip-version-check pillow==12.3.0 opencv-python-headless==4.13.0.92 numpy==2.4.6
cd "$work"
"$work/environment/bin/python" -W ignore - <<'PYTHON'
import cv2
import numpy as np
import PIL
from PIL import Image

print("Pillow", PIL.__version__, "OpenCV", cv2.__version__)
values = np.array([[0, 1024, 2048, 4095]], dtype=np.uint16)
expected = {"gray": ("I;16", [0, 255, 255, 255]), "color": ("RGB", [0, 4, 8, 15])}
for name, pixels in (("gray", values), ("color", np.repeat(values[..., None], 3, axis=2))):
    for suffix in (".png", ".tiff"):
        cv2.imwrite(name + suffix, pixels)
        image = Image.open(name + suffix)
        seen = (image.mode, np.array(image.convert("RGB"))[0, :, 0].tolist())
        print(name, suffix, *seen, "info:", sorted(image.info))
        assert seen == expected[name]
PYTHON
