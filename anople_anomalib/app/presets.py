# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The presets of the page: the arguments of the files under ``configs/model``, which a test compares."""

from collections.abc import Mapping
from typing import Any

from .messages import AppError

OFFLINE, PAPER, DINOV2 = "offline", "paper", "dinov2"

PRESETS: Mapping[str, Mapping[str, Any]] = {
    OFFLINE: {"backbone": "anople-tiny", "memory_backbone": "efficientnet-lite2", "fusion": "weighted"},
    PAPER: {"backbone": "ViT-B-16-plus-240", "pretrained": "laion400m_e32"},
    DINOV2: {
        "backbone": "ViT-B-16-plus-240",
        "memory_backbone": "vit_small_patch14_reg4_dinov2.lvd142m",
        "memory_image_size": 448,
        "memory_rotations": True,
        "fusion": "weighted",
        "score_share": 0.01,
    },
}
"""Arguments of the model by preset. The paper's anomaly source is a download of its own: photographs stand in."""

LABELS = {
    "Offline: no download": OFFLINE,
    "Paper: CLIP ViT-B/16+, 830 MB once": PAPER,
    "DINOv2: the paper's CLIP and DINOv2, downloaded once": DINOV2,
}
"""What the page says, by preset."""


def arguments_of(preset: str) -> dict[str, Any]:
    """Return the arguments of a preset.

    Raises:
        AppError: If there is none of this name.
    """
    if preset not in PRESETS:
        msg = f"There is no preset {preset!r}: choose one of {', '.join(PRESETS)}."
        raise AppError(msg)
    return dict(PRESETS[preset])
