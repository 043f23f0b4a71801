# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Which files are images of a data set, and what the folders of one's own parts are called."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from anomalib.data.utils.image import is_image_file

from anople_anomalib.utils.files import common_folder, is_hidden, is_picture

from .image_reading import COMMAND

logger = logging.getLogger(__name__)

OTHER_ENDINGS = f"files are left out, whose ending is not one that anomalib reads; {COMMAND} converts images"
GOOD_NAMES = ("good", "ok", "okay", "normal", "no_defect", "nodefect", "no_anomaly", "healthy")
"""Names of good parts, in any case; with blanks or hyphens for underscores, too."""

Folders = str | Path | Sequence[str | Path] | None
"""A folder with everything below it, an image, or several of both; below ``root`` unless the path is absolute."""


class Listing(NamedTuple):
    """Files of folders.

    Attributes:
        images: Image files, sorted within a folder.
        hidden: Image files with a component below the folder that starts with a dot.
        others: Other files that are not hidden; among them may be images whose ending anomalib does not know.
    """

    images: list[Path]
    hidden: list[Path]
    others: list[Path]

    @property
    def pictures(self) -> list[Path]:
        """Those of the others that are pictures by their ending."""
        return [file for file in self.others if is_picture(file)]


def say_other_endings(images: Sequence[str | Path]) -> None:
    """Warn of visible files beside images that anomalib leaves out: a part that is not judged must not go unnoticed.

    Args:
        images: The images of a run; nothing is said where they are not all of their folder.
    """
    there = list_images([root] if (root := common_folder(images)) is not None else [])
    others = there.pictures
    if others and len(images) == len(there.images):
        logger.warning("%d %s: %s", len(others), OTHER_ENDINGS, ", ".join(map(str, others[:5])))


def list_images(paths: Iterable[str | Path]) -> Listing:
    """List the images in folders, with everything below them, and single files, whatever they end in.

    Args:
        paths: Folders and files.

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
        for file in sorted(each for each in path.rglob("*") if each.is_file()):
            hidden, image = is_hidden(file, path), is_image_file(file)
            if image:
                (listing.hidden if hidden else listing.images).append(file)
            elif not hidden:
                listing.others.append(file)
    return Listing(list(dict.fromkeys(listing.images)), listing.hidden, listing.others)


def is_good(name: str) -> bool:
    """Return whether a folder or a label is that of good parts by its name."""
    return name.lower().replace(" ", "_").replace("-", "_") in GOOD_NAMES


class PartFolders(NamedTuple):
    """Folders and files by what they hold."""

    good: list[Path]
    defective: list[Path]
    good_test: list[Path]
    masks: list[Path]
    calibration: list[Path]


def below(root: Path, folders: Folders) -> list[Path]:
    """Return folders and files below a folder; absolute paths stay as they are."""
    several = [] if folders is None else [folders] if isinstance(folders, str | Path) else list(folders)
    return [(root / folder).absolute() for folder in several]


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


def subfolders(folder: Path) -> list[Path]:
    """List the folders in a folder that are not hidden, sorted; none where it is not there."""
    return sorted(each for each in folder.glob("*") if each.is_dir() and not each.name.startswith("."))


def _good_folder(folder: Path) -> list[Path]:
    return [each for each in subfolders(folder) if is_good(each.name)][:1]


def name_of(root: Path) -> str:
    """Return the name of the parts in a folder: its own, or that of the folder that a folder ``good`` is in."""
    folder = root.resolve()
    return (folder.parent if is_good(folder.name) else folder).name or "parts"


def require_one_use(uses: dict[str, Sequence[Path]]) -> None:
    """Refuse an image with two uses: its score would say nothing about new ones."""
    first: dict[Path, str] = {}
    for use, paths in uses.items():
        for path in paths:
            if first.setdefault(path.resolve(), use) != use:
                msg = (
                    f"The image '{path}' is there for {first[path.resolve()]} and for {use}: give every image one use."
                )
                raise ValueError(msg)


def say_left_out(listings: dict[str, Listing], used_masks: set[Path]) -> None:
    """Name files that are not used."""
    hidden = [path for listing in listings.values() for path in listing.hidden]
    others = [path for listing in listings.values() for path in listing.others]
    spare = [path for path in listings["masks"].images if path not in used_masks]
    for paths, reason in (
        (hidden, "hidden files are no images"),
        (others, OTHER_ENDINGS),
        (spare, "masks belong to no image"),
    ):
        if paths:
            logger.warning("%d %s: %s", len(paths), reason, ", ".join(str(path) for path in paths[:5]))
