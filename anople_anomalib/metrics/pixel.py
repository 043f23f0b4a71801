# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Pixel metrics whose memory does not grow with the test set.

Anomalib's own pixel metrics keep every pixel of the test set. Here the scores of pixels are rounded to half precision
(11 significant bits), and what is kept are counts per rounded score: of normal and anomalous pixels, and for AUPRO of
normal pixels and of the shares of anomalous regions. That takes some 5 MB for the three metrics together, however many
images there are, and is exact for the rounded scores.
"""

from collections.abc import Sequence
from typing import Any

import torch
from anomalib.data import Batch
from anomalib.metrics import AUPRO, F1Max, create_anomalib_metric
from anomalib.metrics import BinaryPrecisionRecallCurve as AnomalibCurve
from anomalib.metrics.pro import connected_components_cpu
from torch import Tensor
from torchmetrics.classification import BinaryAUROC, BinaryPrecisionRecallCurve

PIXEL_FIELDS = ("anomaly_map", "gt_mask")
_HALF_MAGNITUDES = 0x7BFF + 1
"""Half precision has this many finite numbers from 0 on; their bit patterns count up from 0 to 0x7bff."""
_BINS = 2 * _HALF_MAGNITUDES - 1


def half_bins(scores: Tensor) -> Tensor:
    """Round scores to half precision and number them in ascending order.

    Args:
        scores: Scores of any shape; those beyond half precision's range count as its ends.

    Returns:
        Integers in [0, 63486], of the same shape; 31743 stands for a score of 0.
    """
    limit = torch.finfo(torch.float16).max
    bits = scores.float().clamp(-limit, limit).half().view(torch.int16).long()
    magnitude = bits & 0x7FFF
    return _HALF_MAGNITUDES - 1 + torch.where(bits < 0, -magnitude, magnitude)


def half_values() -> Tensor:
    """Return the numbers that :func:`half_bins` numbers, in ascending order, dtype float32, shape (63487,)."""
    positive = torch.arange(_HALF_MAGNITUDES, dtype=torch.int16).view(torch.float16).float()
    return torch.cat([-positive[1:].flip(0), positive])


class _HalfPrecisionCurve(BinaryPrecisionRecallCurve):
    """torchmetrics' curve over fixed thresholds: these are all numbers of half precision.

    It counts with a histogram what torchmetrics counts threshold by threshold.
    """

    def __init__(self, **kwargs: Any) -> None:  # noqa: ANN401  (torchmetrics' options)
        super().__init__(thresholds=half_values(), **kwargs)

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count the pixels at or above each threshold.

        Args:
            preds: Scores of any shape.
            target: Whether they are anomalous, of the same shape.
        """
        bins, anomalous = half_bins(preds.flatten().cpu()), target.flatten().cpu().bool()
        for label, chosen in enumerate((~anomalous, anomalous)):
            above = torch.bincount(bins[chosen], minlength=_BINS).flip(0).cumsum(0).flip(0)
            counts = torch.stack([chosen.sum() - above, above], dim=1)  # shape = [thresholds, 2]
            self.confmat[:, label] += counts.to(self.confmat.device)


class _PixelPrecisionRecallCurve(_HalfPrecisionCurve, AnomalibCurve):
    """Precision and recall of pixels: 0 where no pixel reaches the threshold, and where none is anomalous."""

    def compute(self) -> tuple[Tensor, Tensor, Tensor]:
        """Compute precision, recall and thresholds."""
        precision, recall, thresholds = super().compute()
        return precision.nan_to_num(), recall.nan_to_num(), thresholds


class _PixelBinaryAUROC(_HalfPrecisionCurve, BinaryAUROC):
    """Area under the ROC curve of pixels."""


PixelAUROC = create_anomalib_metric(_PixelBinaryAUROC)
"""Area under the ROC curve of pixels, as an anomalib metric."""


class PixelF1Max(F1Max):
    """Best F1 score of pixels over all thresholds: anomalib's, over a curve of bounded size.

    Args:
        fields: Fields of the batch with the scores and the truth.
        prefix: Prefix of the metric's name.
        strict: Whether a batch without these fields is an error.
    """

    def __init__(self, fields: Sequence[str] = PIXEL_FIELDS, prefix: str = "", strict: bool = True) -> None:
        super().__init__(fields=fields, prefix=prefix, strict=strict)
        self.precision_recall_curve = _PixelPrecisionRecallCurve()


class PixelAUPRO(AUPRO):
    """Area under the per-region-overlap curve: anomalib's, accumulated batch by batch.

    The curve needs, for every score, the number of normal pixels and, summed over all anomalous regions, the share of
    the region that has this score. Both are sums over images, so the maps themselves need not be kept.

    Args:
        fields: Fields of the batch with the scores and the truth.
        prefix: Prefix of the metric's name.
        strict: Whether a batch without these fields is an error.
        fpr_limit: False positive rate up to which the area is taken.
    """

    fpr_limit: Tensor
    normal_pixels: Tensor
    region_shares: Tensor
    regions: Tensor

    def __init__(
        self,
        fields: Sequence[str] = PIXEL_FIELDS,
        prefix: str = "",
        strict: bool = True,
        fpr_limit: float = 0.3,
    ) -> None:
        super().__init__(fields=fields, prefix=prefix, strict=strict, fpr_limit=fpr_limit)
        self.register_buffer("fpr_limit", self.fpr_limit, persistent=False)  # anomalib's would end up in checkpoints
        self.add_state("normal_pixels", default=torch.zeros(_BINS, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("region_shares", default=torch.zeros(_BINS), dist_reduce_fx="sum")
        self.add_state("regions", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, batch: Batch) -> None:  # type: ignore[override]  # as in anomalib, whose metrics take batches
        """Add the images of a batch.

        Args:
            batch: Batch with ``anomaly_map`` and ``gt_mask``, both of shape (batch, height, width).
        """
        super().update(batch)
        while self.preds:  # what anomalib would keep
            self._count(self.preds.pop().cpu(), self.target.pop().cpu())

    def _count(self, anomaly_maps: Tensor, masks: Tensor) -> None:
        """Count a batch's scores and truth, both of shape (batch, height, width)."""
        masks = masks.reshape(len(masks), 1, *masks.shape[-2:]).float()
        labels = connected_components_cpu(masks).flatten().long()  # 0 is normal, each region has its number
        sizes = torch.bincount(labels)
        bins, inside = half_bins(anomaly_maps.flatten()), labels > 0
        shares = torch.bincount(bins[inside], weights=1 / sizes[labels[inside]], minlength=_BINS)
        self.normal_pixels += torch.bincount(bins[~inside], minlength=_BINS).to(self.normal_pixels.device)
        self.region_shares += shares.float().to(self.region_shares.device)
        self.regions += int((sizes[1:] > 0).sum())

    def _compute(self) -> tuple[Tensor, Tensor]:
        """Return false positive rate and mean overlap of the regions, ascending, up to the limit."""
        fpr = self.normal_pixels.cpu().double().flip(0).cumsum(0)
        overlap = self.region_shares.cpu().double().flip(0).cumsum(0)
        fpr, overlap = (torch.cat([curve.new_zeros(1), curve]) for curve in (fpr, overlap))
        fpr, overlap = fpr / fpr[-1].clamp(min=1), overlap / self.regions.cpu().clamp(min=1)
        limit = self.fpr_limit.cpu().double()
        end = int(torch.searchsorted(fpr, limit, right=True))  # the first point beyond the limit
        if end == len(fpr):
            return fpr.float(), overlap.float()
        part = (limit - fpr[end - 1]) / (fpr[end] - fpr[end - 1])
        last = torch.lerp(overlap[end - 1], overlap[end], part)
        return torch.cat([fpr[:end], limit[None]]).float(), torch.cat([overlap[:end], last[None]]).float()
