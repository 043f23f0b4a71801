# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Refuses datamodules that show the test other images than the memory and an exported model."""

from anomalib.data import AnomalibDataModule
from torchvision.transforms.v2 import Resize, Transform

from anople_anomalib.utils.transforms import flat


def require_plain_evaluation(datamodule: AnomalibDataModule, transform: Transform | None) -> None:
    """Refuse augmentations of test images, which neither the memory nor an exported model would see.

    Args:
        datamodule: The datamodule of a run.
        transform: The transform of the model's pre-processor; with a ``Resize`` of its own it takes the place of one
            that stands alone in a datamodule.
    """
    resizes = any(isinstance(part, Resize) for part in flat(transform))
    for name in ("val_augmentations", "test_augmentations"):
        augmentations = vars(datamodule).get(name)
        if augmentations is None or (resizes and isinstance(augmentations, Resize)):
            continue
        msg = (
            f"{name} of {datamodule.name} ({augmentations}) would change the images of the evaluation, but neither the "
            "shots in the memory nor the images of an exported model: give train_augmentations for training alone "
            "(augmentations sets all three), or put it into the transform of the model's pre-processor."
        )
        raise ValueError(" ".join(msg.split()))


def require_whole_images(datamodule: AnomalibDataModule) -> None:
    """Refuse a datamodule's own collate function, such as that by which anomalib's tiled ensemble cuts tiles."""
    collate = datamodule.external_collate_fn
    if collate is not None:
        msg = (
            f"{datamodule.name} changes images while it collates them ({type(collate).__name__}, as anomalib's tiled "
            "ensemble does): the shots in the memory would not be the images that are tested. Cut the images into "
            "tiles on disk, or train on whole images."
        )
        raise ValueError(msg)
