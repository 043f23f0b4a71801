# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Write the asset: open_clip's ``local-dir:`` layout, half precision, untrained token rows zero."""

import json
import os
import zlib
from pathlib import Path

import torch
from open_clip import CLIP
from safetensors.torch import save
from torch import Tensor

from .model import MEAN, MODEL_CONFIG, STD

ASSET = Path(__file__).resolve().parents[2] / "anople_anomalib" / "assets" / "anople_tiny"
"""Where the package keeps its bundled backbone."""

CONFIG_FILE, WEIGHTS_FILE = "open_clip_config.json", "open_clip_model.safetensors"


def export_asset(model: CLIP, trained_tokens: Tensor, folder: Path) -> Path:
    """Write config and weights, each under a temporary name first.

    Args:
        model: The trained model.
        trained_tokens: Boolean, shape (vocab_size,); the rows of all other tokens are written as zeros, which
        compress to
            nothing.
        folder: Where the two files go.

    Returns:
        The path of the weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().to(torch.float16).contiguous() for name, tensor in model.state_dict().items()}
    state["token_embedding.weight"][~trained_tokens] = 0
    weights = folder / WEIGHTS_FILE
    temporary = folder / f"{WEIGHTS_FILE}.partial"
    temporary.write_bytes(save(state, metadata={"format": "pt"}))  # save_file would make it private
    os.replace(temporary, weights)
    config = {"model_cfg": MODEL_CONFIG, "preprocess_cfg": {"mean": MEAN, "std": STD}}
    temporary = folder / f"{CONFIG_FILE}.partial"
    temporary.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, folder / CONFIG_FILE)
    return weights


def compressed_size(path: Path) -> int:
    """Return the bytes of the file as a wheel stores it (deflate)."""
    return len(zlib.compress(path.read_bytes(), 6))
