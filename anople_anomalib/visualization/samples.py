# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Predictions of anomalib's engine as images that can be drawn."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from anomalib.data import ImageBatch, ImageItem, NumpyImageBatch, NumpyImageItem
from matplotlib.axes import Axes
from torch import nn
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from anople_anomalib.anople import AnoPLe
from anople_anomalib.data.image_reading import read_image
from anople_anomalib.deployment.heat_maps import stretched
from anople_anomalib.utils.transforms import transform_of

from .style import PREDICTION, SMALL, TRUTH, show_image, show_mask

LONGEST_SIDE = 320
"""Larger images are shrunk: a figure of several cannot show more."""
THRESHOLD = 0.5
"""Where anomalib's post-processor puts the threshold by its normalization of the scores."""

Predictions = Sequence[ImageBatch | NumpyImageBatch]
"""Batches as ``engine.predict`` returns them; the answers of anomalib's inferencers are of this kind, too."""


class Sample(NamedTuple):
    """One predicted image; ``None`` where something is not known.

    Attributes:
        name: Folder and stem of its file, as ``"crack/003"``; empty without a file.
        image: As the file shows it, shape ``(H, W, 3)``, values in [0, 1].
        score: Image-level score.
        is_anomalous: The ground truth.
        truth: Its mask, shape ``(h, w)``, dtype bool; ``heat`` and ``predicted`` are the anomaly map and its mask.
    """

    name: str
    image: np.ndarray
    score: float | None
    is_anomalous: bool | None
    truth: np.ndarray | None
    heat: np.ndarray | None
    predicted: np.ndarray | None

    @property
    def error(self) -> float:
        """How far the score is on the wrong side of the threshold; negative where it is on the right side."""
        if self.score is None or self.is_anomalous is None:
            return -THRESHOLD
        return error_of(self.score, self.is_anomalous)

    @property
    def is_wrong(self) -> bool:
        """Whether the score is on the wrong side; as in anomalib, one at the threshold itself counts as normal."""
        return self.error > 0 or (self.error == 0 and bool(self.is_anomalous))

    @property
    def verdict(self) -> str:
        """The score, and in words whether it is on the wrong side of the threshold."""
        if self.score is None:
            return ""
        wrong = "missed" if self.is_anomalous else "false alarm"
        return f"{self.score:.2f} {wrong}" if self.is_wrong else f"{self.score:.2f}"

    def show(self, axes: Axes, predicted: bool = False) -> None:
        """Put the image on axes with its ground truth, and its prediction where that is asked for."""
        show_image(axes, self.image)
        if predicted:
            show_mask(axes, self.image, self.predicted, PREDICTION, fill=True)
        show_mask(axes, self.image, self.truth, TRUTH)

    def show_named(self, axes: Axes) -> None:
        """Put the image with its ground truth on axes, and its name beside it."""
        self.show(axes)
        axes.set_ylabel(self.name, fontsize=SMALL, labelpad=3)


def error_of(score: float, is_anomalous: bool) -> float:
    """Return how far a score is on the wrong side of the threshold."""
    return THRESHOLD - score if is_anomalous else score - THRESHOLD


def samples_of(predictions: Iterable[ImageBatch | NumpyImageBatch]) -> list[Sample]:
    """Take predictions apart, as ``engine.predict`` returns them: scores and maps normalized; none is a ValueError."""
    samples = [sample_of(item) for batch in predictions for item in batch]
    if not samples:
        msg = "There are no predictions to draw: pass what engine.predict returns."
        raise ValueError(msg)
    return samples


def sample_of(item: ImageItem | NumpyImageItem) -> Sample:
    """Make a sample of one predicted image; its image comes from its file, if there is one."""
    path = item.image_path
    return Sample(
        name=short_name(path),
        image=pixels_of(read_image(path) if path and Path(path).is_file() else torch.as_tensor(item.image)),
        score=None if item.pred_score is None else float(item.pred_score),
        is_anomalous=None if item.gt_label is None else bool(item.gt_label),
        truth=_mask(item.gt_mask),
        heat=None if item.anomaly_map is None else _plane(item.anomaly_map).float().numpy(),
        predicted=_mask(item.pred_mask),
    )


def select(predictions: Iterable[ImageBatch], names: Sequence[str]) -> ImageBatch:
    """Select images of predictions by their names, folder and stem of each file, as ``"crack/003"``.

    Returns:
        One batch, in the order of the names.

    Raises:
        ValueError: If there is no image of a name.
    """
    items = {short_name(item.image_path): item for batch in predictions for item in batch}
    missing = [name for name in names if name not in items]
    if missing or not names:
        msg = f"There is no image {(missing or [''])[0]!r}; there are {', '.join(items)}."
        raise ValueError(msg)
    return collate([items[name] for name in names])


def head(batch: ImageBatch, number: int) -> ImageBatch:
    """Return the first images of a batch."""
    return batch if len(batch) <= number else collate(batch.items[:number])


def collate(items: list[ImageItem]) -> ImageBatch:
    """Join images to a batch."""
    return cast("ImageBatch", ImageBatch.collate(items))  # anomalib declares the result as any kind of batch


def load_images(model: AnoPLe, paths: Sequence[str | Path]) -> ImageBatch:
    """Read and pre-process image files for functions that look inside the model: a batch without predictions."""
    transform = transform_of(model.pre_processor) or nn.Identity()
    images = [transform(read_image(path).unsqueeze(0)) for path in paths]
    return ImageBatch(image=torch.cat(images), image_path=[str(path) for path in paths])


def pixels_of(image: torch.Tensor) -> np.ndarray:
    """Turn an image of shape ``(3, H, W)`` into one of shape ``(h, w, 3)``, no side longer than :data:`LONGEST_SIDE`.

    Values are in [0, 1], to which normalized ones are stretched.
    """
    image = stretched(image.detach().float().cpu())
    height, width = image.shape[-2:]
    shrink = min(1.0, LONGEST_SIDE / max(height, width))
    size = [max(1, round(shrink * height)), max(1, round(shrink * width))]
    image = resize(image, size, interpolation=InterpolationMode.BILINEAR, antialias=True)
    return image.clamp(0, 1).permute(1, 2, 0).numpy()


def short_name(path: str | Path | None) -> str:
    """Return folder and stem of a file: the kind of defect and the number, in the layouts of most data sets."""
    return "/".join(Path(path).with_suffix("").parts[-2:]) if path else ""


def _mask(mask: torch.Tensor | np.ndarray | None) -> np.ndarray | None:
    return None if mask is None else _plane(mask).bool().numpy()


def _plane(values: torch.Tensor | np.ndarray) -> torch.Tensor:
    """Reshape to ``(h, w)``, whatever the number of leading axes of length 1."""
    values = torch.as_tensor(values).detach().cpu()
    return values.reshape(values.shape[-2:])
