# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Images that people upload, kept as plain PNG files in the folder of their session; sample parts; errors they see."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from anople_anomalib.data import SampleTextures
from anople_anomalib.data.image_reading import IMAGE_ERRORS, open_image, require_clear_white
from anople_anomalib.utils.files import other_name

MAX_GOOD = 16
"""Good images to teach from, at most."""
MAX_ASKED = 200
"""Images of one session that are judged, at most."""
MAX_PIXELS = 50_000_000
"""Pixels of an image, at most: a small file may unpack to a huge one."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "MPO")
"""Formats that are decoded; Pillow knows many more."""
_SAMPLE_SHOTS = (0, 4, 8, 11)  # of twelve overlapping tiles: four that share little
_PATH = re.compile(r"(?P<address>https?://\S+)|(?:[A-Za-z]:)?(?:[\\/][^\\/'\"\s,;:()]+){2,}[\\/]?")


class AppError(ValueError):
    """An error with a message for the person in front of the page."""


class Photo(NamedTuple):
    """An uploaded image: its name, and its file, upright, with 8 bits per channel and no metadata of the camera."""

    name: str
    path: Path


def take_in(
    files: Sequence[str | Path], folder: Path, most: int, taken: Sequence[Photo] = (), names: Sequence[str] = ()
) -> list[Photo]:
    """Check uploaded files and keep them as plain PNG files; if one is refused, none is kept.

    Args:
        files: The uploaded files; of a folder, files that are no images by their suffix are left out.
        folder: Where to keep them.
        most: Number of images, at most.
        taken: The images that there are already.
        names: Names to show instead of the files' own.

    Returns:
        The images, in their order, no two with the same name.

    Raises:
        AppError: If there is none, there are too many, or one is too large or no image.
    """
    paths = [path for path in map(Path, files) if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")]
    if not paths:
        msg = f"There is no image among the {len(files)} files: give {', '.join(SUFFIXES)}."
        raise AppError(msg)
    if len(taken) + len(paths) > most:
        msg = f"{len(taken) + len(paths)} images are too many: at most {most}."
        raise AppError(msg)
    folder.mkdir(parents=True, exist_ok=True)
    images = [_read(path) for path in paths]
    photos = list(taken)
    for wanted, image in zip(names or [path.name for path in paths], images, strict=True):
        name = other_name(safe_name(wanted), {photo.name for photo in photos})
        photos.append(Photo(name, folder / f"{len(photos):03}_{Path(name).stem}.png"))
        image.save(photos[-1].path)
    return photos[len(taken) :]


def safe_name(name: str) -> str:
    """Return a name of letters, digits, dots, hyphens and underscores that no program takes for anything else."""
    return re.sub(r"[^\w.-]+", "_", Path(name).name).strip("._-")[-80:] or "image.png"


def _read(path: Path) -> Image.Image:
    """Read an uploaded image."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
        read = open_image(path).convert("RGB") if width * height <= MAX_PIXELS else None
    except ValueError as error:  # which says the fault
        raise AppError(without_paths(str(error))) from error
    except IMAGE_ERRORS as error:
        msg = f"'{path.name}' is no image that can be read, or it is damaged: repair it or leave it out."
        raise AppError(msg) from error
    if read is None:
        msg = f"'{path.name}' has {width} x {height} pixels: at most {MAX_PIXELS // 10**6} million."
        raise AppError(msg)
    try:
        require_clear_white([path])
    except ValueError as error:
        raise AppError(str(error)) from error
    return read


def sample_shots(part: str) -> dict[str, Path]:
    """Return four good images of a sample part, by kind (``good``) and number."""
    files = sorted(_sample_folder(part).glob("train/good/*.png"))
    return {f"good_{files[number].name}": files[number] for number in _SAMPLE_SHOTS}


def samples_to_ask(part: str) -> dict[str, Path]:
    """Return three further good images of a sample part, and one of each kind of defect, by kind and number."""
    kinds = samples_to_prove(part)
    files = [*kinds.pop("good")[:3], *(files[0] for files in kinds.values())]
    return {f"{path.parent.name}_{path.name}": path for path in files}


def samples_to_prove(part: str) -> dict[str, list[Path]]:
    """Return all test images of a sample part, by kind."""
    return {folder.name: sorted(folder.iterdir()) for folder in sorted(_sample_folder(part).glob("test/*"))}


def _sample_folder(part: str) -> Path:
    samples = SampleTextures(category=part)
    samples.prepare_data()
    return Path(samples.root) / part


def without_paths(text: str) -> str:
    """Leave only the last name of every absolute path in a text: ``'/tmp/x/a.png'`` is ``'a.png'``, URLs stay."""
    return _PATH.sub(lambda found: found["address"] or Path(found[0].replace("\\", "/")).name, text)
