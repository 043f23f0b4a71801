# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Image and pixel metrics per category, and their mean over the categories.

The metrics are AUROC, AUPR and F1Max of the image scores and AUROC, AUPRO and F1Max of the anomaly maps, computed by
anomalib's and torchmetrics' classes; those of the maps in bounded memory (:mod:`anople_anomalib.metrics.pixel`).

Example:
    Any anomalib model::

        >>> from anomalib.models import Padim
        >>> from anople_anomalib.metrics import PerCategoryEvaluator
        >>> model = Padim(evaluator=PerCategoryEvaluator())  # doctest: +SKIP

    From the command line::

        anomalib train --model Padim --model.evaluator anople_anomalib.metrics.PerCategoryEvaluator --data FewShot
"""

import logging
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import torch
from anomalib.data import ImageBatch
from anomalib.metrics import AUPR, AUROC, AnomalibMetric, Evaluator, F1Max
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.nn import ModuleList
from torchmetrics import Metric

from anople_anomalib.utils.metric_names import metric_name, split_metric_name

from .pixel import PIXEL_FIELDS, PixelAUPRO, PixelAUROC, PixelF1Max

logger = logging.getLogger(__name__)

_IMAGE_FIELDS = ("pred_score", "gt_label")


if TYPE_CHECKING:

    class BatchMetric(AnomalibMetric, Metric):
        """What anomalib's metrics are: torchmetrics' that take batches."""


def usual_metrics() -> list["BatchMetric"]:
    """Return one category's metrics, under anomalib's usual names."""
    metrics: list[AnomalibMetric] = [
        AUROC(fields=_IMAGE_FIELDS, strict=False),
        AUPR(fields=_IMAGE_FIELDS, strict=False),
        F1Max(fields=_IMAGE_FIELDS, strict=False),
        PixelAUROC(fields=PIXEL_FIELDS, strict=False),
        PixelAUPRO(strict=False),
        PixelF1Max(strict=False),
    ]
    names = ("image_AUROC", "image_AUPR", "image_F1Max", "pixel_AUROC", "pixel_AUPRO", "pixel_F1Max")
    for metric, name in zip(metrics, names, strict=True):
        metric.name = name
    return cast("list[BatchMetric]", metrics)


class PerCategoryEvaluator(Evaluator):
    """Evaluator that logs the test metrics of every category and their means.

    With one category the names are anomalib's usual ones: ``image_AUROC``, ``image_AUPR``, ``image_F1Max``,
    ``pixel_AUROC``, ``pixel_AUPRO``, ``pixel_F1Max``. With several, these are the means over the categories, and each
    category's own are ``bottle/image_AUROC`` and so on. Test images without masks have no pixel metrics.

    Args:
        categories: Names of the categories; ``None`` takes ``categories`` from the trainer's datamodule, and a
            datamodule without them has one category.
        category_of: Function that tells the category of an image by its path; ``None`` takes ``category_of`` from the
            trainer's datamodule, as :class:`~anople_anomalib.data.FewShot` has it.
        compute_on_cpu: Whether to keep the image scores on the CPU.

    Raises:
        ValueError: If a category appears twice.
    """

    log: Callable[..., None]  # Lightning gives it to every callback of a run

    def __init__(
        self,
        categories: Sequence[str] | None = None,
        category_of: Callable[[str], str] | None = None,
        compute_on_cpu: bool = True,
    ) -> None:
        super().__init__(compute_on_cpu=compute_on_cpu)
        if categories is not None and len(set(categories)) != len(categories):
            msg = f"Every category must be named once, got {list(categories)}."
            raise ValueError(msg)
        self._given = (categories, category_of)
        self._category_of = category_of
        self._build(categories or [""])

    def _build(self, categories: Sequence[str]) -> None:
        """Create the metrics of every category, unless there are any."""
        if list(categories) == list(getattr(self, "categories", [])):
            return
        self.categories = list(categories)
        self.test_metrics = ModuleList(metric for _ in self.categories for metric in usual_metrics())
        if len(self.categories) > 1:
            for category in self.categories:
                for metric in self._metrics_of(category):
                    metric.name = metric_name(category, metric.name)

    def _metrics_of(self, category: str) -> list["BatchMetric"]:
        """Return the metrics of one category."""
        each = len(self.test_metrics) // len(self.categories)
        first = self.categories.index(category) * each
        return self._metrics()[first : first + each]

    def _metrics(self) -> list["BatchMetric"]:
        """Return the metrics of all categories."""
        return cast("list[BatchMetric]", list(self.test_metrics))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Look up the categories in the datamodule, which is set up by now.

        Args:
            trainer: The trainer.
            pl_module: The model.
            stage: Stage of the trainer.

        Raises:
            ValueError: If there are several categories and nothing tells which image belongs to which.
        """
        datamodule = getattr(trainer, "datamodule", None)
        categories, category_of = self._given
        self._category_of = category_of or getattr(datamodule, "category_of", None)
        self._build(categories or getattr(datamodule, "categories", None) or [""])
        if len(self.categories) > 1 and self._category_of is None:
            msg = (
                "PerCategoryEvaluator has several categories but cannot tell the category of an image: use a FewShot "
                "datamodule, or give category_of."
            )
            raise ValueError(msg)
        super().setup(trainer, pl_module, stage)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Update the metrics of the categories in the batch."""
        del trainer, pl_module, outputs, batch_idx, dataloader_idx
        for category, part in self._by_category(batch).items():
            for metric in self._metrics_of(category):
                metric.update(part)

    def _by_category(self, batch: ImageBatch) -> dict[str, Any]:
        """Split a batch into those fields of each category's images that the metrics need."""
        if len(self.categories) == 1:
            return {self.categories[0]: batch}
        category_of = cast("Callable[[str], str]", self._category_of)  # setup has refused None
        rows: dict[str, list[int]] = {}
        for row, path in enumerate(cast("list[str]", batch.image_path)):  # as anomalib's datasets give them
            rows.setdefault(category_of(path), []).append(row)
        fields = {name: getattr(batch, name, None) for name in (*_IMAGE_FIELDS, *PIXEL_FIELDS)}
        return {
            category: SimpleNamespace(**{name: None if value is None else value[own] for name, value in fields.items()})
            for category, own in rows.items()
        }

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute and log the metrics."""
        del pl_module
        for name, value in self.compute().items():
            self.log(name, value)
            if trainer.barebones:  # logs nothing by itself
                trainer.callback_metrics[name] = trainer.logged_metrics[name] = value

    def compute(self) -> dict[str, Tensor]:
        """Compute the metrics of all that was tested and forget it.

        Returns:
            The means over the categories (or the metrics of the one category), then the metrics of each category.
        """
        computed = {metric.name: metric.compute() for metric in self._metrics() if metric.update_called}
        values = {name: value.float() for name, value in computed.items() if value is not None}
        for metric in self._metrics():
            metric.reset()
            Metric.reset(metric)  # anomalib's F1Max resets its curve, but not its count of updates
        if not any(split_metric_name(name)[1].startswith("pixel_") for name in values):
            logger.warning("The test images have no masks, so there are no pixel metrics.")
        if len(self.categories) == 1:
            return values
        for category in set(self.categories) - {split_metric_name(name)[0] for name in values}:
            logger.warning("No image of category '%s' was tested, so the means leave it out.", category)
        by_metric: dict[str, list[Tensor]] = {}
        for name, value in values.items():
            by_metric.setdefault(split_metric_name(name)[1], []).append(value)
        return {**{name: torch.stack(each).mean() for name, each in by_metric.items()}, **values}
