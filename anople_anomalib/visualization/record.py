# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""What is kept of a test run for the images at its end: a few numbers of every image, and a few whole images."""

from collections.abc import Callable

import torch
from anomalib.data import ImageItem

from .samples import THRESHOLD


class Record:
    """Record of the images of a test run, which grows by a few numbers per image.

    Args:
        number: How many whole images to keep of each kind.

    Attributes:
        failures: Images whose score is furthest on the wrong side of the threshold, the worst first.
        highest: Images with the highest scores, the highest first.
        scores: Scores of all images.
        labels: Whether each of them is anomalous; ``None`` where that is not known.
        embeddings: Their embeddings, each of shape ``(D,)``, where the model gives them.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self.failures: list[ImageItem] = []
        self.highest: list[ImageItem] = []
        self.scores: list[float] = []
        self.labels: list[bool | None] = []
        self.embeddings: list[torch.Tensor] = []

    @property
    def has_labels(self) -> bool:
        """Whether there are images, all with a label."""
        return bool(self.labels) and None not in self.labels

    def add(self, item: ImageItem, embedding: torch.Tensor | None = None) -> None:
        """Add an image; one without a score is left out.

        Args:
            item: The image with its prediction.
            embedding: Its embedding, shape ``(D,)``, if there is one.
        """
        if item.pred_score is None:
            return
        self.scores.append(float(item.pred_score))
        self.labels.append(None if item.gt_label is None else bool(item.gt_label))
        if embedding is not None:
            self.embeddings.append(embedding)
        self.highest = self._largest([*self.highest, item], _score)
        if item.gt_label is not None:
            self.failures = self._largest([*self.failures, item], _error)

    def _largest(self, items: list[ImageItem], key: Callable[[ImageItem], float]) -> list[ImageItem]:
        return sorted(items, key=key, reverse=True)[: self._number]


def _score(item: ImageItem) -> float:
    return float("-inf") if item.pred_score is None else float(item.pred_score)


def _error(item: ImageItem) -> float:
    """Return how far the score is on the wrong side of the threshold."""
    return THRESHOLD - _score(item) if item.gt_label else _score(item) - THRESHOLD
