# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Thresholds between scores, and normalized scores that keep the order of the raw ones.

anomalib's own post-processor takes a score of the validation set as the threshold, chosen with ``>=`` and applied with
``>``, so that rounding decides about that very image; it keeps every pixel of the validation set; and it normalizes
linearly and clamps, which makes one score of all that is far from the threshold.
"""

import logging
from collections.abc import Iterable
from typing import Any

import torch
from anomalib.data import Batch, InferenceBatch
from anomalib.post_processing import PostProcessor
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from .bounds import CONFIDENCE, Rate
from .score_counts import IMAGE, PIXEL, ScoreHistogram
from .thresholds import Promise, Zone, fit_threshold, look_zone

logger = logging.getLogger(__name__)

_FEW_IMAGES = 20  # normal ones, below which a threshold comes with a warning


class ExactPostProcessor(PostProcessor):
    """Judges raw scores by thresholds that lie midway between two scores, and normalizes them without ties.

    A raw score ``x`` with the threshold ``t`` becomes ``x / (x + t)``: the threshold is 0.5, 0 stays 0 (but for
    rounding), and nothing but infinity reaches 1, whatever the validation set held. An image or a pixel is anomalous
    unless its raw score is known to be at most the limit, whose normalized score is ``1 - sensitivity``: NaN is
    anomalous. Without a threshold there are no labels. Scores are taken to be at least 0, as AnoPLe's are.

    The threshold of a training run is the one with the largest F1 score on the validation set; where that has no
    anomalous image, it is the fence of the normal ones, see :mod:`.thresholds`; for pixels, their maps' maxima count.

    Args:
        enable_normalization: Whether scores are normalized.
        enable_thresholding: Whether images and pixels are labeled.
        enable_threshold_matching: Whether a level without a threshold of its own takes that of the other.
        image_sensitivity: Sensitivity for images in (0, 1); ``None`` for that of the checkpoint, else 0.5.
        pixel_sensitivity: Sensitivity for pixels, as for images.
        image_threshold: Raw threshold of images, which no validation changes; ``None`` for the fitted one.
        pixel_threshold: Raw threshold of pixels, as for images.
        look: Whether images about which too little is known get the verdict LOOK, see :meth:`zone`; ``None`` for that
            of the checkpoint, else not. Labels stay as they are.

    Attributes:
        normal_scores: Raw scores of the normal images of the last calibration, ascending.
        spreads: Where shots are validated on, how much each differs from itself, see :mod:`.thresholds`.
        normal_only: Whether the image threshold rests on them alone.
        known_images: SHA-256 of the files of shots and of the last calibration: no study may rest on them.

    Raises:
        ValueError: If a value is out of its range.
    """

    def __init__(
        self,
        enable_normalization: bool = True,
        enable_thresholding: bool = True,
        enable_threshold_matching: bool = True,
        image_sensitivity: float | None = None,
        pixel_sensitivity: float | None = None,
        image_threshold: float | None = None,
        pixel_threshold: float | None = None,
        look: bool | None = None,
    ) -> None:
        sensitivities = {"image_sensitivity": image_sensitivity, "pixel_sensitivity": pixel_sensitivity}
        for name, sensitivity in sensitivities.items():
            if sensitivity is not None and not 0 < sensitivity < 1:
                msg = f"{name} must be in (0, 1), got {sensitivity}."
                raise ValueError(msg)
        switches = {
            "enable_normalization": enable_normalization,
            "enable_thresholding": enable_thresholding,
            "enable_threshold_matching": enable_threshold_matching,
        }
        super().__init__(
            **switches,
            image_sensitivity=0.5 if image_sensitivity is None else image_sensitivity,
            pixel_sensitivity=0.5 if pixel_sensitivity is None else pixel_sensitivity,
        )
        del self._image_threshold_metric, self._pixel_threshold_metric  # they would keep every pixel
        self.look = bool(look)
        self.normal_scores: list[float] = []
        self.normal_only = False
        self.known_images: list[str] = []
        self.learned_images: list[str] = []
        given = {**sensitivities, "image_threshold": image_threshold, "pixel_threshold": pixel_threshold, "look": look}
        self._explicit: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        self._explicit |= {name: value for name, value in switches.items() if not value}
        self.forget()
        self.set_thresholds(image_threshold, pixel_threshold)

    # -------------------------------------------------------------------------------------------------- thresholds

    def set_thresholds(self, image: float | None = None, pixel: float | None = None) -> None:
        """Set raw thresholds of image scores and of maps, positive numbers; ``None`` leaves the present one."""
        for buffer, value in ((self._image_threshold, image), (self._pixel_threshold, pixel)):
            if value is not None:
                limits = torch.finfo(buffer.dtype)  # a smaller number would become 0
                if not limits.tiny <= value <= limits.max:
                    msg = f"A threshold must be a positive number, {limits.tiny:.2g} or more, got {value}."
                    raise ValueError(msg)
                buffer.fill_(value)

    def forget(self) -> None:
        """Forget all that :meth:`on_validation_batch_end` has counted."""
        self._images, self._pixels, self._maxima = ScoreHistogram(), ScoreHistogram(), ScoreHistogram()  # of maps
        self.spreads: list[float] = []

    def on_validation_batch_end(
        self,
        trainer: Trainer | None,
        pl_module: LightningModule | None,
        outputs: Any,  # a batch, as in anomalib
        *args: object,
        **kwargs: object,
    ) -> None:
        """Count the scores of a validation batch."""
        del trainer, pl_module, args, kwargs
        self._image_min_max_metric.update(outputs)
        self._pixel_min_max_metric.update(outputs)
        maps, truth = outputs.anomaly_map, outputs.gt_label
        if outputs.pred_score is not None and truth is not None:
            self._images.update(outputs.pred_score, truth)
        if maps is not None and outputs.gt_mask is not None:
            self._pixels.update(maps, outputs.gt_mask)
        if maps is not None and truth is not None:
            self._maxima.update(maps.reshape(len(maps), -1).amax(dim=1), truth)

    def on_validation_epoch_end(self, trainer: Trainer | None, pl_module: LightningModule | None) -> None:
        """Fit the thresholds to all that was counted, and forget it."""
        del trainer, pl_module
        self.fit_thresholds()
        if self.normal_only:
            logger.warning("No validation image is anomalous. %s", self.calibration())

    def fit_thresholds(self, promise: Promise | None = None) -> None:
        """Fit thresholds to all that :meth:`on_validation_batch_end` has counted, note its range, and forget it.

        A promise is kept by images and by the maxima of their maps, see :func:`.fit_threshold`.
        """
        for metric, low, high in (  # anomalib's ranges of raw scores, which no judgment depends on
            (self._image_min_max_metric, self.image_min, self.image_max),
            (self._pixel_min_max_metric, self.pixel_min, self.pixel_max),
        ):
            if metric.update_called:
                for bound, value in zip((low, high), metric.compute(), strict=True):
                    bound.copy_(value)
                metric.reset()
        image = fit_threshold(self._images, self._images, promise, self.spreads)
        pixel = fit_threshold(self._pixels, self._maxima, promise, self.spreads)
        self.normal_scores = self._images.normal_scores().tolist()
        self.normal_only = self._images.has_normal and (promise is not None or not self._images.has_anomalous)
        self.forget()
        if self.enable_thresholding:
            given = self._explicit.get
            self.set_thresholds(given("image_threshold", image), given("pixel_threshold", pixel))

    def know(self, digests: Iterable[str], *, learned: bool = False) -> None:
        """Remember images by digests of their pixels: no evidence of the model's quality, because it rests on them.

        Those that the memory has learned are no evidence for a threshold, either.
        """
        digests = set(digests)
        self.known_images = sorted(digests.union(self.known_images))
        self.learned_images = sorted(digests.union(self.learned_images)) if learned else self.learned_images

    def false_alarms(self, confidence: float = CONFIDENCE) -> Rate:
        """Count the calibration's good images above the image threshold."""
        limit = float(self.limit(IMAGE))
        return Rate(sum(score > limit for score in self.normal_scores), len(self.normal_scores), confidence)

    def calibration(self) -> str:
        """Say how many of the calibration's good images are above the image threshold, with the bound."""
        return f"Good images above the threshold of {float(self.limit(IMAGE)):.4g}: {self.false_alarms()}."

    def zone(self) -> Zone | None:
        """Return the scores whose verdict would be LOOK, see :func:`.look_zone`; ``None`` if that is unknown."""
        limit = float(self.limit(IMAGE))
        return look_zone(torch.tensor(self.normal_scores), limit) if limit == limit else None

    def doubt(self) -> str:
        """Say how much the image threshold is worth where few normal images alone are behind it, else nothing."""
        number = len(self.normal_scores)
        if not self.normal_only or "image_threshold" in self._explicit or number >= _FEW_IMAGES:
            return ""
        behind = f"The threshold rests on {number} good images alone"
        if number == 1:
            behind = (
                "The threshold rests on one good image (slightly moved copies of it if it is the only shot), which "
                "cannot show how good parts differ: good ones may be above it, and defects below"
            )
        return f"{behind}: set it from {_FEW_IMAGES} or more that are no shots (anople threshold --images)."

    # -------------------------------------------------------------------------------------------------- judgment

    def forward(self, predictions: InferenceBatch) -> InferenceBatch:
        """Judge and normalize predictions, as :meth:`post_process_batch` does in the engine.

        Args:
            predictions: Raw scores of shape ``(B, 1)``, raw maps of shape ``(B, 1, H, W)``; one of them may be absent.

        Raises:
            ValueError: If both are absent.
        """
        score, anomaly_map = predictions.pred_score, predictions.anomaly_map
        if score is None:
            if anomaly_map is None:
                msg = "At least one of pred_score or anomaly_map must be provided."
                raise ValueError(msg)
            score = torch.amax(anomaly_map, dim=(-2, -1))
        label, mask = self._judge(score, IMAGE), self._judge(anomaly_map, PIXEL)
        if self.enable_normalization:
            score, anomaly_map = self._scale(score, IMAGE), self._scale(anomaly_map, PIXEL)
        return InferenceBatch(pred_label=label, pred_score=score, pred_mask=mask, anomaly_map=anomaly_map)

    def post_process_batch(self, batch: Batch) -> None:
        """Judge and normalize a batch of raw scores and maps in place; labels that it has already are kept."""
        score, anomaly_map = batch.pred_score, batch.anomaly_map
        # without a limit there is no verdict; an export must have one, as its outputs are named by their order
        if batch.pred_label is None and not self.limit(IMAGE).isnan():
            batch.pred_label = self._judge(score, IMAGE)
        if batch.pred_mask is None and not self.limit(PIXEL).isnan():
            batch.pred_mask = self._judge(anomaly_map, PIXEL)
        if self.enable_normalization:
            batch.pred_score, batch.anomaly_map = self._scale(score, IMAGE), self._scale(anomaly_map, PIXEL)

    def limit(self, level: str) -> Tensor:
        """Return the threshold of an "image" or "pixel", moved by the sensitivity; NaN if there is none."""
        threshold = self.image_threshold if level == IMAGE else self.pixel_threshold
        sensitivity = self.image_sensitivity if level == IMAGE else self.pixel_sensitivity
        return threshold if sensitivity == 0.5 else threshold * ((1 - sensitivity) / sensitivity)

    def _judge(self, scores: Tensor | None, level: str) -> Tensor | None:
        """Tell which raw scores are anomalous: all that are not known to be at most the limit, all without a limit."""
        if scores is None or not self.enable_thresholding:
            return None
        return ~(scores <= self.limit(level))

    def _scale(self, scores: Tensor | None, level: str) -> Tensor | None:
        """Map raw scores to [0, 1] in their order, the threshold to 0.5; without a threshold leave them."""
        if scores is None:
            return None
        threshold = self.image_threshold if level == IMAGE else self.pixel_threshold
        # 1 / (1 + t / x): every step rounds without changing the order, which x / (x + t) does not
        scaled = 1 / (1 + threshold / scores.clamp_min(torch.finfo(scores.dtype).tiny))
        return torch.where(torch.isnan(threshold) | torch.isnan(scores), scores, scaled).to(scores.dtype)

    # -------------------------------------------------------------------------------------------------- checkpoints

    @property
    def _checkpoint_config_keys(self) -> tuple[str, ...]:
        own = ("look", "normal_scores", "normal_only", "known_images", "learned_images")
        return (*super()._checkpoint_config_keys, *own)

    def load_checkpoint_config(self, config: dict[str, Any]) -> None:
        """Restore the settings that ``checkpoint_config`` returned, except for those given to this instance."""
        super().load_checkpoint_config({name: value for name, value in config.items() if name not in self._explicit})

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load thresholds and ranges; thresholds that were given stay."""
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.set_thresholds(self._explicit.get("image_threshold"), self._explicit.get("pixel_threshold"))
