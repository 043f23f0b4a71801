# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""A miniature CLIP, known to open_clip by name: 3 layers, images of 64x64, a grid of 4x4 patches."""

import copy
import json
from pathlib import Path
from typing import Any

import open_clip
import torch

_CONFIG_FILE = Path(__file__).with_name("ViT-miniature.json")
open_clip.add_model_config(_CONFIG_FILE)

MINIATURE = _CONFIG_FILE.stem
CONFIG: dict[str, Any] = json.loads(_CONFIG_FILE.read_text())
DEPTH = CONFIG["vision_cfg"]["layers"]
IMAGE_SIZE = (CONFIG["vision_cfg"]["image_size"],) * 2
VISUAL_WIDTH, TEXT_WIDTH, EMBED_DIM = CONFIG["vision_cfg"]["width"], CONFIG["text_cfg"]["width"], CONFIG["embed_dim"]
NUM_PATCHES = 16


def build(vision: dict[str, Any] | None = None, text: dict[str, Any] | None = None, **model: bool) -> open_clip.CLIP:
    """The miniature as open_clip builds it, with some settings changed, in evaluation mode."""
    config = copy.deepcopy(CONFIG) | model
    config["vision_cfg"] |= vision or {}
    config["text_cfg"] |= text or {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return open_clip.CLIP(**config).eval()
