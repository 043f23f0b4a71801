# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""What a test keeps of one category's images, and the metrics that follow from it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from anomalib.metrics.pro import connected_components_cpu
from torch import Tensor

from .bounds import Rate
from .score_histogram import Counts, ScoreHistogram, aupro, auroc, average_precision, best_f1

IMAGE, PIXEL = "image", "pixel"
SCORE_METRICS: dict[str, Callable[[Counts], Tensor]] = {
    "AUROC": lambda counts: auroc(counts.normal, counts.anomalous),
    "AUPR": lambda counts: average_precision(counts.normal, counts.anomalous),
    "F1Max": lambda counts: best_f1(counts.normal, counts.anomalous)[0],
}
"""Metrics of raw scores, of images and of pixels."""
F1_SCORE, AUPRO = "F1Score", "AUPRO"
METRICS = tuple(
    f"{level}_{name}"
    for level, names in ((IMAGE, (*SCORE_METRICS, F1_SCORE)), (PIXEL, (*SCORE_METRICS, AUPRO, F1_SCORE)))
    for name in names
)
"""All that can be asked for."""
PAPER_METRICS = ("image_AUROC", "image_AUPR", "image_F1Max", "pixel_AUROC", "pixel_AUPRO", "pixel_F1Max")
GOOD = "good"
"""Class of the parts without a defect."""
ANOMALIB_METRICS = ("image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score")


@dataclass
class LabelCounts:
    """Counts of right and wrong labels.

    Attributes:
        hits: Anomalous ones that are called so.
        false_alarms: Normal ones that are called anomalous.
        misses: Anomalous ones that are called normal.
        seen: Whether there were labels at all.
    """

    hits: int = 0
    false_alarms: int = 0
    misses: int = 0
    seen: bool = False

    def update(self, labels: Tensor, truth: Tensor) -> None:
        """Count labels and their truth, both Boolean and of one size."""
        labels, truth = labels.flatten().cpu().bool(), truth.flatten().cpu().bool()
        self.hits += int((labels & truth).sum())
        self.false_alarms += int((labels & ~truth).sum())
        self.misses += int((~labels & truth).sum())
        self.seen = True

    def f1_score(self) -> float:
        """Compute 2 TP / (2 TP + FP + FN), where there is an anomalous one."""
        return 2 * self.hits / (2 * self.hits + self.false_alarms + self.misses)


class CategoryScores:
    """Counted scores and labels of one category: their size does not grow with the number of images."""

    def __init__(self) -> None:
        self.images = 0
        self.regions = 0
        self.classes: dict[str, list[int]] = {}  # parts called wrongly, and all parts
        self.scores = {IMAGE: ScoreHistogram(), PIXEL: ScoreHistogram()}
        self.labels = {IMAGE: LabelCounts(), PIXEL: LabelCounts()}

    def update_images(
        self, scores: Tensor | None, labels: Tensor | None, truth: Tensor | None, defects: Sequence[str] = ()
    ) -> None:
        """Count images.

        Args:
            scores: Raw scores, one per image.
            labels: Whether each is called anomalous.
            truth: Whether it is.
            defects: Name of the defect of each, where it has one; empty where none is known.
        """
        if scores is not None:
            self.images += scores.numel()
        if truth is None:
            return
        if scores is not None:
            self.scores[IMAGE].update(scores, truth)
        if labels is not None:
            self.labels[IMAGE].update(labels, truth)
            names = defects or [""] * len(truth)
            for label, anomalous, defect in zip(labels.flatten(), truth.flatten(), names, strict=True):
                counted = self.classes.setdefault(defect or "defective" if anomalous else GOOD, [0, 0])
                counted[0] += bool(label) != bool(anomalous)
                counted[1] += 1

    def rates(self) -> dict[str, Rate]:
        """Return the share of wrong verdicts by class: of good parts the false alarms, of defects the escapes."""
        return {name: Rate(*counted) for name, counted in sorted(self.classes.items())}

    def update_pixels(self, maps: Tensor | None, masks: Tensor | None, truth: Tensor | None) -> None:
        """Count pixels.

        Args:
            maps: Raw anomaly maps, shape ``(B, H, W)``, with or without a channel.
            masks: Predicted masks, as many pixels.
            truth: True masks, shape ``(B, H, W)``, with or without a channel.
        """
        if truth is None:
            return
        if maps is not None:
            weights, regions = region_weights(truth)
            self.scores[PIXEL].update(maps, truth, weights)
            self.regions += regions
        if masks is not None:
            self.labels[PIXEL].update(masks, truth)

    def compute(self, metrics: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Compute metrics.

        Args:
            metrics: Names out of :data:`METRICS`.

        Returns:
            The values that are defined, as float32, and the reasons why the others are not.
        """
        values, reasons = {}, {}
        counts = {level: histogram.read() for level, histogram in self.scores.items()}
        for metric in metrics:
            level, name = metric.split("_")
            if reason := self._undefined(level, name):
                reasons[metric] = reason
            elif name == F1_SCORE:
                values[metric] = torch.tensor(self.labels[level].f1_score())
            elif name == AUPRO:
                values[metric] = aupro(counts[level].normal, counts[level].weight, self.regions).float()
            else:
                values[metric] = SCORE_METRICS[name](counts[level]).float()
        return values, reasons

    def _undefined(self, level: str, name: str) -> str | None:
        """Say why a metric is not defined, or return ``None`` if it is."""
        histogram, labels = self.scores[level], self.labels[level]
        if not self.images:
            return "no image was tested"
        if level == PIXEL and not (histogram.has_normal or histogram.has_anomalous or labels.seen):
            return "the test images have no masks"
        if name == F1_SCORE and not labels.seen:
            return "nothing was labeled: there is no threshold"
        if not (labels.hits + labels.misses if name == F1_SCORE else histogram.has_anomalous):
            return "no mask has an anomalous pixel" if level == PIXEL else "no anomalous image was tested"
        if name != F1_SCORE and not histogram.has_normal:
            return "no pixel is normal" if level == PIXEL else "no normal image was tested"
        return None


def region_weights(masks: Tensor) -> tuple[Tensor, int]:
    """Return the share that every pixel has in its anomalous region, for the per-region overlap.

    Args:
        masks: True masks, shape ``(B, H, W)``, with or without a channel.

    Returns:
        One over the region's number of pixels, 0 for normal pixels, flat; and the number of connected regions.
    """
    masks = masks.detach().cpu().reshape(len(masks), 1, *masks.shape[-2:]).bool()
    if not masks.any():
        return torch.zeros(masks.numel(), dtype=torch.double), 0
    labels = connected_components_cpu(masks.float()).flatten().long()  # 0 is normal, each region has its number
    sizes = torch.bincount(labels)
    weights = torch.where(labels > 0, 1 / sizes.double()[labels], 0.0)
    return weights, int((sizes[1:] > 0).sum())
