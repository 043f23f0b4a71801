# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The prompted towers: parity with open_clip, and equations (3) to (6) against their plain transcription."""

import copy
import pickle
from typing import Any

import open_clip
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from anople_anomalib.backbones.attention import recorded_attention
from anople_anomalib.backbones.clip import FrozenCLIP
from helpers.miniature import DEPTH, EMBED_DIM, NUM_PATCHES, TEXT_WIDTH, VISUAL_WIDTH, build
from helpers.towers import plain_text, plain_visual, run_block

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "quick_gelu": {"quick_gelu": True},
    "layer_scale": {"vision": {"ls_init_value": 0.1}, "text": {"ls_init_value": 0.1}},
    "not_square": {"vision": {"image_size": [32, 64]}},
    "without_ln_pre": {"vision": {"no_ln_pre": True}},
    "fixed_positions": {"vision": {"pos_embed_type": "sin_cos_2d"}},
    "biased_text_projection": {"text": {"proj_bias": True}},
}
TEXTS = ["bottle", "abnormal printed circuit board with many parts", "nut"]


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> open_clip.CLIP:
    """A model of open_clip."""
    return build(**VARIANTS[request.param])


@pytest.fixture
def model(variant: open_clip.CLIP) -> FrozenCLIP:
    """The same model, frozen."""
    return FrozenCLIP(variant, b"\0" * 32)


def images_of(variant: open_clip.CLIP, number: int = 2) -> torch.Tensor:
    """Random images of the size that a model takes."""
    return torch.randn(number, 3, *variant.visual.image_size)


@pytest.mark.parametrize("prompts", [(), (torch.empty(0, VISUAL_WIDTH),) * DEPTH], ids=["none", "zero_length"])
def test_visual_tower_without_prompts_equals_encode_image(
    variant: open_clip.CLIP, model: FrozenCLIP, prompts: tuple[torch.Tensor, ...]
) -> None:
    images = images_of(variant)
    features = model.visual(images, prompts)
    assert_close(features.image_embedding, variant.encode_image(images), atol=1e-5, rtol=0)
    variant.visual.output_tokens = True
    assert_close(features.patch_tokens, variant.visual(images)[1], atol=1e-5, rtol=0)
    assert features.memory_features is None


def test_towers_in_bfloat16_follow_open_clips(variant: open_clip.CLIP, model: FrozenCLIP) -> None:
    images, tokens = images_of(variant), open_clip.tokenize(TEXTS)
    with torch.autocast("cpu", torch.bfloat16):
        image, text = model.visual(images).image_embedding, model.text(tokens)
        expected = variant.encode_image(images), variant.encode_text(tokens)
    for embedding, other in zip((image, text), expected, strict=True):
        assert F.cosine_similarity(embedding.float(), other.float()).min() > 0.999


def test_rounded_products_change_little_and_are_of_training_alone(
    clip: FrozenCLIP, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    images = torch.randn(2, 3, *clip.visual.image_size)
    prompts = [torch.randn(2, VISUAL_WIDTH, requires_grad=True) for _ in range(DEPTH)]
    exact, rounded = clip.visual(images, prompts), clip.visual(images, prompts, rounded=True)
    gradients = [torch.autograd.grad(each.image_embedding.sum(), prompts) for each in (exact, rounded)]
    for first, second in zip((*exact[:2], *gradients[0]), (*rounded[:2], *gradients[1]), strict=True):
        assert second.dtype == torch.float32
        assert not torch.equal(first, second)
        assert_close(second, first, atol=0.02 * first.detach().abs().max().item(), rtol=0)


@pytest.mark.parametrize("prompts", [(), (torch.empty(0, TEXT_WIDTH),) * DEPTH], ids=["none", "zero_length"])
def test_text_tower_without_prompts_equals_encode_text(
    variant: open_clip.CLIP, model: FrozenCLIP, prompts: tuple[torch.Tensor, ...]
) -> None:
    tokens = open_clip.tokenize(TEXTS)
    assert_close(model.text(tokens, prompts), variant.encode_text(tokens), atol=1e-5, rtol=0)


@pytest.mark.parametrize("depth", range(DEPTH + 1))
@pytest.mark.parametrize("with_signal", [False, True])
def test_visual_prompts_are_replaced_and_the_signal_propagates(
    open_clip_model: open_clip.CLIP, clip: FrozenCLIP, depth: int, with_signal: bool
) -> None:
    images, prompts = images_of(open_clip_model, 3), torch.randn(depth, 4, VISUAL_WIDTH)
    signals = torch.randn(3, VISUAL_WIDTH) if with_signal else None
    features = clip.visual(images, prompts, signals, layers=(1, 3))
    for index, image in enumerate(images):
        signal = None if signals is None else signals[index]
        embedding, patches, layers = plain_visual(open_clip_model, image, prompts, signal)
        assert_close(features.image_embedding[index], embedding, atol=1e-5, rtol=1e-4)
        assert_close(features.patch_tokens[index], patches, atol=1e-5, rtol=1e-4)
        assert_close(features.memory_features[index], (layers[0] + layers[2]) / 2, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("depth", range(1, DEPTH + 1))
def test_text_prompts_are_replaced_and_truncation_is_exact(
    open_clip_model: open_clip.CLIP, clip: FrozenCLIP, depth: int
) -> None:
    tokens, prompts = open_clip.tokenize(TEXTS), torch.randn(depth, 5, TEXT_WIDTH)
    whole_context = torch.stack([plain_text(open_clip_model, text, prompts) for text in tokens])
    assert_close(clip.text(tokens, prompts), whole_context, atol=1e-5, rtol=1e-5)


def test_text_runs_up_to_the_longest_text_only(clip: FrozenCLIP) -> None:
    lengths = []
    first = clip.text.transformer.resblocks[0].ln_1
    hook = first.register_forward_hook(lambda _norm, args, _output: lengths.append(args[0].shape))
    tokens = open_clip.tokenize(["bottle", "abnormal bottle"])  # SOS, two words, EOT
    clip.text(tokens, torch.randn(2, 3, TEXT_WIDTH))
    hook.remove()
    assert lengths[0] == (2, 4 + 3, TEXT_WIDTH)


def test_longest_text_that_fits_and_the_first_that_does_not(open_clip_model: open_clip.CLIP, clip: FrozenCLIP) -> None:
    tokens = open_clip.tokenize(["a " * 70])  # 72 tokens
    assert int(tokens.argmax()) == 71
    prompts = torch.randn(1, 5, TEXT_WIDTH)
    expected = plain_text(open_clip_model, tokens[0], prompts)
    assert_close(clip.text(tokens, prompts)[0], expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="72 tokens and 6 prompts exceed the text tower's context length of 77"):
        clip.text(tokens, torch.randn(1, 6, TEXT_WIDTH))


def test_gradients_reach_every_prompt_and_the_signal_but_not_clip(clip: FrozenCLIP) -> None:
    visual = torch.randn(2, 3, VISUAL_WIDTH, requires_grad=True)
    text = torch.randn(2, 3, TEXT_WIDTH, requires_grad=True)
    signal = torch.randn(1, VISUAL_WIDTH, requires_grad=True)
    image = clip.visual(torch.randn(1, 3, 64, 64), visual, signal).image_embedding
    (image @ clip.text(open_clip.tokenize(["bottle"]), text).T).sum().backward()
    for learned in (*visual.grad, *text.grad, signal.grad):
        assert learned.abs().max() > 0
    assert all(not frozen.requires_grad and frozen.grad is None for frozen in clip.parameters())


def test_project_maps_every_patch_by_clips_projection() -> None:
    variant = build(**VARIANTS["not_square"])
    clip = FrozenCLIP(variant, b"")
    assert clip.visual.grid == (2, 4)
    tokens = torch.randn(2, 8, VISUAL_WIDTH)
    local = clip.visual.project(tokens)
    assert local.shape == (2, EMBED_DIM, 2, 4)
    assert_close(local[1, :, 1, 2], tokens[1, 4 + 2] @ variant.visual.proj)


def test_sizes_come_from_the_model(clip: FrozenCLIP) -> None:
    visual, text = clip.visual, clip.text
    assert (visual.width, visual.depth, visual.image_size, visual.grid) == (VISUAL_WIDTH, DEPTH, (64, 64), (4, 4))
    assert (text.width, text.depth, text.context_length, clip.embed_dim) == (TEXT_WIDTH, DEPTH, 77, EMBED_DIM)
    assert visual(torch.randn(1, 3, 64, 64)).patch_tokens.shape == (1, NUM_PATCHES, VISUAL_WIDTH)


def test_logit_scale_is_the_one_of_the_softmax(open_clip_model: open_clip.CLIP, clip: FrozenCLIP) -> None:
    assert_close(clip.logit_scale, open_clip_model.logit_scale.exp())


def test_stays_in_evaluation_mode() -> None:
    clip = FrozenCLIP(build(vision={"patch_dropout": 0.5}, text={"ls_init_value": 0.1}).train(), b"")
    parent = torch.nn.ModuleList([clip]).train()
    assert parent.training
    assert not any(module.training for module in clip.modules())


def test_no_weight_is_in_the_state_dict_or_replaced_by_one(clip: FrozenCLIP) -> None:
    before = {name: parameter.clone() for name, parameter in clip.named_parameters()}
    assert clip.state_dict() == {}
    parent = torch.nn.ModuleDict({"clip": clip, "head": torch.nn.Linear(2, 2)})
    assert set(parent.state_dict()) == {"head.weight", "head.bias"}
    result = parent.load_state_dict(parent.state_dict(), strict=True)
    assert not result.missing_keys
    assert not result.unexpected_keys
    parent.load_state_dict({**parent.state_dict(), "clip.visual.visual.proj": torch.zeros(VISUAL_WIDTH, EMBED_DIM)})
    assert all(torch.equal(parameter, before[name]) for name, parameter in clip.named_parameters())


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda clip: pickle.loads(pickle.dumps(clip))])
def test_copies_behave_the_same(clip: FrozenCLIP, duplicate: Any) -> None:
    twin = duplicate(clip)
    images, tokens = torch.randn(1, 3, 64, 64), open_clip.tokenize(["bottle"])
    assert torch.equal(twin.visual(images).image_embedding, clip.visual(images).image_embedding)
    assert torch.equal(twin.text(tokens), clip.text(tokens))
    assert twin.state_dict() == {}
    twin.load_state_dict({})
    assert not any(module.training for module in twin.train().modules())


def hooks_of(clip: FrozenCLIP) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in clip.visual.modules())


def test_recorded_attention_is_the_softmax_of_queries_and_keys(clip: FrozenCLIP) -> None:
    images, prompts = torch.randn(2, 3, *clip.visual.image_size), torch.randn(DEPTH, 2, VISUAL_WIDTH)
    signal = torch.randn(2, VISUAL_WIDTH)
    block = clip.visual.visual.transformer.resblocks[0]
    seen: list[torch.Tensor] = []
    with torch.no_grad(), recorded_attention(clip.visual) as recorded:
        handle = block.ln_1.register_forward_hook(lambda _module, _args, output: seen.append(output))
        features = clip.visual(images, prompts, signal)
        handle.remove()
    tokens = 1 + NUM_PATCHES + 1 + 2  # CLS, patches, signal, prompts
    assert [tuple(weights.shape) for weights in recorded] == [(2, tokens, tokens)] * DEPTH
    assert_close(recorded[-1].sum(dim=-1), torch.ones(2, tokens))
    packed = F.linear(seen[0], block.attn.in_proj_weight, block.attn.in_proj_bias)
    queries, keys, _ = packed.chunk(3, dim=-1)
    heads = block.attn.num_heads
    queries, keys = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (queries, keys))
    expected = (queries @ keys.transpose(-1, -2) / queries.shape[-1] ** 0.5).softmax(dim=-1).mean(dim=1)
    assert_close(recorded[0], expected, atol=1e-5, rtol=0)
    assert_close(features.image_embedding, clip.visual(images, prompts, signal).image_embedding, atol=1e-5, rtol=0)


def test_recording_attention_leaves_no_hook_behind_even_after_an_error(clip: FrozenCLIP) -> None:
    counted = []

    def fail() -> None:
        with recorded_attention(clip.visual):
            counted.append(hooks_of(clip))
            clip.visual(torch.randn(1, 5, 7, 7))

    with pytest.raises(RuntimeError):
        fail()
    assert counted == [DEPTH]
    assert hooks_of(clip) == 0


def test_attention_that_keeps_its_weights_to_itself_is_refused(clip: FrozenCLIP) -> None:
    clip.visual.visual.transformer.resblocks[1].attn = nn.Identity()
    message = "attention of this backbone is a Identity, which does not tell its weights: choose a backbone"
    with pytest.raises(ValueError, match=message), recorded_attention(clip.visual):
        pass
    assert hooks_of(clip) == 0


def test_value_attention_beside_clips_own_path(open_clip_model: open_clip.CLIP, clip: FrozenCLIP) -> None:
    images = images_of(open_clip_model)
    features = clip.visual.encode_by_values(images, memory_layers=(1, 3))
    visual = open_clip_model.visual
    assert_close(features.image_embedding, open_clip_model.encode_image(images), atol=1e-5, rtol=1e-4)
    for index, image in enumerate(images):
        _, _, layers = plain_visual(open_clip_model, image)
        for found, layer in zip(features.memory_features, (0, 2), strict=True):
            assert_close(found[index], layers[layer], atol=1e-5, rtol=1e-4)
        local = plain_value_path(visual, image)
        assert_close(features.local_features[index], local, atol=1e-5, rtol=1e-4)


def plain_value_path(visual: nn.Module, image: torch.Tensor) -> torch.Tensor:
    """Patches of the V-V path of PromptAD for one image, head by head, in the joint embedding."""
    grid = visual.conv1(image.unsqueeze(0))[0].flatten(1).T
    x = visual.ln_pre(torch.cat([visual.class_embedding.unsqueeze(0), grid]) + visual.positional_embedding)
    path = x
    for layer, block in enumerate(visual.transformer.resblocks):
        width, heads = x.shape[1], block.attn.num_heads
        weight, bias = block.attn.in_proj_weight[2 * width :], block.attn.in_proj_bias[2 * width :]
        values = block.ln_1(x) @ weight.T + bias
        by_head = values.split(width // heads, dim=1)
        attended = [(v @ v.T / v.shape[1] ** 0.5).softmax(dim=-1) @ v for v in by_head]
        path = path + block.attn.out_proj(torch.cat(attended, dim=1))
        x = run_block(visual.transformer, layer, x.unsqueeze(0), None)[0]
    return visual.ln_post(path[1:]) @ visual.proj


def test_value_attention_needs_the_values(clip: FrozenCLIP) -> None:
    clip.visual.visual.transformer.resblocks[1].attn = nn.Identity()
    with pytest.raises(ValueError, match="Identity, which does not tell its weights"):
        clip.visual.encode_by_values(torch.randn(1, 3, *clip.visual.image_size))
