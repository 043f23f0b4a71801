# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""A checkpoint that version 0.1.0 wrote, and the predictions that it made.

``version_0_1.ckpt``: ``anople-tiny``, two epochs on an image of ``helpers.folders.write_category``, a small coreset.
"""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F  # noqa: N812
from torch.testing import assert_close

from anople_anomalib.lightning_model import AnoPLe
from anople_anomalib.method.torch_model import AnoPLeModel

CHECKPOINT = Path(__file__).with_name("version_0_1.ckpt")
SCORE = [[0.1330930]]
MAP = [  # of version 0.1.0, averaged over 60x60 pixels
    [0.1502331, 0.0654460, 0.0664271, 0.0923061],
    [0.1990380, 0.1681193, 0.0473315, 0.0549226],
    [0.2330363, 0.1815951, 0.0387953, 0.0389646],
    [0.2453492, 0.1627579, 0.0414673, 0.0341908],
]


def slope_with_a_disk() -> torch.Tensor:
    """Shape ``(1, 3, 240, 240)``: red grows downwards, green to the right, and there is a blue disk."""
    rows, columns = torch.meshgrid(torch.linspace(0, 1, 240), torch.linspace(0, 1, 240), indexing="ij")
    disk = (rows - 0.5).square() + (columns - 0.3).square() < 0.03
    return torch.stack([rows, columns, disk.float()]).unsqueeze(0)


@pytest.fixture
def restored() -> AnoPLe:
    """The model of the checkpoint."""
    return AnoPLe.load_from_checkpoint(CHECKPOINT, visualizer=False).eval()


@torch.no_grad()
def test_its_predictions_are_those_that_it_made(restored: AnoPLe) -> None:
    model: AnoPLeModel = restored.model
    prediction = model(restored.pre_processor(slope_with_a_disk()))
    assert_close(prediction.pred_score, torch.tensor(SCORE), rtol=1e-4, atol=1e-5)
    small = F.adaptive_avg_pool2d(prediction.anomaly_map, 4).squeeze()
    assert_close(small, torch.tensor(MAP), rtol=1e-4, atol=1e-5)


def test_its_names_are_those_of_today(restored: AnoPLe) -> None:
    saved = torch.load(CHECKPOINT, weights_only=True)["state_dict"]
    own = restored.state_dict()
    assert saved.keys() <= own.keys()
    assert all(torch.equal(own[name].nan_to_num(), value.nan_to_num()) for name, value in saved.items())
    assert restored.class_names == ["bottle"]
    assert restored.drawn_samples == {"bottle": ["001.png"]}
