# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Features, scores and curves."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from anomalib.data import ImageBatch

from anople_anomalib.anople import AnoPLe
from anople_anomalib.visualization import draw_features, draw_scores, draw_training_curves
from anople_anomalib.visualization.numbers import features_figure


def test_clouds_that_lie_apart_are_drawn_apart_with_each_text_on_its_side() -> None:
    direction = torch.nn.functional.normalize(torch.randn(8), dim=0)
    labels = torch.tensor([False] * 10 + [True] * 10)
    images = 0.01 * torch.randn(20, 8) + labels[:, None] * direction
    texts = 5 + torch.stack([-direction, direction])  # far from the images
    figure = features_figure(images, labels, texts)
    normal, w_plus, anomalous, w_minus = (drawn.get_offsets()[:, 0] for drawn in figure.axes[0].collections)
    assert len(normal) == len(anomalous) == 10
    side = np.sign(anomalous.mean() - normal.mean())
    assert (side * (anomalous.min() - normal.max())) > 0 or (side * (anomalous.max() - normal.min())) > 0
    assert side * (w_minus[0] - w_plus[0]) > 0
    assert re.search(r"\((9\d|100)%", figure.axes[0].get_xlabel())  # nearly all variance lies between the clouds


def test_too_few_images_or_no_labels_are_refused(model: AnoPLe, batch: ImageBatch) -> None:
    message = "A projection needs three images or more with labels"
    with pytest.raises(ValueError, match=message):
        draw_features(model, [ImageBatch(image=batch.image)])
    with pytest.raises(ValueError, match=message):
        draw_features(model, [ImageBatch(image=batch.image[:2], gt_label=batch.gt_label[:2])])


def test_bars_add_up_to_the_images_and_the_title_counts_the_errors(batch: ImageBatch) -> None:
    axes = draw_scores([batch, batch]).axes[0]
    assert axes.get_title() == "2 of 4 missed, 2 of 4 false alarms"
    lower, upper = axes.containers
    assert sum(bar.get_height() for bar in lower) == sum(bar.get_height() for bar in upper) == 4
    left = [bar.get_x() + bar.get_width() <= 0.5 + 1e-6 for bar in lower]
    assert sum(bar.get_height() for bar, is_left in zip(lower, left, strict=True) if is_left) == 2


def test_a_score_at_the_threshold_stands_left_of_it(batch: ImageBatch) -> None:
    tied = ImageBatch(image=batch.image, pred_score=torch.full((4,), 0.5), gt_label=batch.gt_label)
    axes = draw_scores([tied]).axes[0]
    assert axes.get_title() == "2 of 2 missed, 0 of 2 false alarms"
    for container in axes.containers:
        assert all(bar.get_x() < 0.5 for bar in container if bar.get_height())


def test_scores_without_labels_are_refused(batch: ImageBatch) -> None:
    for bare in ([], [ImageBatch(image=batch.image, pred_score=batch.pred_score)]):
        with pytest.raises(ValueError, match="A histogram needs images with a score and a label"):
            draw_scores(bare)


def test_curves_come_from_the_csv_file_of_a_logger(tmp_path: Path) -> None:
    losses = np.linspace(3, 1, 40)
    rows = pd.DataFrame({"epoch": range(40), "step": range(40), "train_loss": losses, "train_pixel_loss": losses / 2})
    rows.loc[len(rows), "image_AUROC"] = 0.9  # a row of the test
    rows.to_csv(tmp_path / "metrics.csv", index=False)
    figure = draw_training_curves(tmp_path / "metrics.csv")
    lines = figure.axes[0].lines
    assert [line.get_label() for line in lines[1::2]] == ["loss", "pixel_loss"]
    np.testing.assert_array_equal(lines[0].get_xdata(), np.arange(1, 41))
    np.testing.assert_allclose(lines[0].get_ydata(), losses)
    assert lines[1].get_ydata()[-1] == pytest.approx(losses[-4:].mean())
    mapping = draw_training_curves({"train_loss": losses, "train_pixel_loss": losses / 2})
    np.testing.assert_allclose(mapping.axes[0].lines[2].get_ydata(), lines[2].get_ydata())


def test_metrics_without_a_training_loss_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"metrics.csv' does not exist: train with a CSVLogger and pass"):
        draw_training_curves(tmp_path / "metrics.csv")
    with pytest.raises(ValueError, match=r"The metrics must have a column 'train_loss', got image_AUROC\."):
        draw_training_curves({"image_AUROC": [0.9]})
    with pytest.raises(ValueError, match=r"The metrics must have a column 'train_loss', got nothing\."):
        draw_training_curves({})
