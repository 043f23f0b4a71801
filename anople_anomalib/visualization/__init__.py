# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Figures of AnoPLe: functions that take data and return a matplotlib ``Figure``.

``--model.visualizer anople_anomalib.visualization.PanelVisualizer`` puts them into the results of ``anomalib train``
and ``anomalib test``.

Example:
    >>> from anople_anomalib.visualization import draw_gallery
    >>> predictions = engine.predict(model=model, datamodule=datamodule)  # doctest: +SKIP
    >>> draw_gallery(predictions, order="failures").savefig("failures.png")  # doctest: +SKIP
"""

from .explanation import Shot, draw_nearest_normal, nearest_normal, shots_of
from .gallery import draw_gallery
from .inside import attention_of, draw_maps, draw_prompt_attention, draw_view_attention, evidence_of
from .numbers import draw_features, draw_scores, draw_training_curves
from .panel_visualizer import PanelVisualizer
from .samples import load_images, select

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
