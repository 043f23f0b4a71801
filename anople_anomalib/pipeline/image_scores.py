# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The raw score of every test image of a job, kept as Parquet for the statistics of a comparison."""

import logging
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from anomalib.data import AnomalibDataModule, ImageBatch
from lightning.pytorch import Callback, LightningModule, Trainer

from anople_anomalib.baselines.anomalygpt.language import yes_or_no
from anople_anomalib.data import FewShot
from anople_anomalib.metrics.bounds import GOOD, defect_of
from anople_anomalib.metrics.score_counts import ScoreHistogram
from anople_anomalib.metrics.thresholds import fit_threshold
from anople_anomalib.utils.files import written_whole

from .building import categories_of

logger = logging.getLogger(__name__)


class ImageScore(NamedTuple):
    """A row of the file."""

    category: str  # category of the image
    image: str  # path of the image; in the file with as many of its folders, one at least, as no other has
    defect: str  # kind of its defect, ``"good"`` without one
    anomalous: bool  # whether it has one
    score: float  # raw score, larger where more anomalous
    answer: str = ""  # ``"yes"`` or ``"no"`` of a language model that was asked for an anomaly; empty without one
    sentence: str = ""  # all that it said


class ImageScores(Callback):
    """Keeps the raw scores of a test, and those of good parts that a model's own threshold comes from.

    Given to the trainer in front of the model's own callbacks, it sees raw scores. The threshold is the same function
    of each method's scores of good training images that are no shots (:func:`.fit_threshold`): no test image has a part
    in it. They are scored by a prediction after the test.
    """

    def __init__(self, datamodule: AnomalibDataModule) -> None:
        self._datamodule = datamodule
        self._good = ScoreHistogram()
        self._complete = False
        self.rows: list[ImageScore] = []

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: ImageBatch, *_: int, **__: int
    ) -> None:
        """Count the scores of good parts."""
        del trainer, pl_module, batch
        if isinstance(outputs, ImageBatch) and outputs.pred_score is not None:
            self._good.update(outputs.pred_score, torch.zeros_like(outputs.pred_score))

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: ImageBatch, *_: int, **__: int
    ) -> None:
        """Keep the scores of labeled images."""
        del trainer, pl_module, outputs
        if self._complete or batch.pred_score is None or batch.gt_label is None:
            return
        data, (first, *_others) = self._datamodule, categories_of(self._datamodule)
        columns = (batch.image_path or [], batch.gt_label.flatten().tolist(), batch.pred_score.flatten().tolist())
        sentences = batch.explanation or [""] * batch.batch_size
        for file, anomalous, score, said in zip(*columns, sentences, strict=True):
            category = data.category_of(file) if isinstance(data, FewShot) else first
            defect = defect_of(file) if anomalous else GOOD
            self.rows.append(ImageScore(category, file, defect, bool(anomalous), score, yes_or_no(said), said))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the first test alone: further ones are of corrupted images."""
        del trainer, pl_module
        self._complete = True

    def save(self, path: Path) -> None:
        """Write the scores, and beside each the model's threshold; without pyarrow say that they are not kept."""
        threshold = fit_threshold(self._good, self._good) if self._good.has_normal else None
        table = pd.DataFrame(self.rows, columns=ImageScore._fields).assign(threshold=threshold)
        table["image"] = _short_names(table["image"].tolist())
        try:
            with written_whole(path) as temporary:
                table.astype({"threshold": float}).to_parquet(temporary, index=False)
        except ImportError:
            logger.warning("Scores per image are not kept without pyarrow: pip install 'anople-anomalib[compare]'.")


def _short_names(paths: list[str]) -> list[str]:
    """Return the ends of paths: folder and name, and as many folders above as tell different paths apart."""
    parts = [Path(path).parts for path in paths]
    most = max(map(len, parts), default=0)
    ends = (["/".join(each[-depth:]) for each in parts] for depth in range(2, most + 1))
    return next((names for names in ends if len(set(names)) == len(set(paths))), paths)
