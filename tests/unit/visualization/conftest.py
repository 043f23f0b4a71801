# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""A model and predictions to draw."""

import pytest
import torch
from anomalib.data import ImageBatch
from PIL import Image

from anople_anomalib.anople import AnoPLe
from helpers.miniature import IMAGE_SIZE
from helpers.training import finish, make_model

NUM_SHOTS = 2
SCORES = (0.9, 0.2, 0.6, 0.1)
LABELS = (True, True, False, False)
"""Found, missed, false alarm, rightly left alone."""
SQUARE = (slice(16, 32), slice(32, 48))
"""Rows and columns of the defect."""


@pytest.fixture(scope="session")
def shots() -> torch.Tensor:
    """Normalized images of the memory."""
    return torch.randn(NUM_SHOTS, 3, *IMAGE_SIZE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def model(shots: torch.Tensor) -> AnoPLe:
    """A model on the miniature, as after training; not to be changed."""
    return finish(make_model(), shots)


@pytest.fixture(scope="session")
def batch(tmp_path_factory: pytest.TempPathFactory) -> ImageBatch:
    """Four predicted images, two of them with a square defect; not to be changed."""
    folder = tmp_path_factory.mktemp("images") / "hole"
    folder.mkdir()
    generator = torch.Generator().manual_seed(2)
    masks, maps = torch.zeros(4, *IMAGE_SIZE, dtype=torch.bool), 0.4 * torch.rand(4, *IMAGE_SIZE, generator=generator)
    masks[(slice(2), *SQUARE)], maps[(0, *SQUARE)] = True, 0.9
    paths = []
    for number in range(4):
        pixels = torch.randint(0, 255, (30, 40, 3), dtype=torch.uint8, generator=generator)
        paths.append(str(folder / f"{number:03d}.png"))
        Image.fromarray(pixels.numpy()).save(paths[-1])
    return ImageBatch(
        image=torch.randn(4, 3, *IMAGE_SIZE, generator=generator),
        image_path=paths,
        gt_label=torch.tensor(LABELS),
        gt_mask=masks,
        pred_score=torch.tensor(SCORES),
        pred_label=torch.tensor(SCORES) > 0.5,
        anomaly_map=maps,
        pred_mask=maps > 0.5,
    )
