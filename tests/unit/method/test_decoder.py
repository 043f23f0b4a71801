# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The decoder D and its cost."""

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

import anople_anomalib
from anople_anomalib.backbones.clip import FrozenCLIP
from anople_anomalib.method.decoder import Decoder, LocalFeatures

GRID = (3, 5)
TINY_CONFIG = Path(anople_anomalib.__file__).parent / "assets" / "anople_tiny" / "open_clip_config.json"


def test_upsampling_may_as_well_come_first() -> None:
    """Section 3.3.1: F is the upsampled grid, and three convolutions follow."""
    decoder = Decoder(visual_width=48, embed_dim=20)
    tokens = torch.randn(2, 15, 48)
    grid = torch.stack([tokens[:, 5 * row : 5 * row + 5].transpose(1, 2) for row in range(3)], dim=2)  # (2, 48, 3, 5)
    upsampled = F.interpolate(grid, size=(12, 20), mode="bilinear", align_corners=False)
    expected = decoder.project(F.gelu(decoder.mix(F.gelu(decoder.reduce(upsampled)))))
    assert_close(decoder(tokens, GRID).dense(), expected, atol=1e-5, rtol=1e-4)


def test_three_convolutions_mix_channels_then_space_then_map_to_the_text() -> None:
    convolutions = [module for module in Decoder(48, 20).modules() if isinstance(module, torch.nn.Conv2d)]
    assert [convolution.kernel_size for convolution in convolutions] == [(1, 1), (3, 3), (1, 1)]
    assert (convolutions[0].in_channels, convolutions[-1].out_channels) == (48, 20)


@pytest.mark.parametrize(("upsampling", "size"), [(4, (12, 20)), (1, (3, 5))])
def test_shape(upsampling: int, size: tuple[int, int]) -> None:
    decoder = Decoder(48, 20, hidden_dim=7, upsampling=upsampling)
    assert decoder(torch.randn(2, 15, 48), GRID).dense().shape == (2, 20, *size)


def test_rounded_products_change_little_and_only_where_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    decoder, tokens = Decoder(48, 20), torch.randn(2, 15, 48)
    exact, rounded = decoder(tokens, GRID).dense(), decoder(tokens, GRID, rounded=True).dense()
    assert torch.equal(decoder(tokens, GRID, rounded=False).dense(), exact)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    assert_close(rounded, exact, atol=0.02 * exact.detach().abs().max().item(), rtol=0)


def test_factors_say_the_same_as_the_features() -> None:
    coarse = torch.randn(2, 20, 3, 5, requires_grad=True)
    hidden, weight, bias = torch.randn(2, 7, 12, 20), torch.randn(20, 7), torch.randn(20)
    vectors, weights = torch.randn(2, 20), torch.randn(2, 240).softmax(dim=1).view(2, 12, 20)
    for local in (LocalFeatures(hidden, weight, bias), LocalFeatures(hidden, weight, bias, coarse)):
        dense = torch.einsum("di,bihw->bdhw", weight, hidden) + bias[:, None, None]
        if local.coarse is not None:
            dense = dense + F.interpolate(coarse, size=(12, 20), mode="bilinear", align_corners=False)
        assert_close(local.dense(), dense, atol=1e-4, rtol=1e-4)
        assert_close(local.dot(vectors), torch.einsum("sd,bdhw->bshw", vectors, dense), atol=1e-4, rtol=1e-4)
        assert_close(local.squared_length(), dense.square().sum(dim=1, keepdim=True), atol=1e-4, rtol=1e-4)
        assert_close(local.mean(weights), torch.einsum("bhw,bdhw->bd", weights, dense), atol=1e-4, rtol=1e-4)
    assert_close(LocalFeatures.of(coarse).dense(), coarse)
    gradient = torch.autograd.grad(local.squared_length().sum(), coarse)[0]
    assert_close(gradient, torch.autograd.grad(dense.square().sum(), coarse)[0], atol=1e-3, rtol=1e-4)


def test_a_change_of_one_patch_stays_in_its_place() -> None:
    decoder, tokens = Decoder(48, 20), torch.randn(1, 15, 48)
    changed = tokens.clone()
    changed[0, 2 * 5 + 4] += 1  # the last row and column
    difference = (decoder(changed, GRID).dense() - decoder(tokens, GRID).dense()).abs().sum(dim=1)[0]
    assert difference[8:, 16:].min() > 0
    assert difference[:4].max() == 0


def test_what_refines_starts_at_zero() -> None:
    assert not Decoder(48, 20, starts_at_zero=True)(torch.randn(2, 15, 48), GRID).dense().any()
    assert Decoder(48, 20)(torch.randn(2, 15, 48), GRID).dense().any()


def _tiny() -> dict[str, Any]:
    return json.loads(TINY_CONFIG.read_text())["model_cfg"]


@pytest.mark.parametrize(
    "config",
    [
        lambda: open_clip.get_model_config("ViT-B-16-plus-240"),
        pytest.param(_tiny, marks=pytest.mark.skipif(not TINY_CONFIG.is_file(), reason="the bundled CLIP is missing")),
    ],
    ids=["ViT-B-16-plus-240", "anople-tiny"],
)
def test_costs_at_most_a_tenth_of_the_visual_tower(config: Any) -> None:
    """Multiply-adds from shapes alone: nothing is computed on the meta device."""
    with torch.device("meta"):
        visual = FrozenCLIP(open_clip.CLIP(**config()), b"").visual
        decoder = Decoder(visual.width, visual.visual.proj.shape[1])
        prompts = torch.randn(1, 6, visual.width, requires_grad=True)
        with FlopCounterMode(display=False) as tower:
            tokens = visual(torch.randn(1, 3, *visual.image_size), prompts).patch_tokens
        with FlopCounterMode(display=False) as head:
            decoder(tokens, visual.grid).dense()
    matmuls = 12 * visual.width**2 * visual.depth * tokens.shape[1] * 2  # of the blocks, for the patches alone
    assert tower.get_total_flops() > matmuls
    assert 0 < head.get_total_flops() <= 0.1 * tower.get_total_flops()
