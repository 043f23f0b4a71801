# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The model: equations (8), (12), (13), (14) put together, its gradients, its state and its cost."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import open_clip
import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from anople_anomalib.backbones.clip import FrozenCLIP
from anople_anomalib.config import COUPLINGS
from anople_anomalib.method.anomaly_simulation import simulate_latent_anomalies
from anople_anomalib.method.torch_model import AnoPLeModel
from helpers.miniature import DEPTH, EMBED_DIM, IMAGE_SIZE, TEXT_WIDTH, VISUAL_WIDTH, build
from helpers.towers import plain_text, plain_visual

NORMAL, ABNORMAL = ["bottle", "metal nut"], ["abnormal bottle", "abnormal metal nut"]
J = 2


def make(clip: FrozenCLIP, **arguments: Any) -> AnoPLeModel:
    """A model whose learned parts are far from their small initial values."""
    model = AnoPLeModel(clip, **{"prompt_depth": J, "memory_layers": (1, 3), **arguments})
    with torch.no_grad():
        for parameter in model.prompt_learner.parameters():
            parameter.copy_(torch.randn_like(parameter) / 2)
    model.set_texts(open_clip.tokenize(NORMAL), open_clip.tokenize(ABNORMAL))
    return model.eval()


def fit(model: AnoPLeModel) -> AnoPLeModel:
    """Fill what training leaves behind."""
    model.refresh_text_features()
    if model.memory_bank is not None:
        model.memory_bank.build(model.first_features(torch.randn(2, 3, *IMAGE_SIZE)).features)
    return model


@pytest.fixture
def model(clip: FrozenCLIP) -> AnoPLeModel:
    """A model with everything, as after training."""
    return fit(make(clip))


def plain_texts(clip: open_clip.CLIP, model: AnoPLeModel) -> torch.Tensor:
    """w+ and w-: the mean over the classes, normalized."""
    prompts = model.prompt_learner().text
    states = []
    for texts in (NORMAL, ABNORMAL):
        embeddings = [plain_text(clip, tokens, prompts) for tokens in open_clip.tokenize(texts)]
        mean = sum(embeddings) / len(embeddings)
        states.append(mean / mean.norm())
    return torch.stack(states)


def upsample(grid: torch.Tensor) -> torch.Tensor:
    return F.interpolate(grid[None], size=IMAGE_SIZE, mode="bilinear", align_corners=False)[0]


@torch.no_grad()
def test_detection_is_the_one_of_the_paper(open_clip_model: open_clip.CLIP, model: AnoPLeModel) -> None:
    images = torch.randn(2, 3, *IMAGE_SIZE)
    result = model(images)
    text, prompts = plain_texts(open_clip_model, model), model.prompt_learner().visual
    scale = open_clip_model.logit_scale.exp()
    assert result.pred_score.shape == (2, 1)
    assert result.anomaly_map.shape == (2, 1, *IMAGE_SIZE)
    for index, image in enumerate(images):
        signal = model.prompt_learner.view_signal[4]  # c_{N+1}
        z0, patches, layers = plain_visual(open_clip_model, image, prompts, signal)
        logits = scale * text @ (z0 / z0.norm())
        p_hat = logits[1].exp() / logits.exp().sum()  # (8)
        local = model.decoder(patches[None], (4, 4)).dense()[0]
        pixels = torch.stack([(local * w[:, None, None]).sum(dim=0) for w in text])  # <D(z), w> (7)
        m_hat = upsample(scale * pixels).softmax(dim=0)[1]
        features = (layers[0] + layers[2]) / 2
        nearest = [
            min((1 - F.cosine_similarity(f, r, dim=0)) / 2 for r in model.memory_bank.features) for f in features
        ]
        m_mem = upsample(torch.stack(nearest).view(1, 4, 4))[0]  # (13)
        m_q = 1 / (1 / m_hat + 1 / m_mem)  # (12)
        assert_close(result.anomaly_map[index, 0], m_q, atol=1e-4, rtol=1e-3)
        assert_close(result.pred_score[index, 0], 1 / (1 / p_hat + 1 / m_q.max()), atol=1e-4, rtol=1e-3)  # (14)


def test_training_compares_every_view_with_the_texts(open_clip_model: open_clip.CLIP, model: AnoPLeModel) -> None:
    views = torch.randn(2, 5, 3, *IMAGE_SIZE)
    output = model.training_forward(views)
    text, prompts = plain_texts(open_clip_model, model), model.prompt_learner().visual
    assert_close(output.text_features, text, atol=1e-5, rtol=1e-4)
    scale = open_clip_model.logit_scale.exp()
    for image in range(2):
        for view in range(5):
            signal = model.prompt_learner.view_signal[view]  # c_i
            z0, patches, _ = plain_visual(open_clip_model, views[image, view], prompts, signal)
            index, z0 = 5 * image + view, z0 / z0.norm()
            assert_close(output.image_embeddings[index], z0, atol=1e-5, rtol=1e-4)
            assert_close(output.image_logits[index], scale * text @ z0, atol=1e-4, rtol=1e-4)
            local = model.decoder(patches[None], (4, 4)).dense()[0]
            assert_close(output.local_features.dense()[index], local, atol=1e-5, rtol=1e-4)
            pixels = torch.stack([(local * w[:, None, None]).sum(dim=0) for w in text])
            assert_close(output.pixel_logits[index], scale * pixels, atol=1e-4, rtol=1e-4)


def test_an_undamaged_copy_is_encoded_once_and_counts_twice(model: AnoPLeModel) -> None:
    images = torch.randn(1, 5, 3, *IMAGE_SIZE)
    damaged = images.clone()
    damaged[:, 1:3] += 0.5
    sizes: list[int] = []
    hook = model.clip.visual.visual.conv1.register_forward_hook(
        lambda _module, given, _out: sizes.append(len(given[0]))
    )
    try:
        both = model.training_forward(torch.cat([images, damaged]))
        apart = [model.training_forward(views) for views in (images, damaged)]
    finally:
        hook.remove()
    assert sizes == [7, 5, 5]
    for name in ("image_embeddings", "image_logits", "pixel_logits"):
        expected = torch.cat([getattr(output, name) for output in apart])
        assert_close(getattr(both, name), expected, atol=1e-4, rtol=1e-4)
    dense = torch.cat([output.local_features.dense() for output in apart])
    assert_close(both.local_features.dense(), dense, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_every_normal_view_gets_a_latent_anomaly(model: AnoPLeModel) -> None:
    """Equation (9): z-_latent = z+ + eps."""
    views, normal = torch.randn(1, 5, 3, *IMAGE_SIZE), torch.tensor([True, False, True, True, False])
    torch.manual_seed(3)
    output = model.training_forward(views, normal)
    assert output.latent_logits.shape == (3, 2)
    torch.manual_seed(3)
    latent = simulate_latent_anomalies(output.image_embeddings[normal])
    assert_close(output.latent_logits, model.image_logits(latent, output.text_features))
    assert model.training_forward(views, ~normal & normal).latent_logits.shape == (0, 2)
    assert model.training_forward(views).latent_logits is None


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_gradients_reach_what_is_learned_and_nothing_else(clip: FrozenCLIP, coupling: str) -> None:
    model = make(clip, coupling=coupling).train()
    output = model.training_forward(torch.randn(1, 5, 3, *IMAGE_SIZE))
    (output.image_logits.softmax(dim=1)[:, 1].sum() + output.pixel_logits.softmax(dim=1)[:, 1].sum()).backward()
    for name, parameter in model.named_parameters():
        if name.startswith("clip."):
            assert not parameter.requires_grad
            assert parameter.grad is None
        elif parameter.numel():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name
    learner = model.prompt_learner
    for prompts in (learner.text_prompts, learner.visual_prompts):
        if prompts.numel():
            assert prompts.grad.flatten(1).any(dim=1).all()  # in every layer
    assert learner.view_signal.grad.any(dim=1).all()  # of every view


@pytest.mark.parametrize("kind", ["dot", "cosine"])
def test_the_pixel_loss_does_not_pull_the_texts_together(clip: FrozenCLIP, kind: str) -> None:
    """At CLIP's own logit scale of 100 they would become the same within a few steps, and all maps constant."""
    clip.logit_scale.fill_(100.0)
    model = make(clip, coupling="independent", pixel_logits=kind, image_logit_scale=1 / 0.07).train()
    output = model.training_forward(torch.randn(1, 5, 3, *IMAGE_SIZE))
    texts, prompts = output.text_features, model.prompt_learner.text_prompts
    pixel = output.pixel_logits.softmax(dim=1)[:, 1].sum()
    assert torch.autograd.grad(pixel, [texts, prompts], retain_graph=True, allow_unused=True) == (None, None)
    (gradient,) = torch.autograd.grad(output.image_logits[:, 1].sum(), texts)
    assert_close(gradient[1], output.image_embeddings.sum(dim=0) / 0.07)  # the image loss trains them, not at 100


def test_one_view_and_no_signal(clip: FrozenCLIP) -> None:
    single = make(clip, num_views=1)
    assert single.prompt_learner.view_signal.shape == (1, VISUAL_WIDTH)
    assert single.training_forward(torch.randn(2, 1, 3, *IMAGE_SIZE)).image_logits.shape == (2, 2)
    blind = fit(make(clip, view_signal=False))
    assert blind.prompt_learner.view_signal is None
    view = torch.randn(1, 1, 3, *IMAGE_SIZE)
    logits = blind.training_forward(view.expand(-1, 5, -1, -1, -1)).image_logits
    assert_close(logits, logits[:1].expand(5, -1))
    assert blind(view[0]).pred_score.isfinite().all()


@torch.no_grad()
def test_without_a_decoder_clips_projection_maps_the_patches(open_clip_model: open_clip.CLIP, clip: FrozenCLIP) -> None:
    model = fit(make(clip, use_decoder=False, coupling="text_to_image", memory_layers=()))
    assert not any(name.startswith("decoder") for name, _ in model.named_parameters())
    output = model.training_forward(torch.randn(1, 5, 3, *IMAGE_SIZE))
    assert output.local_features is None
    assert output.pixel_logits is None
    image = torch.randn(3, *IMAGE_SIZE)
    signal = model.prompt_learner.view_signal[4]
    _, patches, _ = plain_visual(open_clip_model, image, model.prompt_learner().visual, signal)
    local = F.normalize(patches @ open_clip_model.visual.proj, dim=1)
    logits = open_clip_model.logit_scale.exp() * plain_texts(open_clip_model, model) @ local.T
    expected = upsample(logits.view(2, 4, 4)).softmax(dim=0)[1]
    assert_close(model(image[None]).anomaly_map[0, 0], expected, atol=1e-4, rtol=1e-3)


def test_a_model_without_a_memory_says_so_where_one_is_asked_for(clip: FrozenCLIP) -> None:
    model, images = make(clip, memory_layers=()), torch.randn(1, 3, *IMAGE_SIZE)
    with pytest.raises(RuntimeError, match="no memory bank"):
        model.first_features(images)
    with pytest.raises(RuntimeError, match="no memory bank"):
        model.memory_map(model.encode_whole(images))


def test_a_normal_image_scores_lower_than_its_damaged_copy(model: AnoPLeModel) -> None:
    normal = torch.randn(1, 3, *IMAGE_SIZE)
    damaged = normal.clone()
    damaged[..., 16:32, 16:32] = 5 * torch.randn(16, 16)
    model.memory_bank.build(model.first_features(normal).features)
    with torch.no_grad():
        assert model(normal).anomaly_map.max() < 1e-5 < model(damaged).anomaly_map.max()
        memory_map = model.memory_map(model.encode_whole(damaged))[0]
    assert memory_map[16:32, 16:32].mean() > memory_map.mean()


@torch.no_grad()
def test_an_image_can_be_encoded_as_any_view(open_clip_model: open_clip.CLIP, model: AnoPLeModel) -> None:
    image, prompts = torch.randn(3, *IMAGE_SIZE), model.prompt_learner().visual
    for view, signal in enumerate(model.prompt_learner.view_signal):
        expected, _, _ = plain_visual(open_clip_model, image, prompts, signal)
        assert_close(model.encode_whole(image[None], view).image_embedding[0], expected, atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_images_of_another_size_get_a_map_of_that_size(model: AnoPLeModel) -> None:
    """As from anomalib's other models: the map fits the image and its mask."""
    images = F.interpolate(torch.randn(1, 3, 4, 4), size=(192, 128), mode="bilinear")
    result = model(images)
    assert result.anomaly_map.shape == (1, 1, 192, 128)
    small = model(F.interpolate(images, size=IMAGE_SIZE, mode="bicubic", antialias=True))
    assert_close(result.pred_score, small.pred_score, atol=0.02, rtol=0)
    shrunk = F.interpolate(result.anomaly_map, size=IMAGE_SIZE, mode="bilinear", antialias=True)
    assert_close(shrunk, small.anomaly_map, atol=0.05, rtol=0)


def counted(model: AnoPLeModel, run: Callable[[], object]) -> dict[str, int]:
    """How often either tower runs."""
    calls = {"visual": 0, "text": 0}
    blocks = {"visual": model.clip.visual.visual.transformer, "text": model.clip.text.transformer}
    hooks = []
    for name, transformer in blocks.items():

        def count(*_args: object, name: str = name) -> None:
            calls[name] += 1

        hooks.append(transformer.resblocks[0].mlp.register_forward_hook(count))
    run()
    for hook in hooks:
        hook.remove()
    return calls


def test_each_tower_runs_once_per_training_step(model: AnoPLeModel) -> None:
    views = torch.randn(3, 5, 3, *IMAGE_SIZE)
    assert counted(model, lambda: model.training_forward(views)) == {"visual": 1, "text": 1}


def test_inference_runs_the_visual_tower_once_and_the_text_tower_never(model: AnoPLeModel) -> None:
    assert counted(model, lambda: model(torch.randn(3, 3, *IMAGE_SIZE))) == {"visual": 1, "text": 0}


def test_state_dict_holds_what_was_learned_and_nothing_of_clip(model: AnoPLeModel) -> None:
    state = model.state_dict()
    learned = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    scales = {"image_logit_scale", "pixel_logit_scale"}
    buffers = {
        "text_features",
        "is_fitted",
        "backbone_fingerprint",
        "memory_bank.features",
        *scales,
    }
    assert set(state) == learned | buffers
    assert not any(name.startswith("clip") for name in state)
    assert bytes(state["backbone_fingerprint"].tolist()) == model.clip.fingerprint


@torch.no_grad()
def test_a_second_instance_predicts_the_same(clip: FrozenCLIP, model: AnoPLeModel) -> None:
    model.is_fitted.fill_(value=True)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    second = AnoPLeModel(clip, prompt_depth=J, memory_layers=(1, 3)).eval()
    second.load_state_dict(torch.load(file, weights_only=True), strict=True)
    images = torch.randn(2, 3, *IMAGE_SIZE)
    expected, result = model(images), second(images)
    assert torch.equal(result.pred_score, expected.pred_score)
    assert torch.equal(result.anomaly_map, expected.anomaly_map)
    assert second.is_fitted


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@torch.no_grad()
def test_copies_predict_save_and_load(model: AnoPLeModel, duplicate: Callable[[AnoPLeModel], AnoPLeModel]) -> None:
    twin, images = duplicate(model), torch.randn(1, 3, *IMAGE_SIZE)
    expected = model(images).anomaly_map
    assert torch.equal(twin(images).anomaly_map, expected)
    assert set(twin.state_dict()) == set(model.state_dict())
    twin.prompt_learner.visual_prompts.add_(torch.randn(J, 1, VISUAL_WIDTH))
    assert not torch.equal(twin(images).anomaly_map, expected)
    assert torch.equal(model(images).anomaly_map, expected)
    twin.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(twin(images).anomaly_map, expected)


def test_weights_for_another_backbone_are_refused_and_nothing_changes(model: AnoPLeModel) -> None:
    state = model.state_dict()
    other = AnoPLeModel(FrozenCLIP(build(), bytes(range(32))), prompt_depth=J, memory_layers=(1, 3))
    before = copy.deepcopy(other.state_dict())
    for strict in (True, False):
        with pytest.raises(ValueError, match=r"trained over another backbone \(fingerprint [0-9a-f]{8}\)"):
            other.load_state_dict(state, strict=strict)
    after = other.state_dict()
    assert set(after) == set(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("missing", ["decoder.mix.weight", "text_features", "backbone_fingerprint"])
def test_incomplete_weights_are_refused(model: AnoPLeModel, missing: str) -> None:
    state = model.state_dict()
    del state[missing]
    with pytest.raises(ValueError, match=f"{missing} is missing"):
        model.load_state_dict(state)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_predicts_nearly_the_same(model: AnoPLeModel, dtype: torch.dtype) -> None:
    images = torch.randn(2, 3, *IMAGE_SIZE)
    expected = model(images)
    result = copy.deepcopy(model).to(dtype)(images.to(dtype))
    assert result.anomaly_map.isfinite().all()
    assert_close(result.anomaly_map.float(), expected.anomaly_map, atol=0.1, rtol=0)
    assert_close(result.pred_score.float(), expected.pred_score, atol=0.1, rtol=0)


def test_text_features_are_a_constant_after_training(model: AnoPLeModel) -> None:
    assert not model.text_features.requires_grad
    assert_close(model.text_features.norm(dim=1), torch.ones(2))
    before = model.text_features.clone()
    with torch.no_grad():
        model.prompt_learner.text_prompts.add_(torch.randn(J, 1, TEXT_WIDTH))
        model(torch.randn(1, 3, *IMAGE_SIZE))
    assert torch.equal(model.text_features, before)
    model.refresh_text_features()
    assert not torch.allclose(model.text_features, before)


def test_sizes_come_from_clip(model: AnoPLeModel) -> None:
    learner = model.prompt_learner
    assert model.image_size == IMAGE_SIZE
    assert learner.text_prompts.shape == (J, 3, TEXT_WIDTH)
    assert learner.visual_prompts.shape == (J, 3, VISUAL_WIDTH)
    assert model.text_features.shape == (2, EMBED_DIM)
    assert J < DEPTH
    assert len(model.memory_bank) == 2 * 16


def test_an_untrained_memory_is_refused(clip: FrozenCLIP) -> None:
    with pytest.raises(RuntimeError, match="memory bank is empty"):
        make(clip)(torch.randn(1, 3, *IMAGE_SIZE))


def test_a_residual_decoder_starts_from_the_projection_of_clip_and_learns(clip: FrozenCLIP) -> None:
    images = torch.randn(1, 1, 3, *IMAGE_SIZE)
    projection = make(clip, use_decoder=False, num_views=1)
    model = make(clip, residual_decoder=True, num_views=1)
    model.prompt_learner.load_state_dict(projection.prompt_learner.state_dict())
    output = model.training_forward(images)
    visual = clip.visual(images[0], model.prompt_learner().visual, model.prompt_learner.view_signal)
    expected = F.interpolate(clip.visual.project(visual.patch_tokens), size=(16, 16), mode="bilinear")
    assert_close(output.local_features.dense(), expected, atol=1e-5, rtol=1e-4)
    output.pixel_logits.square().sum().backward()
    assert model.decoder.project.weight.grad.abs().sum() > 0


@torch.no_grad()
def test_pixel_logits_are_read_as_a_dot_product_or_a_cosine(clip: FrozenCLIP) -> None:
    models = [make(clip), make(clip, pixel_logits="cosine"), make(clip, residual_decoder=True)]
    assert [model.pixel_logits for model in models] == ["dot", "cosine", "cosine"]
    for model in models[1:]:
        model.load_state_dict(models[0].state_dict())
    views = torch.randn(1, 5, 3, *IMAGE_SIZE)
    dot, cosine = (model.training_forward(views) for model in models[:2])
    norm = dot.local_features.dense().norm(dim=1, keepdim=True)
    assert_close(dot.pixel_logits, cosine.pixel_logits * norm, atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_logit_scales_are_clips_own_or_given(clip: FrozenCLIP) -> None:
    own, given = make(clip), make(clip, image_logit_scale=3.0)
    assert own.image_logit_scale == own.pixel_logit_scale == given.pixel_logit_scale == clip.logit_scale
    state = {name: value for name, value in own.state_dict().items() if "logit_scale" not in name}
    given.load_state_dict({**given.state_dict(), **state})
    views = torch.randn(1, 5, 3, *IMAGE_SIZE)
    first, second = (model.training_forward(views) for model in (own, given))
    assert_close(second.image_logits, first.image_logits * 3 / clip.logit_scale)
    assert_close(second.pixel_logits, first.pixel_logits)


def test_pixel_logits_give_the_texts_no_gradient(clip: FrozenCLIP) -> None:
    model = make(clip, coupling="text_only")  # the text prompts act through the texts alone
    output = model.training_forward(torch.randn(1, 5, 3, *IMAGE_SIZE))
    output.pixel_logits.square().sum().backward()
    assert model.prompt_learner.text_prompts.grad is None or not model.prompt_learner.text_prompts.grad.any()
    assert any(parameter.grad.any() for parameter in model.decoder.parameters())
