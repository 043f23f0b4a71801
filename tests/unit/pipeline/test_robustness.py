# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Corruptions of test images, and the settings that ask for them."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from anople_anomalib.pipeline.robustness import KINDS, SEVERITIES, Corruption
from anople_anomalib.pipeline.settings import expand_jobs

SECTION = {"model": "Padim", "data": "MVTecAD"}


@pytest.fixture
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    smooth = F.interpolate(torch.rand(2, 3, 4, 4, generator=generator), size=(192, 128), mode="bilinear")
    return 0.8 * smooth + 0.1 * torch.rand(2, 3, 192, 128, generator=generator)


@pytest.mark.parametrize("kind", KINDS)
def test_each_step_takes_an_image_further_away(kind: str, images: torch.Tensor) -> None:
    corrupted = [KINDS[kind](images, severity) for severity in SEVERITIES]
    distances = [float((each - images).abs().mean()) for each in corrupted]
    assert distances == sorted(distances)
    assert distances[0] > 0.001
    assert all(each.shape == images.shape and 0 <= each.min() <= each.max() <= 1 for each in corrupted)


def test_a_mask_moves_with_its_image(images: torch.Tensor) -> None:
    corruption, masks = Corruption(), images[:, 0] > 0.5
    corruption.kind, corruption.severity = "shift", 5
    batch = SimpleNamespace(image=torch.stack([masks.float()] * 3, dim=1), gt_mask=masks)
    corruption.on_test_batch_start(None, None, batch, 0)
    assert_close(batch.image[:, 0], batch.gt_mask.float())
    assert not torch.equal(batch.gt_mask, masks)
    assert_close(batch.gt_mask[:, 19:, 13:], masks[:, :-19, :-13])  # a tenth of height and width


def test_without_a_kind_nothing_is_changed(images: torch.Tensor) -> None:
    batch = SimpleNamespace(image=images, gt_mask=None)
    Corruption().on_test_batch_start(None, None, batch, 0)
    assert batch.image is images


def test_kinds_are_settings_of_a_job() -> None:
    (plain,), (all_kinds,) = (expand_jobs({**SECTION, **more}, "cpu") for more in ({}, {"robustness": "all"}))
    assert all_kinds.robustness == list(KINDS)
    assert plain.robustness is None
    assert plain.job_id != all_kinds.job_id
    for wrong in ("fog", ["fog"], [], 3):
        with pytest.raises(ValueError, match="robustness must be 'all' or a list of some of lamp, blur"):
            expand_jobs({**SECTION, "robustness": wrong}, "cpu")
