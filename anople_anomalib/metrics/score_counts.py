# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Counts of scores and labels in bounded memory, and the metrics that follow from them.

Kept instead of torchmetrics' binned metrics and anomalib's AUPRO, measured on maps of 256 x 256 of tiles, cookies and
bricks: 5,000 bins of torchmetrics are within 0.0002 of the exact AUROC, AUPR and F1, but take 2 s an image, and its
sigmoid makes one number of raw scores beyond 1 (AUROC off by 0.96); anomalib's AUPRO is exact and keeps 0.5 MB an
image. These counts are within 0.00001 of exact at 8 to 12 ms an image and 8 MB in all.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from anomalib.metrics.pro import connected_components_cpu
from torch import Tensor

from .bounds import GOOD, Rate

IMAGE, PIXEL = "image", "pixel"
METRICS = (
    "image_AUROC", "image_AUPR", "image_F1Max", "image_F1Score",
    "pixel_AUROC", "pixel_AUPR", "pixel_F1Max", "pixel_AUPRO", "pixel_F1Score",
)  # fmt: skip
"""All that can be asked for."""
_F1_SCORE = "F1Score"
_NORMAL, _ANOMALOUS, _WEIGHT = range(3)  # columns of the counts
_WITHOUT_SIGN = 0x7FFFFFFF


class Counts(NamedTuple):
    """Counted scores in descending order of the scores; every field has shape ``(n,)``, an entry per bin."""

    lowest: Tensor  # lowest score of the bin, dtype float64
    highest: Tensor  # highest score of the bin; the lowest where it is one number
    normal: Tensor  # normal scores in the bin
    anomalous: Tensor  # anomalous scores in the bin
    weight: Tensor  # sum of the weights in the bin


class ScoreHistogram:
    """Counts of normal and of anomalous scores, a bin for every float32 number that occurs.

    Only where more than ``capacity`` numbers occur, neighbours fall together, two by two, until there is room. The
    counts depend on all the scores together, not on the order or the batches they come in.

    Args:
        capacity: Largest number of bins; the default takes some 8 MB.
    """

    def __init__(self, capacity: int = 2**18) -> None:
        self.capacity = capacity
        self.shift = 0  # bits that the keys lack
        self.keys = torch.zeros(0, dtype=torch.long)
        self.counts = torch.zeros(0, 3, dtype=torch.double)

    def update(self, scores: Tensor, anomalous: Tensor, weights: Tensor | None = None) -> None:
        """Count scores.

        Args:
            scores: Scores of any shape; those that are not finite count as the largest finite ones, NaN as 0.
            anomalous: Whether they are anomalous, of the same shape.
            weights: Share that each adds to its bin's weight, of the same shape; ``None`` adds nothing.

        Raises:
            ValueError: If there are more truths than scores, or fewer.
        """
        if scores.numel() != anomalous.numel():
            msg = f"Scores and truth must be of one size, got {tuple(scores.shape)} and {tuple(anomalous.shape)}."
            raise ValueError(msg)
        truth = anomalous.flatten().cpu().bool()
        keys = _keys(scores.flatten().cpu().nan_to_num()) >> self.shift
        # Numpy sorts several times as fast as torch; the truth in the lowest bit saves it the places.
        pairs = torch.from_numpy(np.sort((2 * keys + truth).numpy()))
        fewer = _bits_to_drop(pairs >> 1, self.capacity)
        new, bins = torch.unique_consecutive(pairs >> (1 + fewer), return_inverse=True)
        added = self.counts.new_zeros(len(new), self.counts.shape[1])
        added[:, :_WEIGHT] = torch.bincount(2 * bins + (pairs & 1), minlength=2 * len(new)).view(-1, 2).double()
        seen, counts = torch.cat([self.keys >> fewer, new]), torch.cat([self.counts, added])
        more = _bits_to_drop(seen.sort().values, self.capacity)
        self.keys, bins = (seen >> more).unique(return_inverse=True)
        self.counts = counts.new_zeros(len(self.keys), counts.shape[1]).index_add_(0, bins, counts)
        self.shift += fewer + more
        if weights is not None:
            given = weights.flatten().cpu().double()
            inside = given.nonzero().flatten()
            bins = torch.searchsorted(self.keys, keys[inside] >> (fewer + more))
            self.counts[:, _WEIGHT].index_add_(0, bins, given[inside])

    @property
    def has_normal(self) -> bool:
        """Whether a normal score was counted."""
        return bool(self.counts[:, _NORMAL].any())

    @property
    def has_anomalous(self) -> bool:
        """Whether an anomalous score was counted."""
        return bool(self.counts[:, _ANOMALOUS].any())

    def normal_scores(self) -> Tensor:
        """Return the normal scores in ascending order, dtype float64: exact while the capacity was not reached."""
        return _scores(self.keys << self.shift).repeat_interleave(self.counts[:, _NORMAL].long())

    def read(self) -> Counts:
        """Return the counts, from the highest score to the lowest."""
        first = self.keys.flip(0) << self.shift
        return Counts(_scores(first), _scores(first + (1 << self.shift) - 1), *self.counts.flip(0).T)


def _keys(scores: Tensor) -> Tensor:
    """Turn finite scores into integers that count up with them: the bit patterns of float32 numbers do."""
    bits = (scores.detach().float() + 0.0).view(torch.int32).long()  # -0.0 becomes 0.0
    return torch.where(bits < 0, -(bits & _WITHOUT_SIGN), bits)


def _scores(keys: Tensor) -> Tensor:
    """Return the scores behind keys, dtype float64."""
    size = keys.abs().int().view(torch.float32).double()
    return torch.where(keys < 0, -size, size)


def _bits_to_drop(keys: Tensor, capacity: int) -> int:
    """Return how many low bits keys in ascending order must lose until no more than ``capacity`` of them differ."""
    steps = keys[1:] ^ keys[:-1]  # neighbours differ as long as a bit of their step is left
    more = 0
    while int((steps >> more).count_nonzero()) >= capacity:
        more += 1
    return more


def auroc(normal: Tensor, anomalous: Tensor) -> Tensor:
    """Compute the area under the ROC curve: how often an anomalous score is above a normal one; a tie counts one half.

    Counts of either kind, shape ``(n,)``, the highest score first; at least one each.
    """
    return torch.trapezoid(_shares(anomalous), _shares(normal))


def average_precision(normal: Tensor, anomalous: Tensor) -> Tensor:
    """Compute the step-wise area under the precision-recall curve (AUPR), in [0, 1], of counts as for :func:`auroc`."""
    found = anomalous.cumsum(0)
    precision = found / (found + normal.cumsum(0)).clamp(min=1)
    return (precision * anomalous).sum() / found[-1]


def best_f1(normal: Tensor, anomalous: Tensor) -> tuple[Tensor, int]:
    """Return the largest F1 score over all thresholds, of counts as for :func:`auroc`, and its lowest anomalous bin."""
    found, flagged = anomalous.cumsum(0), (anomalous + normal).cumsum(0)
    f1 = 2 * found / (flagged + found[-1])  # 2 TP / (TP + FP + TP + FN)
    best = int(f1.argmax())
    return f1[best], best


def aupro(normal: Tensor, region_shares: Tensor, regions: int, fpr_limit: float = 0.3) -> Tensor:
    """Compute the area under the curve of the regions' mean overlap over the false positive rate, up to a limit.

    The curve needs, for every score, the number of normal pixels and, summed over all anomalous regions, the share of
    the region that has this score. Both are sums over images, so the maps themselves need not be kept.

    Args:
        normal: Counts of normal pixels, shape ``(n,)``, the highest score first; at least one.
        region_shares: Sum over the regions of the share of its pixels, likewise.
        regions: Number of regions, at least one.
        fpr_limit: False positive rate up to which the area is taken, in (0, 1].

    Returns:
        A number in [0, 1].
    """
    fpr, overlap = _shares(normal), torch.cat([region_shares.new_zeros(1), region_shares.cumsum(0) / regions])
    end = int(torch.searchsorted(fpr, fpr_limit, right=True))  # the first point beyond the limit
    if end < len(fpr):
        part = (fpr_limit - fpr[end - 1]) / (fpr[end] - fpr[end - 1])
        last = torch.lerp(overlap[end - 1], overlap[end], part)
        fpr = torch.cat([fpr[:end], fpr.new_tensor([fpr_limit])])
        overlap = torch.cat([overlap[:end], last[None]])
    return torch.trapezoid(overlap, fpr) / fpr[-1]


def _shares(counts: Tensor) -> Tensor:
    """Return the share of all that is at or above each score, ascending from 0 to 1, shape ``(n + 1,)``."""
    shares = counts.cumsum(0) / counts.sum()
    return torch.cat([shares.new_zeros(1), shares])


class CategoryScores:
    """Counted scores and labels of one category: their size does not grow with the number of images."""

    def __init__(self) -> None:
        self.images = 0
        self.regions = 0
        self.classes: dict[str, list[int]] = {}  # parts called wrongly, and all parts
        self.scores = {level: ScoreHistogram() for level in (IMAGE, PIXEL)}
        # labels: true normal, false alarms, misses, hits
        self.labels = {level: torch.zeros(4, dtype=torch.long) for level in (IMAGE, PIXEL)}

    def update_images(
        self, scores: Tensor | None, labels: Tensor | None, truth: Tensor | None, defects: Sequence[str] = ()
    ) -> None:
        """Count images: raw scores, whether each is called anomalous, whether it is, and its defect if known."""
        if scores is not None:
            self.images += scores.numel()
        if truth is None:
            return
        if scores is not None:
            self.scores[IMAGE].update(scores, truth)
        if labels is not None:
            self._count_labels(IMAGE, labels, truth)
            names = defects or [""] * len(truth)
            for label, anomalous, defect in zip(labels.flatten(), truth.flatten(), names, strict=True):
                counted = self.classes.setdefault(defect or "defective" if anomalous else GOOD, [0, 0])
                counted[0] += bool(label) != bool(anomalous)
                counted[1] += 1

    def rates(self) -> dict[str, Rate]:
        """Return the share of wrong verdicts by class: of good parts the false alarms, of defects the escapes."""
        return {name: Rate(*counted) for name, counted in sorted(self.classes.items())}

    def update_pixels(self, maps: Tensor | None, masks: Tensor | None, truth: Tensor | None) -> None:
        """Count pixels of raw maps, predicted masks and true masks, shape ``(B, H, W)``, with or without a channel."""
        if truth is None:
            return
        if maps is not None:
            weights, regions = region_weights(truth)
            self.scores[PIXEL].update(maps, truth, weights)
            self.regions += regions
        if masks is not None:
            self._count_labels(PIXEL, masks, truth)

    def _count_labels(self, level: str, labels: Tensor, truth: Tensor) -> None:
        labels, truth = (each.flatten().cpu().bool().long() for each in (labels, truth))
        self.labels[level] += torch.bincount(2 * truth + labels, minlength=4)

    def compute(self, metrics: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Compute metrics out of :data:`METRICS`: those that are defined, as float32, and why the others are not."""
        values, reasons = {}, {}
        for metric in metrics:
            level, name = metric.split("_")
            if reason := self._undefined(level, name):
                reasons[metric] = reason
            else:
                values[metric] = self._value(level, name).float()
        return values, reasons

    def _value(self, level: str, name: str) -> Tensor:
        _, _, normal, anomalous, weight = self.scores[level].read()
        match name:
            case "AUROC":
                return auroc(normal, anomalous)
            case "AUPR":
                return average_precision(normal, anomalous)
            case "F1Max":
                return best_f1(normal, anomalous)[0]
            case "AUPRO":
                return aupro(normal, weight, self.regions)
        _, false_alarms, misses, hits = self.labels[level]
        return 2 * hits / (2 * hits + false_alarms + misses)

    def _undefined(self, level: str, name: str) -> str | None:
        """Say why a metric is not defined, or return ``None`` if it is."""
        histogram, labels = self.scores[level], self.labels[level]
        if not self.images:
            return "no image was tested"
        if level == PIXEL and not (histogram.has_normal or histogram.has_anomalous or labels.any()):
            return "the test images have no masks"
        if name == _F1_SCORE and not labels.any():
            return "nothing was labeled: there is no threshold"
        if not (labels[2:].any() if name == _F1_SCORE else histogram.has_anomalous):
            return "no mask has an anomalous pixel" if level == PIXEL else "no anomalous image was tested"
        if name != _F1_SCORE and not histogram.has_normal:
            return "no pixel is normal" if level == PIXEL else "no normal image was tested"
        return None


def region_weights(masks: Tensor) -> tuple[Tensor, int]:
    """Return one over the pixels of every pixel's region, 0 for normal ones, flat, and the number of connected regions.

    Masks have the shape ``(B, H, W)``, with or without a channel.
    """
    masks = masks.detach().cpu().reshape(len(masks), 1, *masks.shape[-2:]).bool()
    labels = connected_components_cpu(masks.float()).flatten().long()  # 0 is normal, each region has its number
    sizes = torch.bincount(labels)
    weights = torch.where(labels > 0, 1 / sizes.double()[labels], 0.0)
    return weights, int((sizes[1:] > 0).sum())
