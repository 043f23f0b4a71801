# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Which files are images of a data set, and images that a user hands over in Python: tensors, files or folders."""

import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from anomalib.data.utils.image import is_image_file

from anople_anomalib.utils.files import common_folder, files_below, is_hidden, is_picture

from .image_reading import COMMAND, read_image, require_clear_white

logger = logging.getLogger(__name__)

OTHER_ENDINGS = f"files are left out, whose ending is not one that anomalib reads; {COMMAND} converts images"
GOOD_NAMES = ("good", "ok", "okay", "normal", "no_defect", "nodefect", "no_anomaly", "healthy")
"""Names of good parts, in any case; with blanks or hyphens for underscores, too."""

Folders = str | Path | Sequence[str | Path] | None
"""A folder with everything below it, an image, or several of both; below ``root`` unless the path is absolute."""

Images = torch.Tensor | str | Path | Sequence[torch.Tensor | str | Path]
"""A tensor ``(3, H, W)`` or ``(B, 3, H, W)`` with values in [0, 1], an image file, a folder, or several of these."""


class Listing(NamedTuple):
    """Files of folders."""

    images: list[Path]  # image files, sorted within a folder
    hidden: list[Path]  # image files with a component below the folder that starts with a dot
    others: list[Path]  # other files that are not hidden; among them may be images whose ending anomalib does not know

    @property
    def pictures(self) -> list[Path]:
        """Those of the others that are pictures by their ending."""
        return [file for file in self.others if is_picture(file)]


def list_images(paths: Iterable[str | Path]) -> Listing:
    """List the images in folders, with everything below them, and single files, whatever they end in.

    Raises:
        FileNotFoundError: If one is not there.
    """
    listing = Listing([], [], [])
    for path in map(Path, paths):
        if path.is_file():
            listing.images.append(path)
        elif not path.is_dir():
            msg = f"There is no image or folder '{path}': check the path."
            raise FileNotFoundError(msg)
        for file in [] if path.is_file() else files_below(path):
            hidden, image = is_hidden(file, path), is_image_file(file)
            if image:
                (listing.hidden if hidden else listing.images).append(file)
            elif not hidden:
                listing.others.append(file)
    return Listing(list(dict.fromkeys(listing.images)), listing.hidden, listing.others)


def say_other_endings(images: Sequence[str | Path]) -> None:
    """Warn of visible pictures beside all images of a folder that anomalib leaves out: no part may go unnoticed."""
    there = list_images([root] if (root := common_folder(images)) is not None else [])
    if there.pictures and len(images) == len(there.images):
        say(there.pictures, OTHER_ENDINGS)


def said_images(path: str | Path) -> list[Path]:
    """List the images in a folder, or a file, and warn of pictures that are left out."""
    listing = list_images([path])
    say(listing.pictures, OTHER_ENDINGS)
    return listing.images


def say(files: Sequence[Path], reason: str) -> None:
    """Warn of files that are not used, if there are any."""
    if files:
        logger.warning("%d %s: %s", len(files), reason, ", ".join(map(str, files[:5])))


def is_good(name: str) -> bool:
    """Return whether a folder or a label is that of good parts by its name."""
    return name.lower().replace(" ", "_").replace("-", "_") in GOOD_NAMES


def name_of(root: Path) -> str:
    """Return the name of the parts in a folder: its own, or that of the folder that a folder ``good`` is in."""
    folder = root.resolve()
    return (folder.parent if is_good(folder.name) else folder).name or "parts"


def below(root: Path, folders: Folders) -> list[Path]:
    """Return folders and files below a folder; absolute paths stay as they are."""
    several = [] if folders is None else [folders] if isinstance(folders, str | Path) else list(folders)
    return [(root / folder).absolute() for folder in several]


def subfolders(folder: Path) -> list[Path]:
    """List the folders in a folder that are not hidden, sorted; none where it is not there."""
    return sorted(each for each in folder.glob("*") if each.is_dir() and not each.name.startswith("."))


class PartFolders(NamedTuple):
    """Folders and files by their content."""

    good: list[Path]
    defective: list[Path]
    good_test: list[Path]
    masks: list[Path]
    calibration: list[Path]


def find_layout(root: Path) -> PartFolders:
    """Find the folders of a data set that names them as others do."""
    if not root.is_dir():
        msg = f"There is no folder '{root}': check root."
        raise FileNotFoundError(msg)
    if train := _good_folder(root / "train"):
        good_test, truth = _good_folder(root / "test"), root / "ground_truth"
        defects = [folder for folder in subfolders(root / "test") if [folder] != good_test]
        masks = [truth / folder.name for folder in defects] if truth.is_dir() else []
        return PartFolders(train, defects, good_test, masks, _good_folder(root / "validation"))
    good = _good_folder(root)
    if not good and (is_good(root.name) or any(map(is_image_file, root.glob("[!.]*")))):
        good = [root]
    if not good:
        msg = (
            f"There is neither 'train/good' nor 'good' in '{root}', nor an image: name the folder of the good parts "
            "(normal_dir)."
        )
        raise ValueError(msg)
    return PartFolders(good, [], [], [], [])


def _good_folder(folder: Path) -> list[Path]:
    return [each for each in subfolders(folder) if is_good(each.name)][:1]


def each_image(images: Images) -> Iterator[tuple[str, torch.Tensor]]:
    """Go through images one by one; a file is read when its turn comes.

    Args:
        images: Tensors with values in [0, 1], files, folders (searched with everything below them), or a list of them.

    Yields:
        Their names (files, or numbers among the tensors), and images of shape ``(1, 3, H, W)``, values in [0, 1].

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If there is no image, a file is not a readable image, or a tensor has another shape or range.
        TypeError: If something is neither a tensor nor a path.
    """
    parts, numbers = _parts(images), itertools.count(1)
    if not parts:
        msg = "images is empty: give at least one image, as a tensor, a file or a folder."
        raise ValueError(msg)
    for part in parts:
        if isinstance(part, torch.Tensor):
            yield from ((f"tensor {next(numbers)}", image) for image in _checked(part).split(1))
        elif isinstance(part, str | Path):
            yield from ((str(path), read_image(path).unsqueeze(0)) for path in _files(Path(part)))
        else:
            msg = f"images must be tensors with values in [0, 1], files or folders, got a {type(part).__name__}."
            raise TypeError(msg)


def files_of(images: Images) -> list[Path]:
    """List the files among images, as :func:`each_image` takes them."""
    return [file for part in _parts(images) if not isinstance(part, torch.Tensor) for file in _files(Path(part))]


def _parts(images: Images) -> list[torch.Tensor | str | Path]:
    return [images] if isinstance(images, torch.Tensor | str | Path) else list(images)


def _checked(images: torch.Tensor) -> torch.Tensor:
    """Return a tensor of images, shape ``(B, 3, H, W)``."""
    batch = images.unsqueeze(0) if images.ndim == 3 else images
    if batch.ndim != 4 or batch.shape[1] != 3 or batch.numel() == 0:
        msg = f"A tensor of images must have the shape (3, H, W) or (B, 3, H, W), got {tuple(images.shape)}."
        raise ValueError(msg)
    if not batch.is_floating_point() or not 0 <= batch.min() <= batch.max() <= 1:
        msg = (
            f"Images must be floating-point values in [0, 1], neither bytes nor normalized, got {batch.dtype} in "
            f"[{batch.min().item():g}, {batch.max().item():g}]."
        )
        raise ValueError(msg)
    return batch


def _files(path: Path) -> list[Path]:
    files = said_images(path)
    if not files:
        msg = f"'{path}' is not an image and holds none: give image files such as .png or .jpg, or a folder of them."
        raise ValueError(msg)
    require_clear_white(files)
    return files
