# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Data sets of other programs become folders in the layout of MVTec AD; readers: :mod:`.lookout`, :mod:`.annotated`."""

import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anople_anomalib.utils.files import READ_ERRORS, folder_written_whole, one_line

from .image_reading import image_size_of, open_image
from .listing import is_good

GOOD, _SEVERAL, _BACKGROUND = "good", "several", "background"
_LONGEST = 100  # bytes of a folder's name


class Part(NamedTuple):
    """An image, and where it is anomalous."""

    image: Path
    kind: str  # the name of its folder
    mask: NDArray[np.bool_] | None = None  # shape (H, W)


class Entry(NamedTuple):
    """An image of a data set, before it is read."""

    place: str  # where it stands, for messages
    masked: bool  # whether it has a mask
    read: Callable[[], Part]  # raises the errors of reading a file


Reader = Callable[[Path, Path | None], Sequence[Entry]]
"""Reads a data set, with a folder of its images, or ``None`` for where its program puts them."""


def import_data_set(
    reader: Reader, train: Path, test: Path | None, files: Path | None, output: Path
) -> tuple[int, list[str]]:
    """Write the images of a data set in the layout of MVTec AD; the folder appears complete or not at all.

    Args:
        reader: Reads it.
        train: Its images for training; anomalous ones among them go to those for testing.
        test: Its images for testing.
        files: Folder with its images.
        output: Folder to make.

    Returns:
        Number of images that were taken, and a sentence for each that was not.

    Raises:
        FileExistsError: If the folder exists.
        NotADirectoryError: If there is no folder of files.
        ValueError: If the data set cannot be read, or no image could be taken.
        OSError: If something cannot be written.
    """
    if output.exists():
        msg = f"'{output}' exists already: give a folder that does not, nothing is overwritten."
        raise FileExistsError(msg)
    if files is not None and not files.is_dir():
        msg = f"There is no folder '{files}' with a copy of the images: check --files."
        raise NotADirectoryError(msg)
    entries = [("train", entry) for entry in reader(train, files)]
    entries += [("test", entry) for entry in reader(test, files)] if test else []
    masked = any(entry.masked for _, entry in entries)
    taken, stems, reasons = dict[Path, str](), set[Path](), list[str]()
    output.absolute().parent.mkdir(parents=True, exist_ok=True)
    with folder_written_whole(output) as folder:
        for subset, entry in entries:
            try:
                part = entry.read()
                _require_whole(part, taken, masked=masked)
            except (*READ_ERRORS, SyntaxError) as error:
                reasons.append(f"{entry.place}: {one_line(error)}")
                continue
            taken[part.image.resolve()] = entry.place
            _write(part, folder, subset, stems)
        if not entries:
            msg = f"There is no image in '{train}': give a data set with some."
            raise ValueError(msg)
        if not taken:
            msg = f"None of the {len(entries)} images could be taken, such as {reasons[0]}"
            raise ValueError(msg)
    return len(taken), reasons


def _require_whole(part: Part, taken: dict[Path, str], *, masked: bool) -> None:
    """Refuse a part whose image is damaged or was taken, or without the mask that it needs."""
    name = part.image.name
    if (other := taken.get(part.image.resolve())) is not None:
        msg = f"'{part.image}' is the image of {other} already."
        raise ValueError(msg)
    open_image(part.image)
    if part.kind != GOOD and part.mask is None and masked:
        msg = f"'{name}' has an anomaly without a mask, and others have one: what is not marked would count as good."
        raise ValueError(msg)
    if part.mask is not None:
        require_size(part.image, part.mask.shape, f"The mask of '{name}' has")
        if not part.mask.any():
            msg = f"'{name}' is an anomaly, but its mask is empty."
            raise ValueError(msg)


def require_size(image: Path, size: Sequence[Any], subject: str) -> None:
    """Refuse a height and width that are not those of an image as it is seen upright."""
    if tuple(size) != (there := image_size_of(image)):
        height, width = size
        msg = f"{subject} {width}x{height} pixels, and the image {there[1]}x{there[0]}."
        raise ValueError(msg)


def _write(part: Part, folder: Path, subset: str, stems: set[Path]) -> None:
    """Copy a part to its place, under a stem of its own: only good ones are trained on."""
    place = folder / (subset if part.kind == GOOD else "test") / part.kind
    place.mkdir(parents=True, exist_ok=True)
    stem, number = part.image.stem, 1
    while place / stem in stems:
        stem, number = f"{part.image.stem}_{number}", number + 1
    stems.add(place / stem)
    shutil.copyfile(part.image, place / f"{stem}{part.image.suffix}")
    if part.mask is not None:
        truth = folder / "ground_truth" / part.kind
        truth.mkdir(parents=True, exist_ok=True)
        Image.fromarray(part.mask).save(truth / f"{stem}_mask.png")


def is_background(name: str) -> bool:
    """Return whether a mark of this name is no anomaly."""
    return name.lower().strip("_") == _BACKGROUND


def folder_of(names: Iterable[str]) -> str:
    """Return the name of the folder of an image with these anomalies: that of the only one, or ``several``.

    Raises:
        ValueError: If one has no name of a folder of defects.
    """
    found = sorted(set(names))
    for name in found:
        plain = name == Path(name).name and not set(name) & {"\\", "\0"} and len(name.encode()) <= _LONGEST
        if not name or is_good(name) or not plain or name.startswith("."):
            msg = f"It names an anomaly {name!r}: that is no name of a folder of defects."
            raise ValueError(msg)
    return found[0] if len(found) == 1 else _SEVERAL


def local(address: str, *folders: Path) -> Path:
    """Return the copy of a file in the first of some folders: the one at the longest end of its address that is there.

    Raises:
        FileNotFoundError: If there is none.
    """
    parts = [part for part in address.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    for folder in folders:
        for start in range(len(parts)):
            if (file := folder.joinpath(*parts[start:])).is_file():
                return file
    msg = f"There is no copy of '{address}' in '{folders[-1]}': check --files."
    raise FileNotFoundError(msg)
