# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""What people upload: checked, and kept as plain PNG files in the folder of their session."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from anople_anomalib.data.image_reading import IMAGE_ERRORS, open_image

from .messages import AppError

MAX_GOOD = 16
"""Good images to teach from, at most."""
MAX_ASKED = 200
"""Images of one session that are judged, at most."""
MAX_BYTES = 20 * 2**20
"""Size of an uploaded file, at most."""
MAX_PIXELS = 50_000_000
"""Pixels of an image, at most: a small file may unpack to a huge one."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "MPO")
"""Formats that are decoded; Pillow knows many more."""
_MB = 2**20


class Photo(NamedTuple):
    """An uploaded image.

    Attributes:
        name: Its name, as it was uploaded.
        path: Where it is kept: upright, with 8 bits per channel, and without the camera's notes.
    """

    name: str
    path: Path


def take_in(files: Sequence[str | Path], folder: Path, most: int, taken: int = 0) -> list[Photo]:
    """Check uploaded files and keep them as plain PNG files; if one is refused, none is kept.

    Args:
        files: The uploaded files; of a folder, files that are no images by their suffix are left out.
        folder: Where to keep them.
        most: Number of images, at most.
        taken: How many there are already.

    Returns:
        The images, in their order.

    Raises:
        AppError: If there is none, there are too many, or one is too large or no image.
    """
    paths = [path for path in map(Path, files) if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")]
    if not paths:
        msg = f"There is no image among the {len(files)} files: give {', '.join(SUFFIXES)}."
        raise AppError(msg)
    if taken + len(paths) > most:
        msg = f"{taken + len(paths)} images are too many: at most {most}."
        raise AppError(msg)
    folder.mkdir(parents=True, exist_ok=True)
    images = [(safe_name(path.name), _read(path)) for path in paths]
    kept = []
    for number, (name, image) in enumerate(images, start=taken):
        file = folder / f"{number:03}_{Path(name).stem}.png"
        image.save(file)
        kept.append(Photo(name, file))
    return kept


def safe_name(name: str) -> str:
    """Return a name of letters, digits, dots, hyphens and underscores that no program takes for anything else."""
    plain = re.sub(r"[^\w.-]+", "_", Path(name).name).strip("._-")[-80:]
    return plain or "image.png"


def _read(path: Path) -> Image.Image:
    """Read an uploaded image."""
    size = path.stat().st_size
    if size > MAX_BYTES:
        msg = f"'{path.name}' has {size / _MB:.0f} MB: at most {MAX_BYTES // _MB}."
        raise AppError(msg)
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
        if width * height > MAX_PIXELS:
            msg = f"'{path.name}' has {width} x {height} pixels: at most {MAX_PIXELS // 10**6} million."
            raise AppError(msg)
        return open_image(path).convert("RGB")
    except AppError:
        raise
    except IMAGE_ERRORS as error:
        msg = f"'{path.name}' is no image that can be read, or it is damaged: repair it or leave it out."
        raise AppError(msg) from error
