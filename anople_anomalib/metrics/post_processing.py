# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Thresholds between scores, and normalized scores that keep the order of the raw ones.

anomalib's own post-processor takes a score of the validation set as the threshold, chosen with ``>=`` and applied with
``>``, so that rounding decides about that very image; it keeps every pixel of the validation set; and it normalizes
linearly and clamps, which makes one score of all that is far from the threshold.
"""

import logging
from typing import Any

import torch
from anomalib.data import Batch, InferenceBatch
from anomalib.post_processing import PostProcessor
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from .category_scores import IMAGE, PIXEL
from .score_histogram import ScoreHistogram, of_all_processes
from .thresholds import check_rules, check_threshold, doubt_about, fit_threshold

logger = logging.getLogger(__name__)

_MAXIMA = "maxima"  # of the images' maps
_RULES = ("quantile", "false_alarm_rate")


class ExactPostProcessor(PostProcessor):
    """Judges raw scores by thresholds that lie midway between two scores, and normalizes them without ties.

    A raw score ``x`` with the threshold ``t`` becomes ``x / (x + t)``: the threshold is 0.5, 0 stays 0 (but for
    rounding), and nothing but infinity reaches 1, whatever the validation set held. An image or a pixel is anomalous
    if its normalized score is above ``1 - sensitivity``, which is tested on the raw score: with and without
    normalization alike. Scores are taken to be at least 0, as AnoPLe's are.

    The threshold of a training run is the one with the largest F1 score on the validation set; where that has no
    anomalous image, it is the fence of the normal ones, see :mod:`.thresholds`. ``quantile`` and ``false_alarm_rate``
    take it from the normal images alone as well; for pixels, their maps' maxima count.

    Args:
        enable_normalization: Whether scores are normalized.
        enable_thresholding: Whether images and pixels are labeled.
        enable_threshold_matching: Whether a level without a threshold of its own takes that of the other.
        image_sensitivity: Sensitivity for images in (0, 1); ``None`` for that of the checkpoint, else 0.5.
        pixel_sensitivity: Sensitivity for pixels, as for images.
        image_threshold: Raw threshold of images, which no validation changes; ``None`` for the fitted one.
        pixel_threshold: Raw threshold of pixels, as for images.
        quantile: Share of the normal validation images below the thresholds, in (0, 1].
        false_alarm_rate: Wanted share of new normal images above the thresholds, in (0, 1).

    Raises:
        ValueError: If a value is out of its range, or two rules are given for one threshold.
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
        quantile: float | None = None,
        false_alarm_rate: float | None = None,
    ) -> None:
        for name, sensitivity in (("image_sensitivity", image_sensitivity), ("pixel_sensitivity", pixel_sensitivity)):
            if sensitivity is not None and not 0 < sensitivity < 1:
                msg = f"{name} must be in (0, 1), got {sensitivity}."
                raise ValueError(msg)
        check_rules(quantile, false_alarm_rate)
        super().__init__(
            enable_normalization,
            enable_thresholding,
            enable_threshold_matching,
            0.5 if image_sensitivity is None else image_sensitivity,
            0.5 if pixel_sensitivity is None else pixel_sensitivity,
        )
        for name in ("_image_threshold_metric", "_pixel_threshold_metric"):
            delattr(self, name)  # they would keep every pixel
        self.quantile, self.false_alarm_rate = quantile, false_alarm_rate
        self.normal_images, self.normal_only = 0, False
        self._rule_followed = False
        self._explicit = {
            name: value
            for name, value in (
                ("enable_normalization", None if enable_normalization else False),
                ("enable_thresholding", None if enable_thresholding else False),
                ("enable_threshold_matching", None if enable_threshold_matching else False),
                ("image_sensitivity", image_sensitivity),
                ("pixel_sensitivity", pixel_sensitivity),
                ("image_threshold", image_threshold),
                ("pixel_threshold", pixel_threshold),
                ("quantile", quantile),
                ("false_alarm_rate", false_alarm_rate),
            )
            if value is not None
        }
        self.forget()
        self.set_thresholds(image_threshold, pixel_threshold)

    @classmethod
    def like(cls, processor: PostProcessor) -> "ExactPostProcessor":
        """Take over the settings of anomalib's own post-processor, as if each had been given.

        Args:
            processor: An instance of anomalib's class itself.

        Returns:
            One that judges by the same settings.
        """
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
            if value is None:
                continue
            check_threshold(value)
            buffer.fill_(value)

    def forget(self) -> None:
        """Forget what :meth:`on_validation_batch_end` has counted."""
        self._histograms = {IMAGE: ScoreHistogram(), PIXEL: ScoreHistogram(), _MAXIMA: ScoreHistogram()}

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401  # a batch, as in anomalib
        *args: Any,  # noqa: ANN401
        **kwargs: Any,  # noqa: ANN401
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

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fit the thresholds to what was counted in all processes, and forget it."""
        del trainer, pl_module
        self.fit_ranges()
        self._histograms = dict(zip(self._histograms, of_all_processes(list(self._histograms.values())), strict=True))
        self.fit_thresholds(self.quantile, self.false_alarm_rate)
        if self.normal_only and not self._rule_followed:
            logger.warning(
                "No validation image is anomalous: the thresholds rest on the scores of %d good images.",
                self.normal_images,
            )

    def fit_ranges(self) -> None:
        """Note the smallest and the largest raw scores, which no judgment depends on."""
        for level, metric in ((IMAGE, self._image_min_max_metric), (PIXEL, self._pixel_min_max_metric)):
            if metric.update_called:
                low, high = metric.compute()
                getattr(self, f"{level}_min").copy_(low)
                getattr(self, f"{level}_max").copy_(high)
                metric.reset()

    def fit_thresholds(self, quantile: float | None = None, false_alarm_rate: float | None = None) -> None:
        """Fit the thresholds to what :meth:`on_validation_batch_end` has counted, and forget it.

        Args:
            quantile: Share of the normal images below the thresholds.
            false_alarm_rate: Wanted share of new normal images above them.
        """
        images, pixels, maxima = self._histograms.values()
        self.forget()
        self.normal_images, self.normal_only = images.normal_count, False
        if not self.enable_thresholding:
            return
        follows = images.has_normal and (quantile is not None or false_alarm_rate is not None)
        self._rule_followed = self._rule_followed or follows
        self.normal_only = images.has_normal and (follows or not images.has_anomalous)
        given, rule = self._explicit.get, (quantile, false_alarm_rate)
        self.set_thresholds(
            given("image_threshold", fit_threshold(images, images, *rule)),
            given("pixel_threshold", fit_threshold(pixels, maxima, *rule)),
        )

    def doubt(self) -> str:
        """Say what is to be thought of the image threshold, see :func:`doubt_about`."""
        rests_on_them = self.normal_only and "image_threshold" not in self._explicit
        return doubt_about(self.normal_images) if rests_on_them else ""

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a rule that was given and has not been followed."""
        del trainer, pl_module
        for name in _RULES:
            if name in self._explicit and not self._rule_followed:
                msg = (
                    f"The thresholds of a checkpoint cannot follow {name}={self._explicit[name]} without images: "
                    "write a checkpoint with other thresholds by anople threshold."
                )
                raise ValueError(msg)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a rule that was given and has not been followed."""
        self.on_test_start(trainer, pl_module)

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
        if self.enable_thresholding and batch.pred_label is None:
            batch.pred_label = self._judge(score, IMAGE)
        if self.enable_thresholding and batch.pred_mask is None:
            batch.pred_mask = self._judge(anomaly_map, PIXEL)
        if self.enable_normalization:
            batch.pred_score, batch.anomaly_map = self._scale(score, IMAGE), self._scale(anomaly_map, PIXEL)

    def limit(self, level: str) -> Tensor:
        """Return the raw score above which something is anomalous: the threshold, moved by the sensitivity.

        Args:
            level: ``"image"`` or ``"pixel"``.

        Returns:
            A number; NaN without a threshold.
        """
        sensitivity = getattr(self, f"{level}_sensitivity")
        threshold = getattr(self, f"{level}_threshold")
        return threshold if sensitivity == 0.5 else threshold * ((1 - sensitivity) / sensitivity)

    def _judge(self, scores: Tensor | None, level: str) -> Tensor | None:
        """Tell which raw scores are anomalous; an image without a finite score or a threshold is never called good."""
        if scores is None or not self.enable_thresholding:
            return None
        limit = self.limit(level)
        return ~(scores <= limit) if level == IMAGE else scores > limit  # NaN compares as false with everything

    def _scale(self, scores: Tensor | None, level: str) -> Tensor | None:
        """Map raw scores to [0, 1] in their order, the threshold to 0.5; without a threshold leave them."""
        if scores is None:
            return None
        threshold = getattr(self, f"{level}_threshold")
        # 1 / (1 + t / x): every step rounds without changing the order, which x / (x + t) does not
        scaled = 1 / (1 + threshold / scores.clamp_min(torch.finfo(scores.dtype).tiny))
        return torch.where(torch.isnan(threshold), scores, scaled).to(scores.dtype)

    # -------------------------------------------------------------------------------------------------- checkpoints

    @property
    def _checkpoint_config_keys(self) -> tuple[str, ...]:
        return (*super()._checkpoint_config_keys, "normal_images", "normal_only")

    def load_checkpoint_config(self, config: dict[str, Any]) -> None:
        """Restore the settings of a checkpoint, except for those that were given to this instance.

        Args:
            config: What ``checkpoint_config`` returned.
        """
        super().load_checkpoint_config({name: value for name, value in config.items() if name not in self._explicit})

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:  # noqa: ANN401
        """Load thresholds and ranges; thresholds that were given stay."""
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.set_thresholds(self._explicit.get("image_threshold"), self._explicit.get("pixel_threshold"))
