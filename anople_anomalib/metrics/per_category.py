# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Image and pixel metrics per category, and their mean over the categories, from raw scores and in bounded memory.

For any model of anomalib: ``Padim(evaluator=PerCategoryEvaluator())``, or
``anomalib train --model Padim --model.evaluator anople_anomalib.metrics.PerCategoryEvaluator --data FewShot``.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol, TypeVar, runtime_checkable

import torch
from anomalib.data import AnomalibDataModule, Batch, ImageBatch
from anomalib.data.utils import ValSplitMode
from anomalib.metrics import Evaluator
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from anople_anomalib.utils.batches import datamodule_of

from .bounds import GOOD, Rate, defect_of, together
from .score_counts import METRICS, CategoryScores

logger = logging.getLogger(__name__)
_Callback = TypeVar("_Callback", bound=Callback)

PAPER_METRICS = ("image_AUROC", "image_AUPR", "image_F1Max", "pixel_AUROC", "pixel_AUPRO", "pixel_F1Max")
_FITTED = (
    "The threshold may have been fitted to these very images (val_split_mode same_as_test): then the bounds hold for "
    "no others."
)
_NO_CATEGORIES = (
    "PerCategoryEvaluator has several categories but cannot tell the category of an image: use a FewShot datamodule, "
    "or give category_of."
)


@runtime_checkable
class Categorized(Protocol):
    """A datamodule that knows the category of an image by its path, as :class:`~anople_anomalib.data.FewShot` does."""

    categories: list[str]

    def category_of(self, image_path: str) -> str:
        """Return the category of an image."""


def callback_of(trainer: Trainer, kind: type[_Callback]) -> _Callback | None:
    """Return a trainer's callback of a kind."""
    callbacks: Sequence[object] = trainer.callbacks  # type: ignore[attr-defined]  # Lightning does not declare it
    return next((each for each in callbacks if isinstance(each, kind)), None)


class RawScoreKeeper(Callback):
    """Callback that keeps images, raw scores and raw maps of the present batch, for callbacks after the processors.

    Lightning calls callbacks in the order of the trainer's list. anomalib's post-processor stands there before the
    evaluator, and replaces a batch's scores by normalized ones, clamped to [0, 1]: this callback comes before both, and
    before the pre-processor, which replaces the images. No hook lies between a model's step and the post-processor's.

    Attributes:
        images: Images of the batch as they were read, shape ``(B, 3, H, W)``, values in [0, 1].
    """

    def __init__(self) -> None:
        self.images: Tensor | None = None
        self._kept: tuple[Tensor | None, Tensor | None] | None = None

    @classmethod
    def of(cls, trainer: Trainer) -> "RawScoreKeeper":
        """Return a trainer's keeper; one that has none gets one, before all other callbacks."""
        keeper = callback_of(trainer, cls)
        if keeper is None:
            keeper = cls()
            trainer.callbacks = [keeper, *trainer.callbacks]  # type: ignore[attr-defined]  # may run through the old list
        return keeper

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, *args: object, **kwargs: object
    ) -> None:
        """Keep the images of a batch."""
        del trainer, pl_module, args, kwargs
        self.images = batch.image if isinstance(batch, Batch) else None

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, *args: object, **kwargs: object
    ) -> None:
        """Keep the scores and maps of a batch."""
        del trainer, pl_module, args, kwargs
        self._kept = (outputs.pred_score, outputs.anomaly_map) if isinstance(outputs, Batch) else None

    on_predict_batch_start, on_predict_batch_end = on_test_batch_start, on_test_batch_end

    def of_batch(self, batch: ImageBatch) -> tuple[Tensor | None, Tensor | None]:
        """Return scores, one per image, and maps as the model gave them; of a batch that was not kept its own."""
        return self._kept or (batch.pred_score, batch.anomaly_map)


class PerCategoryEvaluator(Evaluator):
    """Evaluator that logs the test metrics of every category and their means.

    With one category the names are anomalib's usual ones, such as ``image_AUROC``. With several, these are the means
    over the categories, and each category's own are ``bottle/image_AUROC`` and so on. A metric that is not defined (no
    anomalous image, no mask) is left out, and one line says why.

    Metrics of scores are computed from the raw ones, before any post-processor; ``F1Score`` is that of the labels that
    the post-processor gave.

    Args:
        categories: Names of the categories; ``None`` takes ``categories`` from the trainer's datamodule, and a
            datamodule without them has one category.
        category_of: Function that tells the category of an image by its path; ``None`` takes ``category_of`` from the
            trainer's datamodule, as :class:`~anople_anomalib.data.FewShot` has it.
        metrics: Names of the metrics, of :data:`~anople_anomalib.metrics.score_counts.METRICS`; ``None`` for AUROC,
            AUPR and F1Max of images, AUROC, AUPRO and F1Max of pixels.

    Attributes:
        verdicts: Wrong verdicts of the last test by category and class, see :meth:`.CategoryScores.rates`.

    Raises:
        ValueError: If a category appears twice or a metric is not known.
    """

    def __init__(
        self,
        categories: Sequence[str] | None = None,
        category_of: Callable[[str], str] | None = None,
        metrics: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if categories is not None and len(set(categories)) != len(categories):
            msg = f"Every category must be named once, got {list(categories)}."
            raise ValueError(msg)
        self.metrics = PAPER_METRICS if metrics is None else tuple(metrics)
        if unknown := next((name for name in self.metrics if name not in METRICS), None):
            msg = f"Unknown metric {unknown!r}: known are {', '.join(METRICS)}."
            raise ValueError(msg)
        self._given = (categories, category_of)
        self._category_of = category_of
        self._raw_scores = RawScoreKeeper()
        self._scores = {category: CategoryScores() for category in categories or [""]}
        self.verdicts: dict[str, dict[str, Rate]] = {}
        self._may_be_fitted = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Look up the categories in the datamodule, which is set up by now, and see to it that raw scores are kept.

        Raises:
            ValueError: If there are several categories and nothing tells which image belongs to which, or several
                processes, of which each would count its own images.
        """
        del pl_module, stage
        if trainer.world_size > 1:
            msg = f"PerCategoryEvaluator counts in one process, got {trainer.world_size}: give the trainer devices=1."
            raise ValueError(msg)
        categories, self._category_of = self._given
        datamodule = datamodule_of(trainer)
        self._may_be_fitted = (
            isinstance(datamodule, AnomalibDataModule) and datamodule.val_split_mode == ValSplitMode.SAME_AS_TEST
        )
        if isinstance(datamodule, Categorized):
            categories = categories or datamodule.categories
            self._category_of = self._category_of or datamodule.category_of
        self._scores = {category: CategoryScores() for category in categories or [""]}
        if len(self._scores) > 1 and self._category_of is None:
            raise ValueError(_NO_CATEGORIES)
        self._raw_scores = RawScoreKeeper.of(trainer)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: ImageBatch,
        *args: object,
        **kwargs: object,
    ) -> None:
        """Count the scores of the categories in the batch."""
        del trainer, pl_module, outputs, args, kwargs
        scores, maps = self._raw_scores.of_batch(batch)
        for category, rows in self._rows(batch).items():
            counted = self._scores[category]
            defects = [defect_of(batch.image_path[row]) for row in rows] if batch.image_path else []
            labels, truth = _part(batch.pred_label, rows), _part(batch.gt_label, rows)
            counted.update_images(_part(scores, rows), labels, truth, defects)
            counted.update_pixels(_part(maps, rows), _part(batch.pred_mask, rows), _part(batch.gt_mask, rows))

    def _rows(self, batch: ImageBatch) -> Mapping[str, list[int]]:
        """Return the numbers of a batch's images, by category."""
        if len(self._scores) == 1:
            return {next(iter(self._scores)): list(range(batch.batch_size))}
        if self._category_of is None:
            raise ValueError(_NO_CATEGORIES)
        rows: dict[str, list[int]] = {}
        for row, path in enumerate(batch.image_path or []):
            rows.setdefault(self._category_of(path), []).append(row)
        return rows

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute and log the metrics."""
        del trainer, pl_module
        for name, value in self.compute().items():
            self.log(name, value)  # type: ignore[operator]  # Lightning lends its own for a run

    def compute(self) -> dict[str, Tensor]:
        """Compute the metrics of all that was tested, log wrong verdicts with their bounds, and forget it.

        Returns:
            The means over the categories (or the metrics of the one category), then the metrics of each category.
        """
        everything = self._scores
        self.verdicts = {category: scores.rates() for category, scores in everything.items()}
        self._scores = {category: CategoryScores() for category in everything}
        several = len(everything) > 1
        values: dict[str, Tensor] = {}
        left_out: dict[str, list[str]] = {}
        by_metric: dict[str, list[Tensor]] = {name: [] for name in self.metrics}
        for category, scores in everything.items():
            if several and not scores.images:
                logger.warning("No image of category '%s' was tested, so the means leave it out.", category)
                continue
            if rates := self.verdicts[category]:
                logger.info("%s%s", f"{category}: " if several else "", wrong_verdicts(rates))
                if self._may_be_fitted:
                    logger.info("%s", _FITTED)
            name_of = partial(metric_name, category) if several else str
            defined, reasons = scores.compute(self.metrics)
            for metric, value in defined.items():
                values[name_of(metric)] = value
                by_metric[metric].append(value)
            for metric, reason in reasons.items():
                left_out.setdefault(reason, []).append(name_of(metric))
        if left_out:
            text = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in left_out.items())
            logger.warning("Not defined, and so left out: %s.", text)
        if not several:
            return values
        return {**{name: torch.stack(each).mean() for name, each in by_metric.items() if each}, **values}


def wrong_verdicts(rates: Mapping[str, Rate]) -> str:
    """Say how many good parts were called defective, and how many defective ones good, with bounds and by defect."""
    defects = {name: rate for name, rate in rates.items() if name != GOOD}
    lines = [f"False alarms: {rates[GOOD]}. {rates[GOOD].wishes()}"] if GOOD in rates else []
    if defects:
        escapes = together(defects.values())
        lines.append(f"Escapes: {escapes}. {escapes.wishes()}")
    if len(defects) > 1:
        lines += [f"  {name}: {rate}" for name, rate in defects.items()]
    return "\n".join(lines)


def metric_name(category: str, metric: str) -> str:
    """Name one category's metric where there are several: ``bottle/image_AUROC``, which a report takes apart."""
    return f"{category}/{metric}"


def _part(values: Tensor | None, rows: list[int]) -> Tensor | None:
    return None if values is None else values[rows]
