#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# White becomes black when Pillow reads a color JPEG 2000 of more than 8 bits.
#
# Guess: `Image.open` of a color JPEG 2000 of 12 bits gives RGB whose values are the upper 8 bits, 0 to 255; 4095 is 255.
# Seen: 4095 is 0, and 4088 to 4095 are. Values are rounded to the nearest of 8 bits, 255.9 to 256, and 256 is kept as 0. 4087 is 255. In
# gray (mode I;16) the same values are right, 4095 becoming 65520. With 16 bits it is the same, with 8 bits nothing is rounded.
# Who is hurt: archives, satellites' and microscopes' images: glints, lamps and saturated defects turn into black specks.
# What helps: read the bits from the codestream's head (SIZ, byte 42), and decode such files with OpenCV or imagecodecs.
# Pillow 12.3.0 and 13.0.0 (src/libImaging/Jpeg2KDecode.c), imagecodecs 2026.3.6, opencv-python-headless 4.13.0.92.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
for pillow in 12.3.0 13.0.0; do
  python3 -m venv "$work/$pillow"
  "$work/$pillow/bin/pip" install --quiet --disable-pip-version-check pillow==$pillow opencv-python-headless==4.13.0.92 \
    imagecodecs==2026.3.6 numpy==2.4.6
  "$work/$pillow/bin/python" -W ignore - <<'PYTHON'
import io

import cv2
import imagecodecs
import numpy as np
import PIL
from PIL import Image

print("Pillow", PIL.__version__, "OpenCV", cv2.__version__)
values = np.array([[0, 2048, 4087, 4088, 4095]] * 5, dtype=np.uint16)


def encode(pixels):
    return imagecodecs.jpeg2k_encode(pixels, bitspersample=12, reversible=True, level=0)


color = encode(np.stack([values] * 3, axis=-1))
image = Image.open(io.BytesIO(color))
read = np.asarray(image)[0, :, 0].tolist()
opencv = cv2.imdecode(np.frombuffer(color, np.uint8), cv2.IMREAD_UNCHANGED)[0, :, 0].tolist()
gray = np.asarray(Image.open(io.BytesIO(encode(values))))[0].tolist()
print("written", values[0].tolist(), "color by Pillow", image.mode, read, "by OpenCV", opencv, "gray by Pillow", gray)
assert opencv == values[0].tolist()
assert gray == [0, 32768, 65392, 65408, 65520]
assert read == [0, 128, 255, 0, 0]
PYTHON
done
