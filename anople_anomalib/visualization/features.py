# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Image and text features in the plane (Figure 4 of the AnoPLe paper)."""

from collections.abc import Sequence

import numpy as np
import torch
from anomalib.data import ImageBatch
from anomalib.models.components import PCA
from matplotlib.figure import Figure

from anople_anomalib.anople import AnoPLe

from .passes import evidence_of
from .style import ANOMALOUS, NORMAL, SMALL


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
        predictions: What ``engine.predict`` returns for a test set.

    Returns:
        The figure.

    Raises:
        ValueError: If there are fewer than three images, or images without a label.
    """
    images = [evidence_of(model, batch).embeddings for batch in predictions]
    labels = [label for batch in predictions for label in _labels(batch)]
    return features_figure(torch.cat(images), labels, model.model.text_features)


def features_figure(images: torch.Tensor, labels: Sequence[bool | None], texts: torch.Tensor) -> Figure:
    """Draw the projection of features, see :func:`draw_features`.

    Args:
        images: Image embeddings, shape ``(N, D)``.
        labels: Whether each image is anomalous.
        texts: Text features (w+, w-), shape ``(2, D)``.

    Returns:
        The figure.

    Raises:
        ValueError: As :func:`draw_features`.
    """
    if len(images) < 3 or None in labels:
        msg = "A projection needs three images or more with labels: pass what engine.predict returns for a test set."
        raise ValueError(msg)
    anomalous = torch.tensor(labels)
    pca = PCA(n_components=2)
    pca.fit(images.clone())  # works in place, as transform does
    points, stars = pca.transform(images.clone()), pca.transform(texts.float().cpu().clone())
    stars = stars - stars.mean(dim=0) + _middle(points, anomalous)
    variance = points.var(dim=0) / images.var(dim=0).sum()
    return _draw(points.numpy(), stars.numpy(), anomalous.numpy(), variance.tolist())


def _labels(batch: ImageBatch) -> list[bool | None]:
    return [None] * len(batch) if batch.gt_label is None else batch.gt_label.bool().tolist()


def _middle(points: torch.Tensor, anomalous: torch.Tensor) -> torch.Tensor:
    """Return the point halfway between the means of the clouds that there are."""
    clouds = [points[mask] for mask in (anomalous, ~anomalous) if mask.any()]
    return torch.stack([cloud.mean(dim=0) for cloud in clouds]).mean(dim=0)


def _draw(points: np.ndarray, texts: np.ndarray, anomalous: np.ndarray, variance: list[float]) -> Figure:
    figure = Figure(figsize=(5.4, 4.2), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    clouds = (("normal", ~anomalous, NORMAL, "o", "w+"), ("anomalous", anomalous, ANOMALOUS, "^", "w-"))
    for (name, mask, color, marker, text), place in zip(clouds, texts, strict=True):
        if mask.any():
            x, y = points[mask].T
            axes.scatter(x, y, color=color, marker=marker, s=28, alpha=0.75, lw=0, label=f"{name} images")
        x, y = place
        axes.scatter(x, y, color=color, marker="*", s=260, ec="black", label=f"text ${text[0]}^{text[1]}$", zorder=3)
    axes.set_xlabel(f"first component ({variance[0]:.0%} of the images' variance)", fontsize=SMALL + 1)
    axes.set_ylabel(f"second component ({variance[1]:.0%})", fontsize=SMALL + 1)
    axes.tick_params(labelsize=SMALL)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=2, fontsize=SMALL)
    return figure
