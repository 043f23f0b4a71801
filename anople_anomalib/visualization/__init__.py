# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Figures of what AnoPLe does: functions that take data and return a matplotlib ``Figure``.

Each docstring says which figure of the paper it follows and how to read it:

- :func:`draw_gallery`: images, ground truth, heat maps and overlays of one or several models (Figures 3, 8, 9, 10);
- :func:`draw_maps`: decoder, memory and fused map side by side;
- :func:`draw_nearest_normal`: why, the nearest normal patch and the image it came from;
- :func:`draw_scores`: histograms of the scores with the threshold;
- :func:`draw_features`: PCA of image and text features (Figure 4);
- :func:`draw_prompt_attention`, :func:`draw_view_attention`: attention (Figures 11 and 12);
- :func:`draw_training_curves`: losses by epoch.

``--model.visualizer anople_anomalib.visualization.PanelVisualizer`` puts them into the results of ``anomalib train``
and ``anomalib test``.

Example:
    >>> from anople_anomalib.visualization import draw_gallery
    >>> predictions = engine.predict(model=model, datamodule=datamodule)  # doctest: +SKIP
    >>> draw_gallery(predictions, order="failures").savefig("failures.png")  # doctest: +SKIP
"""

from .attention import draw_prompt_attention, draw_view_attention
from .explanation import Shot, draw_nearest_normal, nearest_normal, shots_of
from .features import draw_features
from .gallery import draw_gallery
from .maps import draw_maps
from .panel_visualizer import PanelVisualizer
from .passes import attention_of, evidence_of
from .samples import load_images, select
from .scores import draw_scores
from .training_curves import draw_training_curves

__all__ = [
    "PanelVisualizer",
    "Shot",
    "attention_of",
    "draw_features",
    "draw_gallery",
    "draw_maps",
    "draw_nearest_normal",
    "draw_prompt_attention",
    "draw_scores",
    "draw_training_curves",
    "draw_view_attention",
    "evidence_of",
    "load_images",
    "nearest_normal",
    "select",
    "shots_of",
]
