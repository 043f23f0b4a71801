# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Plain folders of images, of odd ones (``anople convert``) or other programs' data sets (``anople import``)."""

from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace

from anople_anomalib.utils.files import folder_written_whole

from .terminal import FINE, UNJUDGED

_PNG_MODES = {"1", "L", "LA", "P", "RGB", "RGBA"}


def convert_images(source: Path, target: Path, white: float | None = None) -> int:
    """Write every image and mask of a folder as a PNG file of 8 bits, upright, in the same layout.

    The target appears complete or not at all; nothing is overwritten. Hidden files and other files are left out. Of
    images of 16 or 32 bits, ``white`` becomes 255, by default 65535, or 1 in floating point. Returns their number.

    Raises:
        FileNotFoundError: If the source is no folder or holds no images.
        FileExistsError: If the target exists, or two images would become the same file.
        ValueError: If an image cannot be read, or it is not clear which value is white.
    """
    from anople_anomalib.data.image_reading import open_image, require_clear_white
    from anople_anomalib.data.listing import list_images

    listing = list_images([source] if source.is_dir() else [])
    files = sorted([*listing.images, *listing.pictures])
    if not files:
        msg = f"'{source}' is no folder with images: give the folder of a data set."
        raise FileNotFoundError(msg)
    if target.exists():
        msg = f"'{target}' exists already: give a folder that does not, nothing is overwritten."
        raise FileExistsError(msg)
    places = _places(files, source)
    if white is None:
        require_clear_white(files)
    target.absolute().parent.mkdir(parents=True, exist_ok=True)
    with folder_written_whole(target) as temporary:
        for place, file in places.items():
            (temporary / place).parent.mkdir(parents=True, exist_ok=True)
            image = open_image(file, white)
            (image if image.mode in _PNG_MODES else image.convert("RGB")).save(temporary / place, exif=b"")
        temporary.chmod(source.stat().st_mode)
    return len(files)


def _places(files: list[Path], source: Path) -> dict[Path, Path]:
    """Return the files by their places in the target."""
    places: dict[Path, Path] = {}
    for file in files:
        place = file.relative_to(source).with_suffix(".png")
        if place in places:
            msg = f"'{places[place]}' and '{file}' would both become '{place}': rename one of them."
            raise FileExistsError(msg)
        places[place] = file
    return places


def convert_options(parser: ArgumentParser) -> None:
    """Add the options of ``convert``."""
    parser.add_argument("source", type=Path, help="folder with images, at any depth")
    parser.add_argument("target", type=Path, help="folder to make; it must not exist yet")
    parser.add_argument(
        "--white", type=float | None, default=None, help="value of 16 or 32 bits that becomes 255, 4095 for 12 bits"
    )


def convert(options: Namespace) -> int:
    """Make plain images of a folder: 8 bits per channel, upright, PNG, which every reader shows the same."""
    print(f"{convert_images(options.source, options.target, options.white)} images were converted.")
    return FINE


def import_options(parser: ArgumentParser) -> None:
    """Add the options of ``import``."""
    kinds = "Amazon's Lookout for Vision, or the format that a program for labeling writes"
    parser.add_argument("format", type=Literal["lookout", "coco", "labelme", "datumaro"], help=kinds)
    parser.add_argument("source", type=Path, help="manifest, file or (labelme) folder of the images for training")
    parser.add_argument("--test", type=Path | None, default=None, help="the same of the images for testing")
    beside = "folder with the images (default: where the program puts them, beside the file or in the folder)"
    parser.add_argument("--files", type=Path | None, default=None, help=beside)
    parser.add_argument("--output", type=Path, required=True, help="folder to make; it must not exist yet")


def import_data(options: Namespace) -> int:
    """Make folders of good and anomalous parts, with masks, of another program's data set.

    The exit code is 3 where an image could not be taken.
    """
    from anople_anomalib.data import annotated, lookout
    from anople_anomalib.data.importing import import_data_set

    reader = {
        "lookout": lookout.manifest_entries,
        "coco": annotated.coco_entries,
        "labelme": annotated.labelme_entries,
        "datumaro": annotated.datumaro_entries,
    }[options.format]
    taken, left = import_data_set(reader, options.source, options.test, options.files, options.output)
    print("\n".join([f"{options.output}: {taken} images were taken, {len(left)} were not.", *left]))
    return UNJUDGED if left else FINE
