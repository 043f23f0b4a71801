# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Masks: which one belongs to which image, and how it becomes binary.

anomalib pairs the first image with the first mask, the second with the second, in the order of their paths, and accepts
that if every image's name is part of its mask's. ``a/0.png`` and ``b/0.png`` with the masks ``ma/0.png`` and
``m/0.png`` come out crosswise. Here names and folders tell.

anomalib calls every pixel anomalous that is not black. A mask that was stored as JPEG has a rim of values 1, 2, 3
around every anomaly, and one with soft edges is larger by half their width. Here a pixel is anomalous if it is brighter
than half of the brightest one; a mask whose brightest value is below 32 holds numbers of classes, and every one but 0
is anomalous.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from anomalib.data import AnomalibDataModule, Folder
from anomalib.data.datasets import AnomalibDataset
from anomalib.data.datasets.image import FolderDataset, MPDDDataset, MVTecADDataset, VADDataset, VisaDataset
from numpy.typing import NDArray
from PIL import Image, ImageOps
from scipy import ndimage

from anople_anomalib.utils.files import common_folder
from anople_anomalib.utils.image_heads import deep_white, opened

from .image_reading import IMAGE_ERRORS, deep_values
from .listing import below, list_images

PAIRED_BY_ORDER = (FolderDataset, MPDDDataset, MVTecADDataset, VADDataset, VisaDataset)
"""Data sets of anomalib that pair by order, with a folder of images for every folder of masks."""
READ_BY_PARTS = "read the folders by --data Parts (arguments as those of Folder; root is the folder of one category)"

Place = tuple[int | None, Path]
"""Number of the folder that a file is in, of those that are known, and the folder below it."""

FolderPairs = Sequence[tuple[Path, Path]]
"""Folders of images, each with the folder of its masks."""

_CLASSES = 32
"""Masks without a value as large as this one hold numbers of classes, not brightnesses."""
_LOSSY = {"JPEG", "MPO", "WEBP", "JPEG2000"}
_FAINT, _FLAT, _SOFT = 1 / 8, 5, 9
"""An area, not an edge: brighter than this share of the brightest value, below half, constant over so many pixels;
or with nothing brighter in a window of so many."""
_EDGE = 33
"""Pixels in which a soft edge goes from black to white."""
_GRAY, _PLAIN, _NEAR = 1 / 10, 1 / 2, 1 / 32
"""Largest share of a mask that is gray beside no edge; smallest that is black or bright; how near that is. Soft masks
have at most 0.054 and at least 0.52; of photographs the first is above 0.4 or the second below 0.1."""


def binary_mask(path: str | Path, ignore: int | None = None) -> NDArray[np.bool_]:
    """Read a mask.

    Args:
        path: Its file, of any mode; of colors the largest channel counts, of transparent ones as much as is seen.
        ignore: The value of pixels that are neither normal nor anomalous in a mask of class numbers, often 255. With it
            every other value but 0 is anomalous; anomalib knows no third kind, so that ignored pixels count as normal.

    Returns:
        Where it is anomalous, shape ``(H, W)``.

    Raises:
        ValueError: If it cannot be read, is drawn by transparency alone, is a photograph, or has flat areas of several
            values, so that it is not clear which of them are anomalous.
    """
    try:
        with opened(path) as image:
            deep, lossy = deep_white(image) is not None, image.format in _LOSSY
            values = deep_values(image) if deep else _values(ImageOps.exif_transpose(image))
    except IMAGE_ERRORS as error:
        msg = f"The mask '{path}' cannot be read ({error or type(error).__name__}): repair or remove it."
        raise ValueError(msg) from error
    values = values.reshape(*values.shape[:2], -1).max(axis=2).astype(np.float64)
    if ignore is not None:
        return (values > 0) & (values != ignore)
    largest = values.max()
    if largest < _CLASSES:
        return values > 0
    # a mask that was a JPEG file once has many low values around an anomaly; one of class numbers has few
    few = not lossy and len(np.unique(values)) <= _CLASSES
    if not few and _is_photograph(values):
        msg = (
            f"The mask '{path}' is no mask: most of it, or large areas, are gray as in a photograph or a heat map. "
            "Make what is good black, and every defect white."
        )
        raise ValueError(msg)
    faint = (values > (0 if few else _FAINT * largest)) & (2 * values <= largest)
    area = ndimage.maximum_filter(values, _FLAT) == ndimage.minimum_filter(values, _FLAT)
    if few:  # thin areas, too: a soft edge is beside something bright
        area |= 2 * ndimage.maximum_filter(values, _SOFT) <= largest
    unclear = faint & area
    if unclear.any():
        value = values[unclear][0]
        msg = (
            f"The mask '{path}' has areas of value {value:g} beside others of {largest:g}, and it is not clear whether "
            f"they are anomalous: make them 0 or {largest:g}; if they are numbers of classes and {largest:g} is none, "
            f"say --data Parts --data.ignore {largest:g}."
        )
        raise ValueError(msg)
    return 2 * values > largest


def _is_photograph(values: NDArray[np.float64]) -> bool:
    """Return whether gray is no soft edge between black and the brightest value."""
    largest = values.max()
    faint, bright = _FAINT * largest, (1 - _FAINT) * largest
    gray = (values > faint) & (values < bright)
    edge = (ndimage.maximum_filter(values, _EDGE) >= bright) & (ndimage.minimum_filter(values, _EDGE) <= faint)
    plain = (values <= _NEAR * largest) | (values >= (1 - _NEAR) * largest)
    return bool((gray & ~edge).mean() > _GRAY or plain.mean() < _PLAIN)


def _values(image: Image.Image) -> NDArray[np.uint8]:
    """Return the values of a mask of 8 bits as they are seen before black, shape ``(H, W, 3)``.

    Raises:
        ValueError: If readers that leave transparency out, as anomalib's, would see other defects.
    """
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB"))
    values = np.asarray(image.convert("RGBA"))
    colors, opacity = values[..., :3], values[..., 3:]
    if values.size == 0 or opacity.min() == opacity.max():
        return colors
    seen, drawn = opacity[..., 0] > 0, colors.max(axis=-1) > 0
    erased = np.array_equal(seen, drawn) and seen.mean() > _PLAIN  # one color, with holes
    if not drawn.any() or drawn[~seen].any() or erased:
        msg = (
            "its transparency draws what its colors do not, and it is not clear whether what is drawn or what is "
            "erased is the defect: save it without transparency, defects white and the rest black"
        )
        raise ValueError(msg)
    return (colors * (opacity / 255)).round().astype(np.uint8)


def require_mask_of(
    image: str | Path, size: tuple[int, int], mask: str | Path, mask_size: tuple[int, int], anomalous: int
) -> None:
    """Refuse a mask that marks nothing, or of another shape than its image; another size of the same shape is fine.

    Args:
        image: An image of a defective part.
        size: Its width and height.
        mask: Its mask.
        mask_size: Width and height of the mask.
        anomalous: Number of the pixels that it marks.

    Raises:
        ValueError: If there is none, or the mask would be stretched by more than a pixel.
    """
    if not anomalous:
        msg = f"The mask '{mask}' of the defective part '{image}' marks no pixel: draw the defect in it, in white."
        raise ValueError(msg)
    (width, height), (mask_width, mask_height) = size, mask_size
    if abs(width * mask_height - height * mask_width) > max(size) + max(mask_size):  # rounded when it was resized
        msg = (
            f"The mask '{mask}' has {mask_width}x{mask_height} pixels, its image '{image}' {width}x{height}: it would "
            "be stretched over it. Draw the mask on the image as it is seen upright and whole."
        )
        raise ValueError(msg)


def pair_masks(images: Sequence[Path], masks: Sequence[Path], folders: FolderPairs = ()) -> dict[Path, Path]:
    """Find the mask of every image.

    Its name is the image's, perhaps with something before or after it (``0_mask.png``); of several such masks it is
    the one in the same folder, below the folders of all images and of all masks, or below those of ``folders``.

    Args:
        images: Anomalous images.
        masks: All masks.
        folders: Folders of images and of their masks, if they are known.

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


def crosswise(paired: Mapping[Path, Path], by_name: Mapping[Path, Path]) -> str | None:
    """Say for which image anomalib, by the order of sorted paths, takes another mask than that of the image's name."""
    for image, mask in by_name.items():
        if paired[image] != mask:
            return f"anomalib takes '{paired[image]}' for the mask of '{image}', which is '{mask}': {READ_BY_PARTS}."
    return None


def in_order(images: Sequence[Path], masks: Sequence[Path]) -> FolderPairs:
    """Pair folders of images and masks that were given as two lists of the same length."""
    return list(zip(images, masks, strict=True)) if len(images) == len(masks) > 1 else []


def folders_of(source: FolderDataset | Folder, root: str | Path | None) -> tuple[list[Path], list[Path]]:
    """Return the folders of anomalous images and those of masks."""
    images, masks = (below(Path(root or ""), folders) for folders in (source.abnormal_dir, source.mask_dir))
    return [folder.resolve() for folder in images], [folder.resolve() for folder in masks]


def require_same_pairs(dataset: AnomalibDataset, pairs: Mapping[Path, Path]) -> None:
    """Refuse pairs of a data set that pairs by order, where they are not those of the names: a ``ValueError``."""
    folders = in_order(*folders_of(dataset, dataset.root)) if isinstance(dataset, FolderDataset) else []
    if problem := crosswise(pairs, pair_masks(list(pairs), list(pairs.values()), folders)):
        raise ValueError(problem)


def masks_on_disk(datamodule: AnomalibDataModule, root: Path) -> tuple[list[Path], list[Path], FolderPairs]:
    """List the anomalous images and the masks of a datamodule that anomalib could not set up, hidden ones too.

    Args:
        datamodule: A ``Folder``, or a datamodule in the layout of MVTec AD; others have none here.
        root: The folder of its categories.

    Returns:
        Images, masks, and the folders that were given as two lists of the same length.
    """
    if isinstance(datamodule, Folder):
        images, masks = folders_of(datamodule, root)
    else:
        category = root / datamodule.category
        images = [folder for folder in sorted(category.glob("test/*")) if folder.name != "good"]
        masks = [category / "ground_truth"]
    listings = [list_images([path for path in paths if path.exists()]) for paths in (images, masks)]
    files = [[*listing.images, *listing.hidden] for listing in listings]
    return files[0], files[1], in_order(images, masks) if isinstance(datamodule, Folder) else []


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
    """Return each path's folder, relative to the one of ``folders`` that it is in, or to the one that all share."""
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
