# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""What tells a collapsed training step."""

import torch
from torch.nn import functional as F
from torch.testing import assert_close

from anople_anomalib.backbones.outputs import TrainingOutput
from anople_anomalib.method.collapse_measures import measure_soundness

V, D, H, W = 5, 8, 3, 4


def output_of(texts: torch.Tensor, pixel_logits: torch.Tensor | None) -> TrainingOutput:
    return TrainingOutput(
        image_embeddings=torch.zeros(V, D),
        image_logits=torch.zeros(V, 2),
        local_features=None if pixel_logits is None else torch.zeros(V, D, H, W),
        pixel_logits=pixel_logits,
        latent_logits=None,
        text_features=texts,
    )


def test_numbers_by_hand() -> None:
    texts, logits = F.normalize(torch.randn(2, D), dim=1), torch.randn(V, 2, H, W, requires_grad=True)
    numbers = measure_soundness(output_of(texts, logits))
    assert_close(numbers["text_cosine"], sum(a * b for a, b in zip(*texts, strict=True)))
    m_hat = [1 / (1 + (normal - abnormal).exp().item()) for view in logits for normal, abnormal in view.flatten(1).T]
    assert_close(numbers["map_spread"].item(), max(m_hat) - min(m_hat))
    assert not numbers["map_spread"].requires_grad


def test_collapse_is_one_and_zero() -> None:
    texts = F.normalize(torch.randn(1, D), dim=1).expand(2, -1)
    numbers = measure_soundness(output_of(texts, torch.randn(2)[None, :, None, None].expand(V, 2, H, W)))
    assert_close(numbers, {"text_cosine": torch.tensor(1.0), "map_spread": torch.tensor(0.0)})


def test_without_a_decoder_there_is_no_map() -> None:
    assert set(measure_soundness(output_of(torch.eye(2, D), None))) == {"text_cosine"}
