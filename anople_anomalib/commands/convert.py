# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Make plain images of a folder: 8 bits per channel, upright, PNG, which every reader shows the same.

Usage:
    anople-convert-images SOURCE TARGET
    anople-convert-images SOURCE TARGET --white 4095     # for a camera of 12 bits
"""

import contextlib
import sys
from pathlib import Path

import numpy as np
from anomalib.data.utils.image import is_image_file
from jsonargparse import auto_cli
from PIL import Image

from anople_anomalib.data.image_reading import IMAGE_ERRORS, SIXTEEN_BITS, is_deep, open_image
from anople_anomalib.utils.files import folder_written_whole
from anople_anomalib.utils.hidden_files import is_hidden

_PNG_MODES = {"1", "L", "LA", "P", "RGB", "RGBA"}


def convert_images(source: Path, target: Path, white: float | None = None) -> int:
    """Write every image and mask of a folder as a PNG file of 8 bits, upright, in the same layout.

    The target appears complete or not at all; nothing is overwritten. Hidden files and other files are left out.

    Args:
        source: Folder with images, at any depth.
        target: Folder to make; it must not exist yet.
        white: Value of images of 16 or 32 bits that becomes 255; by default 65535, or 1 in floating point.

    Returns:
        Number of images.

    Raises:
        FileNotFoundError: If the source is no folder or holds no images.
        FileExistsError: If the target exists, or two images would become the same file.
        ValueError: If an image cannot be read, or it is not clear which value is white.
    """
    source, target = Path(source), Path(target)
    files = _image_files(source)
    if target.exists():
        msg = f"'{target}' exists already: give a folder that does not, nothing is overwritten."
        raise FileExistsError(msg)
    places = _places(files, source)
    if white is None:
        _require_clear_white(files)
    target.absolute().parent.mkdir(parents=True, exist_ok=True)
    with folder_written_whole(target) as temporary:
        for place, file in places.items():
            (temporary / place).parent.mkdir(parents=True, exist_ok=True)
            image = open_image(file, white)
            (image if image.mode in _PNG_MODES else image.convert("RGB")).save(temporary / place, exif=b"")
        temporary.chmod(source.stat().st_mode)
    return len(files)


def _image_files(source: Path) -> list[Path]:
    files = sorted(file for file in source.rglob("*") if is_image_file(file) and file.is_file())
    files = [file for file in files if not is_hidden(file, source)]
    if not files:
        msg = f"'{source}' is no folder with images: give the folder of a data set."
        raise FileNotFoundError(msg)
    return files


def _places(files: list[Path], source: Path) -> dict[Path, Path]:
    """Map every place in the target to its file."""
    places: dict[Path, Path] = {}
    for file in files:
        place = file.relative_to(source).with_suffix(".png")
        if place in places:
            msg = f"'{places[place]}' and '{file}' would both become '{place}': rename one of them."
            raise FileExistsError(msg)
        places[place] = file
    return places


def _require_clear_white(files: list[Path]) -> None:
    """Refuse images of 16 bits that use a small part of them, as those of a camera of 12 bits do."""
    largest, which = 0, Path()
    for file in files:
        with contextlib.suppress(*IMAGE_ERRORS), Image.open(file) as image:  # what is damaged is named later
            if is_deep(image) and image.mode != "F":
                value = int(np.asarray(image).max())
                largest, which = (value, file) if value > largest else (largest, which)
    if 255 < largest <= SIXTEEN_BITS // 4:
        bits = largest.bit_length()
        msg = (
            f"The largest value in images of 16 bits is {largest} (in '{which}'), so that they would be dark: give the "
            f"value that is white, --white {2**bits - 1} for a camera of {bits} bits, or --white {SIXTEEN_BITS}."
        )
        raise ValueError(msg)


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    try:
        count = auto_cli(convert_images, args=arguments, as_positional=True)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(f"{count} images were converted.")


if __name__ == "__main__":
    main()
