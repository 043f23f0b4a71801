# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Image and pixel metrics per category, and their mean over the categories, from raw scores and in bounded memory.

Example:
    Any anomalib model::

        >>> from anomalib.models import Padim
        >>> from anople_anomalib.metrics import PerCategoryEvaluator
        >>> model = Padim(evaluator=PerCategoryEvaluator())  # doctest: +SKIP

    From the command line::

        anomalib train --model Padim --model.evaluator anople_anomalib.metrics.PerCategoryEvaluator --data FewShot
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from anomalib.data import ImageBatch
from anomalib.metrics import Evaluator
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from anople_anomalib.utils.metric_names import metric_name

from .bounds import Rate
from .category_scores import GOOD, METRICS, PAPER_METRICS, CategoryScores
from .raw_scores import RawScoreKeeper

logger = logging.getLogger(__name__)

_NO_CATEGORIES = (
    "PerCategoryEvaluator has several categories but cannot tell the category of an image: use a FewShot datamodule, "
    "or give category_of."
)


class PerCategoryEvaluator(Evaluator):
    """Evaluator that logs the test metrics of every category and their means.

    With one category the names are anomalib's usual ones, such as ``image_AUROC``. With several, these are the means
    over the categories, and each category's own are ``bottle/image_AUROC`` and so on. A metric that is not defined (no
    anomalous image, no mask) is left out, and one line says why.

    Metrics of scores are computed from what the model said, before any post-processor; ``F1Score`` is that of the
    labels that the post-processor gave.

    Args:
        categories: Names of the categories; ``None`` takes ``categories`` from the trainer's datamodule, and a
            datamodule without them has one category.
        category_of: Function that tells the category of an image by its path; ``None`` takes ``category_of`` from the
            trainer's datamodule, as :class:`~anople_anomalib.data.FewShot` has it.
        metrics: Names of the metrics, of :data:`~anople_anomalib.metrics.category_scores.METRICS`; ``None`` for AUROC,
            AUPR and F1Max of images, AUROC, AUPRO and F1Max of pixels.

    Attributes:
        rates: Wrong verdicts of the last test by category and class, see :meth:`.CategoryScores.rates`.

    Raises:
        ValueError: If a category appears twice or a metric is not known.
    """

    _category_of: Callable[[str], str] | None

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
        self.rates: dict[str, dict[str, Rate]] = {}
        self._raw_scores = RawScoreKeeper()
        self._scores = {category: CategoryScores() for category in categories or [""]}

    @property
    def categories(self) -> list[str]:
        """Return the names of the categories; ``[""]`` for a single one without a name."""
        return list(self._scores)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Look up the categories in the datamodule, which is set up by now, and see to it that raw scores are kept.

        Args:
            trainer: The trainer.
            pl_module: The model.
            stage: Stage of the trainer.

        Raises:
            ValueError: If there are several categories and nothing tells which image belongs to which, or several
                processes, of which each would count its own images.
        """
        del pl_module, stage
        if getattr(trainer, "world_size", 1) > 1:
            msg = f"PerCategoryEvaluator counts in one process, got {trainer.world_size}: give the trainer devices=1."
            raise ValueError(msg)
        datamodule = getattr(trainer, "datamodule", None)
        categories, category_of = self._given
        self._category_of = category_of or getattr(datamodule, "category_of", None)
        categories = categories or getattr(datamodule, "categories", None) or [""]
        if len(categories) > 1 and self._category_of is None:
            raise ValueError(_NO_CATEGORIES)
        self._scores = {category: CategoryScores() for category in categories}
        self._raw_scores = RawScoreKeeper.of(trainer)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the scores of the categories in the batch."""
        del trainer, pl_module, outputs, batch_idx, dataloader_idx
        raw = self._raw_scores.of_batch(batch)
        for category, rows in self._rows(batch).items():
            scores = self._scores[category]
            truth, labels = getattr(batch, "gt_label", None), getattr(batch, "pred_label", None)
            defects = [Path(path).parent.name for path in batch.image_path or ()]
            defects = defects[rows] if isinstance(rows, slice) else [defects[row] for row in rows]
            scores.update_images(_part(raw.pred_score, rows), _part(labels, rows), _part(truth, rows), defects)
            truth, masks = getattr(batch, "gt_mask", None), getattr(batch, "pred_mask", None)
            scores.update_pixels(_part(raw.anomaly_map, rows), _part(masks, rows), _part(truth, rows))

    def _rows(self, batch: ImageBatch) -> Mapping[str, list[int] | slice]:
        """Return the rows of a batch, by category."""
        if len(self._scores) == 1:
            return {self.categories[0]: slice(None)}
        if self._category_of is None:
            raise ValueError(_NO_CATEGORIES)
        rows: dict[str, list[int]] = {}
        for row, path in enumerate(batch.image_path or []):
            rows.setdefault(self._category_of(path), []).append(row)
        return rows

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute and log the metrics."""
        del pl_module
        for name, value in self.compute().items():
            self.log(name, value)  # type: ignore[operator]  # Lightning lends its own for a run
            if trainer.barebones:  # logs nothing by itself
                trainer.callback_metrics[name] = trainer.logged_metrics[name] = value

    def compute(self) -> dict[str, Tensor]:
        """Compute the metrics of all that was tested, log wrong verdicts with their bounds, and forget it.

        Returns:
            The means over the categories (or the metrics of the one category), then the metrics of each category.
        """
        everything = self._scores
        self._scores = {category: CategoryScores() for category in self._scores}
        several = len(everything) > 1
        values: dict[str, Tensor] = {}
        left_out: dict[str, list[str]] = {}
        by_metric: dict[str, list[Tensor]] = {name: [] for name in self.metrics}
        for category, scores in everything.items():
            if several and not scores.images:
                logger.warning("No image of category '%s' was tested, so the means leave it out.", category)
                continue
            defined, reasons = scores.compute(self.metrics)
            self.rates[category] = scores.rates()
            if self.rates[category]:
                logger.info("%s%s", f"{category}: " if several else "", wrong_verdicts(self.rates[category]))
            for metric, value in defined.items():
                values[metric_name(category, metric) if several else metric] = value
                by_metric[metric].append(value)
            for metric, reason in reasons.items():
                left_out.setdefault(reason, []).append(metric_name(category, metric) if several else metric)
        if left_out:
            text = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in left_out.items())
            logger.warning("Not defined, and so left out: %s.", text)
        if not several:
            return values
        return {**{name: torch.stack(each).mean() for name, each in by_metric.items() if each}, **values}


def wrong_verdicts(rates: Mapping[str, Rate]) -> str:
    """Say how many good parts were called defective, and how many defective ones good, with bounds and by defect.

    Args:
        rates: See :meth:`.CategoryScores.rates`.
    """
    defects = {name: rate for name, rate in rates.items() if name != GOOD}
    lines = [f"False alarms: {rates[GOOD]}."] if GOOD in rates else []
    if defects:
        escapes = Rate(sum(rate.k for rate in defects.values()), sum(rate.n for rate in defects.values()))
        lines.append(f"Escapes: {escapes}.")
    if len(defects) > 1:
        lines += [f"  {name}: {rate}" for name, rate in defects.items()]
    return "\n".join(lines)


def _part(values: Tensor | None, rows: list[int] | slice) -> Tensor | None:
    return None if values is None else values[rows]
