# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Histograms of the image-level scores, with the threshold."""

from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

from .samples import THRESHOLD, Predictions
from .style import ANOMALOUS, NORMAL, SMALL

BINS = 20


def draw_scores(predictions: Predictions | Mapping[str, Predictions], threshold: float = THRESHOLD) -> Figure:
    """Show the scores of normal and of anomalous images beside the threshold; the paper has no such figure.

    How to read it: blue bars count normal images, hatched vermillion ones anomalous images. What is vermillion left
    of the dashed threshold was missed, what is blue right of it is a false alarm; the title counts both. A wide empty
    gap around the threshold is what one hopes for.

    Args:
        predictions: What ``engine.predict`` returns for a test set; for several models a mapping from their names to
            that.
        threshold: Score above which an image counts as anomalous; 0.5 fits normalized scores.

    Returns:
        The figure.

    Raises:
        ValueError: If there is nothing to draw, or an image has no score or no label.
    """
    by_model = predictions if isinstance(predictions, Mapping) else {"": predictions}
    scores = {name: _scores(batches) for name, batches in by_model.items()}
    return scores_figure(scores, threshold)


def scores_figure(scores: Mapping[str, tuple[np.ndarray, np.ndarray]], threshold: float = THRESHOLD) -> Figure:
    """Draw histograms of scores, see :func:`draw_scores`.

    Args:
        scores: For every model its scores and whether each belongs to an anomalous image, both of shape ``(N,)``.
        threshold: As for :func:`draw_scores`.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(max(4.6, 3.6 * len(scores)), 3.3), dpi=110, layout="constrained")
    grid = figure.subplots(1, len(scores), squeeze=False)[0]
    for axes, (name, (values, anomalous)) in zip(grid, scores.items(), strict=True):
        _draw_histogram(axes, values, anomalous, threshold)
        missed, alarms = int((values[anomalous] <= threshold).sum()), int((values[~anomalous] > threshold).sum())
        counted = f"{missed} of {anomalous.sum()} missed, {alarms} of {(~anomalous).sum()} false alarms"
        axes.set_title(f"{name}\n{counted}".strip(), fontsize=SMALL + 1)
    grid[0].set_ylabel("images", fontsize=SMALL + 1)
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=SMALL)
    return figure


def _scores(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Return scores and labels of all images."""
    pairs = [(batch.pred_score, batch.gt_label) for batch in predictions]
    known = [(_flat(score), _flat(label)) for score, label in pairs if score is not None and label is not None]
    if not pairs or len(known) < len(pairs):
        msg = "A histogram needs images with a score and a label: pass what engine.predict returns for a test set."
        raise ValueError(msg)
    scores, labels = (np.concatenate(column) for column in zip(*known, strict=True))
    return scores, labels.astype(bool)


def _flat(values: torch.Tensor | np.ndarray) -> np.ndarray:
    """Return values of a batch in single precision, shape ``(N,)``."""
    return torch.as_tensor(values).detach().float().cpu().flatten().numpy()


def _draw_histogram(axes: Axes, scores: np.ndarray, anomalous: np.ndarray, threshold: float) -> None:
    """Draw stacked bars of both kinds of images, and the threshold between two of them."""
    low, high = min(scores.min(), threshold), max(scores.max(), threshold)
    width = max(high - low, 1e-6) / BINS
    start = threshold - np.ceil((threshold - low) / width) * width
    edges = start + width * (np.arange(BINS + 3) + 1e-6)  # one lies just above the threshold
    edges[0] = min(edges[0], low)
    _, _, bars = axes.hist(
        [scores[~anomalous], scores[anomalous]],
        bins=edges,
        stacked=True,
        color=[NORMAL, ANOMALOUS],
        edgecolor="white",
        linewidth=0.5,
        label=["normal", "anomalous"],
    )
    _, upper = cast("list[BarContainer]", bars)  # of two sets of values
    for bar in upper:
        bar.set_hatch("////")
    axes.axvline(threshold, color="black", linestyle="--", linewidth=1, label=f"threshold {threshold:.2g}")
    axes.set_xlabel("image-level score", fontsize=SMALL + 1)
    axes.locator_params(axis="y", integer=True)
    axes.tick_params(labelsize=SMALL)
