# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Thresholds between scores, and normalized scores that keep the order of the raw ones.

anomalib's own post-processor takes a score of the validation set as the threshold, chosen with ``>=`` and applied with
``>``, so that rounding decides about that very image; it keeps every pixel of the validation set; and it normalizes
linearly and clamps, which makes one score of all that is far from the threshold.
"""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from anomalib.data import Batch, InferenceBatch
from anomalib.post_processing import PostProcessor
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from anople_anomalib.utils.files import digest_of

from .bounds import CONFIDENCE, Rate
from .category_scores import IMAGE, PIXEL
from .score_histogram import ScoreHistogram
from .thresholds import Promise, Zone, check_threshold, doubt_about, fit_threshold, look_zone

logger = logging.getLogger(__name__)

_MAXIMA = "maxima"  # of the images' maps


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
        for name, sensitivity in (("image_sensitivity", image_sensitivity), ("pixel_sensitivity", pixel_sensitivity)):
            if sensitivity is not None and not 0 < sensitivity < 1:
                msg = f"{name} must be in (0, 1), got {sensitivity}."
                raise ValueError(msg)
        switches = {
            "enable_normalization": enable_normalization,
            "enable_thresholding": enable_thresholding,
            "enable_threshold_matching": enable_threshold_matching,
        }
        sensitivities = {"image_sensitivity": image_sensitivity, "pixel_sensitivity": pixel_sensitivity}
        super().__init__(
            enable_normalization,
            enable_thresholding,
            enable_threshold_matching,
            0.5 if image_sensitivity is None else image_sensitivity,
            0.5 if pixel_sensitivity is None else pixel_sensitivity,
        )
        del self._image_threshold_metric, self._pixel_threshold_metric  # they would keep every pixel
        self.look = bool(look)
        self.normal_scores: list[float] = []
        self.normal_only = False
        self.known_images: list[str] = []
        given: dict[str, Any] = {**sensitivities, "look": look}
        given |= {"image_threshold": image_threshold, "pixel_threshold": pixel_threshold}
        self._explicit: dict[str, Any] = {name: False for name, value in switches.items() if not value}
        self._explicit.update((name, value) for name, value in given.items() if value is not None)
        self.forget()
        self.set_thresholds(image_threshold, pixel_threshold)

    @classmethod
    def like(cls, processor: PostProcessor) -> "ExactPostProcessor":
        """Take over the settings of an instance of anomalib's own class, as if each had been given."""
        return cls(
            processor.enable_normalization,
            processor.enable_thresholding,
            processor.enable_threshold_matching,
            processor.image_sensitivity,
            processor.pixel_sensitivity,
        )

    # -------------------------------------------------------------------------------------------------- thresholds

    def set_thresholds(self, image: float | None = None, pixel: float | None = None) -> None:
        """Set raw thresholds.

        Args:
            image: Threshold of image scores; ``None`` leaves it.
            pixel: Threshold of the maps; ``None`` leaves it.

        Raises:
            ValueError: If a threshold is not a positive number.
        """
        for buffer, value in ((self._image_threshold, image), (self._pixel_threshold, pixel)):
            if value is not None:
                check_threshold(value)
                buffer.fill_(value)

    def forget(self) -> None:
        """Forget what :meth:`on_validation_batch_end` has counted."""
        self._histograms = {IMAGE: ScoreHistogram(), PIXEL: ScoreHistogram(), _MAXIMA: ScoreHistogram()}
        self._files: list[Path] = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # a batch, as in anomalib
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Count the scores of a validation batch, for thresholds and ranges."""
        del trainer, pl_module, args, kwargs
        scores, maps = outputs.pred_score, outputs.anomaly_map
        self._image_min_max_metric.update(outputs)
        self._pixel_min_max_metric.update(outputs)
        truth, masks = outputs.gt_label, outputs.gt_mask
        if scores is not None and truth is not None:
            self._histograms[IMAGE].update(scores, truth)
        if maps is not None and masks is not None:
            self._histograms[PIXEL].update(maps, masks)
        if maps is not None and truth is not None:
            self._histograms[_MAXIMA].update(maps.reshape(len(maps), -1).amax(dim=1), truth)
        self._files += [Path(path) for path in outputs.image_path or () if path]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fit the thresholds to all that was counted, and forget it."""
        del trainer, pl_module
        self.fit_thresholds()
        if self.normal_only:
            logger.warning("No validation image is anomalous. %s", self.calibration())

    def fit_thresholds(self, promise: Promise | None = None) -> None:
        """Fit thresholds to what :meth:`on_validation_batch_end` has counted, note its range, and forget it.

        Args:
            promise: A bound of the false alarms, for images and for the maxima of their maps.

        Raises:
            ValueError: If there are too few images for the promise.
        """
        images, pixels, maxima = self._histograms.values()
        for level, metric in ((IMAGE, self._image_min_max_metric), (PIXEL, self._pixel_min_max_metric)):
            if metric.update_called:  # anomalib's smallest and largest raw scores, which no judgment depends on
                low, high = metric.compute()
                getattr(self, f"{level}_min").copy_(low)
                getattr(self, f"{level}_max").copy_(high)
                metric.reset()
        given = self._explicit.get
        fitted = fit_threshold(images, images, promise), fit_threshold(pixels, maxima, promise)
        self.normal_scores = images.normal_scores().tolist()
        self.normal_only = images.has_normal and (promise is not None or not images.has_anomalous)
        self.know(self._files)
        self.forget()
        if self.enable_thresholding:
            self.set_thresholds(given("image_threshold", fitted[0]), given("pixel_threshold", fitted[1]))

    def know(self, files: Iterable[Path]) -> None:
        """Remember files that are no evidence of the model's quality, because it rests on them."""
        found = {digest_of(file) for file in files if file.is_file()}
        self.known_images = sorted(found.union(self.known_images))

    def calibration(self, confidence: float = CONFIDENCE) -> str:
        """Say how many of the good images of the calibration are above the image threshold, with the bound."""
        limit = float(self.limit(IMAGE))
        above = Rate(sum(score > limit for score in self.normal_scores), len(self.normal_scores), confidence)
        return f"Good images above the threshold of {limit:.4g}: {above}."

    def zone(self) -> Zone | None:
        """Return the scores whose verdict would be LOOK, see :func:`.look_zone`; ``None`` if that is unknown."""
        limit = float(self.limit(IMAGE))
        return look_zone(torch.tensor(self.normal_scores), limit) if limit == limit else None

    def doubt(self) -> str:
        """Say how much the image threshold is worth, see :func:`doubt_about`."""
        rests_on_them = self.normal_only and "image_threshold" not in self._explicit
        return doubt_about(len(self.normal_scores)) if rests_on_them else ""

    # -------------------------------------------------------------------------------------------------- judgment

    def forward(self, predictions: InferenceBatch) -> InferenceBatch:
        """Judge and normalize predictions, as :meth:`post_process_batch` does in the engine.

        Args:
            predictions: Raw scores of shape ``(B, 1)``, raw maps of shape ``(B, 1, H, W)``; one of them may be absent.

        Returns:
            Normalized scores and maps, labels and masks.

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
        """Judge and normalize a batch of raw predictions in place.

        Args:
            batch: Batch with ``pred_score`` and ``anomaly_map``; labels that it has already are kept.
        """
        score, anomaly_map = batch.pred_score, batch.anomaly_map
        # without a limit there is no verdict; an export must have one, as its outputs are named by their order
        if batch.pred_label is None and not self.limit(IMAGE).isnan():
            batch.pred_label = self._judge(score, IMAGE)
        if batch.pred_mask is None and not self.limit(PIXEL).isnan():
            batch.pred_mask = self._judge(anomaly_map, PIXEL)
        if self.enable_normalization:
            batch.pred_score, batch.anomaly_map = self._scale(score, IMAGE), self._scale(anomaly_map, PIXEL)

    def _threshold(self, level: str) -> Tensor:
        return self.image_threshold if level == IMAGE else self.pixel_threshold

    def limit(self, level: str) -> Tensor:
        """Return the raw score above which something is anomalous: the threshold, moved by the sensitivity.

        Args:
            level: ``"image"`` or ``"pixel"``.

        Returns:
            A number; NaN without a threshold.
        """
        sensitivity = self.image_sensitivity if level == IMAGE else self.pixel_sensitivity
        threshold = self._threshold(level)
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
        threshold = self._threshold(level)
        # 1 / (1 + t / x): every step rounds without changing the order, which x / (x + t) does not
        scaled = 1 / (1 + threshold / scores.clamp_min(torch.finfo(scores.dtype).tiny))
        return torch.where(torch.isnan(threshold) | torch.isnan(scores), scores, scaled).to(scores.dtype)

    # -------------------------------------------------------------------------------------------------- checkpoints

    @property
    def _checkpoint_config_keys(self) -> tuple[str, ...]:
        return (*super()._checkpoint_config_keys, "look", "normal_scores", "normal_only", "known_images")

    def load_checkpoint_config(self, config: dict[str, Any]) -> None:
        """Restore the settings of a checkpoint, except for those that were given to this instance.

        Args:
            config: What ``checkpoint_config`` returned.
        """
        super().load_checkpoint_config({name: value for name, value in config.items() if name not in self._explicit})

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load thresholds and ranges; thresholds that were given stay."""
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.set_thresholds(self._explicit.get("image_threshold"), self._explicit.get("pixel_threshold"))
