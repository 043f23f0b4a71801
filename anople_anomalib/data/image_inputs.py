# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Images that a user hands over in Python: tensors, files or folders."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from .image_reading import read_image, require_clear_white
from .listing import list_images

Images = torch.Tensor | str | Path | Sequence[torch.Tensor | str | Path]
"""A tensor ``(3, H, W)`` or ``(B, 3, H, W)`` with values in [0, 1], an image file, a folder, or several of these."""


def each_image(images: Images) -> Iterator[torch.Tensor]:
    """Go through images one by one; a file is read when its turn comes.

    Args:
        images: Tensors with values in [0, 1], files, folders (searched with everything below them), or a list of them.

    Yields:
        Images of shape ``(1, 3, H, W)``, values in [0, 1].

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If there is no image, a file is not a readable image, or a tensor has another shape or range.
        TypeError: If something is neither a tensor nor a path.
    """
    parts = [images] if isinstance(images, (torch.Tensor, str, Path)) else list(images)
    if not parts:
        msg = "images is empty: give at least one image, as a tensor, a file or a folder."
        raise ValueError(msg)
    for part in parts:
        if isinstance(part, torch.Tensor):
            yield from _checked(part).split(1)
        elif isinstance(part, (str, Path)):
            yield from (read_image(path).unsqueeze(0) for path in _files(Path(part)))
        else:
            msg = f"images must be tensors with values in [0, 1], files or folders, got a {type(part).__name__}."
            raise TypeError(msg)


def files_of(images: Images) -> list[Path]:
    """List the files among images, as :func:`each_image` takes them.

    Args:
        images: Tensors, files, folders, or a list of them.
    """
    parts = [images] if isinstance(images, (torch.Tensor, str, Path)) else list(images)
    return [file for part in parts if not isinstance(part, torch.Tensor) for file in _files(Path(part))]


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
    files = list_images([path]).images
    if not files:
        msg = f"'{path}' is not an image and holds none: give image files such as .png or .jpg, or a folder of them."
        raise ValueError(msg)
    require_clear_white(files)
    return files
