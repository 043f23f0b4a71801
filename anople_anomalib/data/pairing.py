# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Which mask belongs to which image: by name and folder.

anomalib pairs the first image with the first mask, the second with the second, in the order of their paths, and accepts
that if every image's name is part of its mask's. ``a/0.png`` and ``b/0.png`` with the masks ``ma/0.png`` and
``m/0.png`` come out crosswise.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from anomalib.data import AnomalibDataModule, Folder
from anomalib.data.datasets import AnomalibDataset
from anomalib.data.datasets.image import (
    FolderDataset,
    MPDDDataset,
    MVTecADDataset,
    VADDataset,
    VisaDataset,
)
from anomalib.data.utils.image import is_image_file

from anople_anomalib.utils.files import common_folder

PAIRED_BY_ORDER = (FolderDataset, MPDDDataset, MVTecADDataset, VADDataset, VisaDataset)
"""Data sets of anomalib that pair by order, with a folder of images for every folder of masks."""

READ_BY_PARTS = "read the folders by --data Parts (arguments as those of Folder; root is the folder of one category)"

Place = tuple[int | None, Path]
"""Number of the folder that a file is in, of those that are known, and the folder below it."""

Folders = Sequence[tuple[Path, Path]]
"""Folders of images, each with the folder of its masks."""


def pair_masks(images: Sequence[Path], masks: Sequence[Path], folders: Folders = ()) -> dict[Path, Path]:
    """Find the mask of every image.

    Its name is the image's, perhaps with something before or after it (``0_mask.png``); of several such masks it is
    the one in the same folder, below the folders of all images and of all masks, or below those of ``folders``.

    Args:
        images: Anomalous images.
        masks: All masks.
        folders: Folders of images and of their masks, if they are known.

    Returns:
        The mask of every image.

    Raises:
        ValueError: If an image has no mask, several masks fit, or two images have the same; the message names it.
    """
    image_places, mask_places = _places(images, [f[0] for f in folders]), _places(masks, [f[1] for f in folders])
    stems = {image.stem for image in images}
    longest = {mask: max((len(stem) for stem in stems if _belongs(stem, mask.stem)), default=0) for mask in masks}
    pairs: dict[Path, Path] = {}
    taken: dict[Path, Path] = {}
    for image in images:
        named = [mask for mask in masks if longest[mask] == len(image.stem) and _belongs(image.stem, mask.stem)]
        mask = _nearest(image, image_places[image], {mask: mask_places[mask] for mask in named})
        if mask in taken:
            msg = f"The images '{taken[mask]}' and '{image}' have the same mask '{mask}': give each a mask of its name."
            raise ValueError(msg)
        pairs[image], taken[mask] = mask, image
    return pairs


def folders_of(dataset: AnomalibDataset) -> Folders:
    """Return folders of images and their masks that a data set was given as two lists of the same length."""
    if not isinstance(dataset, FolderDataset):
        return ()
    images, masks = _as_paths(dataset.abnormal_dir, dataset.root), _as_paths(dataset.mask_dir, dataset.root)
    return list(zip(images, masks, strict=True)) if len(images) == len(masks) > 1 else ()


def crosswise(paired: Mapping[Path, Path], by_name: Mapping[Path, Path]) -> str | None:
    """Say for which image anomalib, by the order of sorted paths, takes another mask than that of the image's name."""
    for image, mask in by_name.items():
        if paired[image] != mask:
            return f"anomalib takes '{paired[image]}' for the mask of '{image}', which is '{mask}': {READ_BY_PARTS}."
    return None


def _nearest(image: Path, place: Place, places: Mapping[Path, Place]) -> Path:
    """Choose among the masks with an image's name."""
    fitting = [mask for mask in places if places[mask][0] == place[0]]
    fitting = [mask for mask in fitting if places[mask] == place] or fitting
    exact = [mask for mask in fitting if mask.stem == image.stem]
    fitting = exact or fitting
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        msg = f"The anomalous image '{image}' has no mask: none has its name and is in the folder for its masks."
    else:
        names = ", ".join(f"'{mask}'" for mask in fitting[:3])
        msg = (
            f"It is not clear which mask belongs to the anomalous image '{image}': {names}. Name the folders of masks "
            "as those of the images, or give both as lists in the same order (abnormal_dir, mask_dir)."
        )
    raise ValueError(msg)


def _places(paths: Sequence[Path], folders: Sequence[Path]) -> dict[Path, Place]:
    """Return each path's folder, relative to the one of ``folders`` that it is in, or to what all paths share."""
    common = common_folder(paths)
    places: dict[Path, Place] = {}
    for path in paths:
        absolute = path.absolute()
        number = next((n for n, folder in enumerate(folders) if absolute.is_relative_to(folder)), None)
        base = common if number is None else folders[number]
        places[path] = (number, absolute.parent.relative_to(base or absolute.parent))
    return places


def _belongs(image: str, mask: str) -> bool:
    """Return whether a mask's name contains an image's, not as a part of another number or word: 0_mask, not 10."""
    if image not in mask:
        return False
    before = r"(?<![0-9])" if image[:1].isdigit() else r"(?<![^\W\d_])"
    after = r"(?![0-9])" if image[-1:].isdigit() else r"(?![^\W\d_])"
    return re.search(f"{before}{re.escape(image)}{after}", mask) is not None


def masks_on_disk(datamodule: AnomalibDataModule, root: Path) -> tuple[list[Path], list[Path], Folders]:
    """List the anomalous images and the masks of a datamodule that anomalib could not set up.

    Args:
        datamodule: A ``Folder``, or a datamodule in the layout of MVTec AD; others have none here.
        root: The folder of its categories.

    Returns:
        Images, masks, and the folders that were given as two lists of the same length; hidden files are among them.
    """
    if isinstance(datamodule, Folder):
        images, masks = _as_paths(datamodule.abnormal_dir, root), _as_paths(datamodule.mask_dir, root)
        folders = list(zip(images, masks, strict=True)) if len(images) == len(masks) > 1 else []
        return _images_in(images), _images_in(masks), folders
    category = root / datamodule.category
    defects = [folder for folder in sorted(category.glob("test/*")) if folder.name != "good"]
    return _images_in(defects), _images_in([category / "ground_truth"]), []


def _images_in(folders: Sequence[Path]) -> list[Path]:
    return [file for folder in folders for file in sorted(folder.rglob("*")) if is_image_file(file)]


def _as_paths(folders: str | Path | Sequence[str | Path] | None, root: str | Path | None) -> list[Path]:
    several = [folders] if isinstance(folders, str | Path) else list(folders or [])
    return [(Path(root or "") / folder).resolve() for folder in several]
