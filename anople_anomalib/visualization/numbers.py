# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Charts of numbers: features in the plane (Figure 4 of the AnoPLe paper), scores, and losses."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import torch
from anomalib.data import ImageBatch
from anomalib.models.components import PCA
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

from anople_anomalib.anople import AnoPLe
from anople_anomalib.utils.palette import MARKERS, PALETTE

from .inside import evidence_of
from .samples import THRESHOLD, Predictions
from .style import ANOMALOUS, NORMAL, SMALL, new_chart

BINS = 20
PREFIX, SUFFIX = "train_", "loss"
TOTAL = "train_loss"


def draw_features(model: AnoPLe, predictions: Sequence[ImageBatch]) -> Figure:
    """Project the features of images and of both texts by PCA: Figure 4.

    How to read it: every point is a test image, blue circles normal and vermillion triangles anomalous ones; the two
    stars are the text features w+ (normal) and w- (abnormal). Separate clouds mean that the image embedding alone
    tells the two apart; w- on the side of the anomalous cloud means that both modalities agree on which is which. The
    components are fitted to the images, and each axis says how much of the images' variance it holds; the texts are
    projected afterwards and moved so that their middle lies in that of the two clouds, because CLIP keeps images and
    texts apart by a constant gap that says nothing about defects.

    Args:
        model: A trained model.
        predictions: Batches as ``engine.predict`` returns them for a test set.

    Raises:
        ValueError: If there are fewer than three images, or images without a label.
    """
    images = torch.cat([evidence_of(model, batch).embeddings for batch in predictions])
    labels = [label.bool() for batch in predictions if (label := batch.gt_label) is not None]
    return features_figure(images, torch.cat(labels or [torch.empty(0)]), model.model.text_features)


def features_figure(images: torch.Tensor, anomalous: torch.Tensor, texts: torch.Tensor) -> Figure:
    """Draw image embeddings, shape ``(N, D)``, their labels, and (w+, w-), shape ``(2, D)``: :func:`draw_features`."""
    if not 3 <= len(images) == len(anomalous):
        msg = "A projection needs three images or more with labels: pass what engine.predict returns for a test set."
        raise ValueError(msg)
    pca = PCA(n_components=2)
    pca.fit(images.clone())  # works in place, as transform does
    points, stars = pca.transform(images.clone()), pca.transform(texts.float().cpu().clone())
    clouds = [points[mask] for mask in (anomalous, ~anomalous) if mask.any()]
    middle = torch.stack([cloud.mean(dim=0) for cloud in clouds]).mean(dim=0)
    variance = points.var(dim=0) / images.var(dim=0).sum()
    figure, axes = new_chart(5.4, 4.2)
    looks = (("normal", ~anomalous, NORMAL, "o", "w^+"), ("anomalous", anomalous, ANOMALOUS, "^", "w^-"))
    for (name, mask, color, marker, text), star in zip(looks, stars - stars.mean(dim=0) + middle, strict=True):
        if mask.any():
            x, y = points[mask].T
            axes.scatter(x, y, s=28, color=color, marker=marker, alpha=0.75, lw=0, label=f"{name} images")
        x, y = star
        axes.scatter(x, y, s=260, color=color, marker="*", ec="black", label=f"text ${text}$", zorder=3)
    axes.set_xlabel(f"first component ({variance[0]:.0%} of the images' variance)", fontsize=SMALL + 1)
    axes.set_ylabel(f"second component ({variance[1]:.0%})", fontsize=SMALL + 1)
    figure.legend(loc="outside upper center", ncols=2, fontsize=SMALL)
    return figure


def draw_scores(predictions: Predictions | Mapping[str, Predictions]) -> Figure:
    """Show the scores of normal and of anomalous images beside the threshold; the paper has no such figure.

    How to read it: blue bars count normal images, hatched vermillion ones anomalous images. Vermillion left of the
    dashed threshold was missed, blue right of it is a false alarm; the title counts both. One hopes for a wide empty
    gap around the threshold.

    Args:
        predictions: Batches as ``engine.predict`` returns them for a test set, with normalized scores; for several
            models a mapping from their names to that.

    Raises:
        ValueError: If there is nothing to draw, or an image has no score or no label.
    """
    by_model = predictions if isinstance(predictions, Mapping) else {"": predictions}
    return scores_figure({name: _scores(batches) for name, batches in by_model.items()})


def scores_figure(scores: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Draw scores and labels of every model, both of shape ``(N,)``, see :func:`draw_scores`."""
    figure = Figure(figsize=(max(4.6, 3.6 * len(scores)), 3.3), dpi=110, layout="constrained")
    grid = figure.subplots(1, len(scores), squeeze=False)[0]
    for axes, (name, (values, anomalous)) in zip(grid, scores.items(), strict=True):
        _draw_histogram(axes, values, anomalous)
        missed, alarms = int((values[anomalous] <= THRESHOLD).sum()), int((values[~anomalous] > THRESHOLD).sum())
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


def _draw_histogram(axes: Axes, scores: np.ndarray, anomalous: np.ndarray) -> None:
    """Draw stacked bars of both kinds of images, and the threshold between two of them."""
    low, high = min(scores.min(), THRESHOLD), max(scores.max(), THRESHOLD)
    width = max(high - low, 1e-6) / BINS
    start = THRESHOLD - np.ceil((THRESHOLD - low) / width) * width
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
    axes.axvline(THRESHOLD, color="black", linestyle="--", linewidth=1, label=f"threshold {THRESHOLD}")
    axes.set_xlabel("image-level score", fontsize=SMALL + 1)
    axes.locator_params(axis="y", integer=True)
    axes.tick_params(labelsize=SMALL)


def draw_training_curves(metrics: pd.DataFrame | Mapping[str, Sequence[float]] | str | Path) -> Figure:
    """Show the loss of every epoch and its terms, equations (7) to (11); the paper has no such figure.

    How to read it: the black line is the loss L of equation (11), the others are the terms that it is the sum of, by
    epoch. A different anomaly is simulated in every step, and an epoch of one shot is one step: the curves of a 1-shot
    run jump about. The thin lines are the values themselves, the thick ones their mean over the last tenth of
    the epochs. A term that stays flat has nothing to teach; a total that still falls asks for more epochs.

    Args:
        metrics: ``metrics.csv`` of Lightning's ``CSVLogger``, a table of that form, or a mapping from the names of
            the losses (``train_loss``, ``train_pixel_loss``, ...) to their values per epoch.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If there is no training loss in it.
    """
    table = _table(metrics)
    figure, axes = new_chart(5.8, 3.4)
    terms = [str(name) for name in table if name != TOTAL]
    # the palette's last color is black, that of the total
    styles = {TOTAL: ("black", ""), **{name: (PALETTE[i % 6], MARKERS[i % 7]) for i, name in enumerate(terms)}}
    for name, (color, marker) in styles.items():
        values = table[name].dropna()
        axes.plot(values.index, values, color=color, alpha=0.35, linewidth=0.8)
        smooth, every = values.rolling(max(1, len(values) // 10), min_periods=1).mean(), max(1, len(values) // 8)
        (line,) = axes.plot(smooth.index, smooth, color=color, label=name.removeprefix(PREFIX))
        line.set(marker=marker, markevery=every, markersize=4)
    axes.set_xlabel("epoch", fontsize=SMALL + 1)
    axes.set_ylabel("loss", fontsize=SMALL + 1)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=SMALL, ncols=2)
    return figure


def _table(metrics: pd.DataFrame | Mapping[str, Sequence[float]] | str | Path) -> pd.DataFrame:
    """Return the losses by epoch: the index is the number of the epoch, from 1."""
    source = "The metrics"
    if isinstance(metrics, str | Path):
        source = f"The file '{metrics}'"
        if not Path(metrics).is_file():
            msg = f"{source} does not exist: train with a CSVLogger and pass its metrics.csv."
            raise FileNotFoundError(msg)
        metrics = pd.read_csv(metrics)
    table = pd.DataFrame(metrics)
    losses = [name for name in table if str(name).startswith(PREFIX) and str(name).endswith(SUFFIX)]
    if TOTAL not in losses:
        msg = f"{source} must have a column '{TOTAL}', got {', '.join(map(str, table)) or 'nothing'}."
        raise ValueError(msg)
    table = table.dropna(subset=[TOTAL])
    epochs = table["epoch"] + 1 if "epoch" in table else np.arange(1, len(table) + 1)
    return table[losses].set_axis(pd.Index(epochs), axis="index")
