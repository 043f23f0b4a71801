# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Images that show what the memory holds already, so that no threshold or metric may rest on them."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from anomalib.data import AnomalibDataModule
from torch.nn import functional as F

if TYPE_CHECKING:
    from .shots import TrainingShots

_SIDE = 32  # of a thumbnail: the noise of a camera averages out
_ALIKE = 0.005  # mean difference of thumbnails: 1.3 of 255 gray levels; frames with a noise of 2 levels differ by 0.003
_MANY = 200  # among more images, some copies do not decide


def thumbnail(image: torch.Tensor) -> torch.Tensor:
    """Shrink an image of shape ``(1, 3, H, W)`` to one of shape ``(3 * 32 * 32,)``."""
    return F.adaptive_avg_pool2d(image.float().cpu(), _SIDE).flatten()


def parts_of(thumbnails: Sequence[torch.Tensor]) -> list[int]:
    """Tell which images show the same part: copies of a file, or frames of a video of it.

    By each :func:`thumbnail` the number of the first image of its part. All differ among very many images.
    """
    if not 1 < len(thumbnails) <= _MANY:
        return list(range(len(thumbnails)))
    rows = torch.stack(list(thumbnails))
    alike = torch.cdist(rows, rows, p=1) / rows.shape[1] < _ALIKE
    return [int(row.nonzero()[0]) for row in alike]


def digests_of(dataset: object, paths: Iterable[str]) -> set[str]:
    """Return the digests of images as their data set reads them, see :func:`.image_digest`."""
    from anople_anomalib.data.image_reading import image_digest
    from anople_anomalib.data.parts import white_of

    return {image_digest(path, white_of(dataset)) for path in paths}


def require_no_shots(datamodule: AnomalibDataModule, shots: "TrainingShots") -> None:
    """Refuse shots among the images of validation and test, by their pixels: whatever file holds them.

    Args:
        datamodule: The datamodule of a training run.
        shots: The shots.

    Raises:
        ValueError: If there is one: its distance to the memory is 0, so that the threshold would be far too low.
    """
    from anople_anomalib.data.image_reading import turned_size

    taught = digests_of(shots.dataset, shots.paths)
    sizes = set(map(turned_size, shots.paths))  # of images of other sizes nothing but the heads is read
    for name, purpose in (("val_data", "validation"), ("test_data", "test")):
        data = vars(datamodule).get(name)
        paths = list(data.samples.image_path) if data is not None and len(data) else []
        found = [path for path in paths if turned_size(path) in sizes and digests_of(data, [path]) <= taught]
        if found:
            msg = (
                f"{len(found)} of {len(paths)} images of the {purpose} are shots or copies of them, such as "
                f"'{found[0]}': their distance to the memory is 0, so that thresholds and metrics would mean nothing; "
                "give other good images, or none."
            )
            raise ValueError(msg)
