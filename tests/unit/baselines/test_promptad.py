# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""PromptAD: its equations against plain transcriptions, and training runs on the miniature CLIP."""

import math
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from anople_anomalib.backbones.clip import FrozenCLIP
from anople_anomalib.baselines import PromptAD
from anople_anomalib.baselines.promptad.prompts import GENERIC, PromptFeatures, PromptHead, customized, templates_of
from anople_anomalib.baselines.promptad.torch_model import alignment_loss, contrastive_loss, margin_loss
from anople_anomalib.data.sample_textures import CATEGORIES
from helpers.miniature import EMBED_DIM, MINIATURE, TEXT_WIDTH
from helpers.towers import run_block
from helpers.training import Recorder, make_datamodule, make_engine

SMALL: dict[str, Any] = {"backbone": MINIATURE, "pretrained": "random", "epochs": 2, "visualizer": False}


def unit(*shape: int) -> torch.Tensor:
    """Random vectors of length 1."""
    return F.normalize(torch.randn(*shape), dim=-1)


def random_prompts() -> PromptFeatures:
    return PromptFeatures(torch.randn(3, EMBED_DIM), torch.randn(5, EMBED_DIM), torch.randn(4, EMBED_DIM))


def trained(root: Path, folder: Path, **arguments: Any) -> PromptAD:
    """A model that is trained on the three good images of the tiny category."""
    model = PromptAD(**{**SMALL, **arguments})
    make_engine(folder).fit(model, datamodule=make_datamodule(root))
    return model.eval()


def encode_sequence(clip: open_clip.CLIP, embeddings: list[torch.Tensor]) -> torch.Tensor:
    """Encode one text, given as its token embeddings, by open_clip's own blocks; the last one is EOT."""
    x = torch.stack(embeddings) + clip.positional_embedding[: len(embeddings)]
    mask = clip.attn_mask[: len(embeddings), : len(embeddings)]
    for layer in range(len(clip.transformer.resblocks)):
        x = run_block(clip.transformer, layer, x.unsqueeze(0), mask)[0]
    return clip.ln_final(x[-1]) @ clip.text_projection


def words_of(clip: open_clip.CLIP, text: str) -> list[torch.Tensor]:
    """Embeddings of SOS, the words and EOT."""
    tokens = open_clip.tokenize([text])[0]
    return list(clip.token_embedding(tokens[: int(tokens.argmax()) + 1]))


def test_semantic_concatenation(open_clip_model: open_clip.CLIP, clip: FrozenCLIP) -> None:
    head = PromptHead(TEXT_WIDTH, num_prompts=2, context_length=3, num_suffixes=2, suffix_length=2)
    names, anomalies = ["metal nut", "pill"], ["cracked metal nut", "pill with oil", "pill with a long scratch"]
    found = head(clip.text, open_clip.tokenize(names), open_clip.tokenize(anomalies))
    normal, manual, learned = [], [], []
    for context in head.contexts:
        for text in names:  # (1)
            start, *words, end = words_of(open_clip_model, text)
            normal.append(encode_sequence(open_clip_model, [start, *context, *words, end]))
        for text in anomalies:  # (2)
            start, *words, end = words_of(open_clip_model, text)
            manual.append(encode_sequence(open_clip_model, [start, *context, *words, end]))
        for suffix in head.suffixes:
            for text in names:  # (3)
                start, *words, end = words_of(open_clip_model, text)
                learned.append(encode_sequence(open_clip_model, [start, *context, *words, *suffix, end]))
    for part, expected in zip(found, (normal, manual, learned), strict=True):
        assert_close(part, torch.stack(expected), atol=1e-5, rtol=1e-4)


def test_anomaly_prompts_teach_the_normal_prompts(clip: FrozenCLIP) -> None:
    head = PromptHead(TEXT_WIDTH, num_prompts=1, context_length=2, num_suffixes=1, suffix_length=1)
    found = head(clip.text, open_clip.tokenize(["nut"]), open_clip.tokenize(["damaged nut"]))
    (gradient,) = torch.autograd.grad(found.manual.sum(), head.contexts)  # the context is one and the same
    assert gradient.abs().sum() > 0


def test_prototypes_are_means_of_length_one() -> None:
    prompts = random_prompts()
    normal, anomalous = prompts.prototypes
    assert_close(normal, F.normalize(prompts.normal.mean(dim=0), dim=0))
    assert_close(anomalous, F.normalize(torch.cat([prompts.manual, prompts.learned]).mean(dim=0), dim=0))


def test_contrastive_loss() -> None:
    prompts, features = random_prompts(), unit(2, 6, EMBED_DIM)
    anomalies = [prompt / prompt.norm() for part in (prompts.manual, prompts.learned) for prompt in part]
    terms = []
    for z in features.flatten(0, 1):  # equation (4)
        normal = math.exp(7 * float(z @ prompts.prototypes[0]))
        terms.append(-math.log(normal / (normal + sum(math.exp(7 * float(z @ w)) for w in anomalies))))
    assert_close(contrastive_loss(features, prompts, 7).item(), sum(terms) / len(terms), rtol=1e-4, atol=1e-5)


def test_margin_loss() -> None:
    features, (normal, anomalous) = unit(2, 6, EMBED_DIM), unit(2, EMBED_DIM)
    terms = [  # equation (5)
        max(0.0, float((z - normal).norm() ** 2 - (z - anomalous).norm() ** 2)) for z in features.flatten(0, 1)
    ]
    loss = margin_loss(features, torch.stack([normal, anomalous]))
    assert_close(loss.item(), sum(terms) / len(terms), rtol=1e-4, atol=1e-5)


def test_margin_loss_is_zero_once_the_states_are_apart() -> None:
    normal, anomalous = torch.eye(EMBED_DIM)[:2]
    near = F.normalize(normal + 0.1 * torch.randn(5, EMBED_DIM) / EMBED_DIM**0.5, dim=-1)
    prototypes = torch.stack([normal, anomalous])
    assert margin_loss(near, prototypes) == 0
    assert margin_loss(near, prototypes.flip(0)) > 1


def test_alignment_loss() -> None:
    prompts = random_prompts()
    manual = sum(prompt / prompt.norm() for prompt in prompts.manual) / len(prompts.manual)
    learned = sum(prompt / prompt.norm() for prompt in prompts.learned) / len(prompts.learned)
    assert_close(alignment_loss(prompts), (manual - learned).norm() ** 2)  # equation (6)
    assert alignment_loss(prompts._replace(learned=prompts.manual)) < 1e-6


def test_both_heads_lose_by_the_sum_of_their_terms() -> None:
    model = PromptAD(**SMALL, alignment_weight=0.5)
    model.prepare_texts(["screw"])
    visual = model.model.encode(torch.randn(2, 3, 64, 64))
    losses = model.model.losses(visual)
    heads = {"image": visual.image_embedding, "pixel": visual.local_features}
    for name, features in heads.items():  # equation (7)
        head = getattr(model.model, f"{name}_head")
        prompts = head(model.model.clip.text, model.model.names, model.model.anomalies)
        assert_close(losses[f"{name}_contrast"], contrastive_loss(features, prompts, model.model.logit_scale))
        assert_close(losses[f"{name}_margin"], margin_loss(features, prompts.prototypes))
        assert_close(losses[f"{name}_alignment"], 0.5 * alignment_loss(prompts))
    assert len(losses) == 6


def test_score_and_map_are_fused_from_prompts_and_memory(mvtec: Path, tmp_path: Path) -> None:
    module = trained(mvtec, tmp_path, sigma=0.0)
    model, images = module.model, torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        visual, found = model.encode(images), model(images)
    for index in range(2):
        distances = []
        for layer, bank in zip(visual.memory_features, model.memory_banks, strict=True):  # equation (9)
            rows = F.normalize(layer[index], dim=-1)
            distances.append(torch.stack([0.5 * (1 - max(row @ r for r in bank.features)) for row in rows]))
        memory = (sum(distances) / len(distances)).reshape(1, 1, 4, 4)
        states = (model.logit_scale * visual.local_features[index] @ model.pixel_prototypes.T).softmax(dim=-1)  # (8)
        prompt = states[:, 1].reshape(1, 1, 4, 4)
        expected = F.interpolate(1 / (1 / prompt + 1 / memory), size=(64, 64), mode="bilinear")  # (10)
        assert_close(found.anomaly_map[index : index + 1], expected, rtol=1e-3, atol=1e-5)
        p = (model.logit_scale * visual.image_embedding[index] @ model.image_prototypes.T).softmax(dim=-1)[1]
        peak = F.interpolate(memory, size=(64, 64), mode="bilinear").max()
        assert_close(found.pred_score[index, 0], 1 / (1 / p + 1 / peak), rtol=1e-3, atol=1e-5)  # (11)


def test_a_run_trains_prompts_alone_and_validates_once(mvtec: Path, tmp_path: Path) -> None:
    model, recorder = PromptAD(**SMALL), Recorder()
    before = {name: value.clone() for name, value in model.named_parameters()}
    make_engine(tmp_path, [recorder]).fit(model, datamodule=make_datamodule(mvtec))
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    heads = ("image_head", "pixel_head")
    assert changed == {f"model.{head}.{part}" for head in heads for part in ("contexts", "suffixes")}
    assert recorder.validated_after == [2]
    assert recorder.finalize_at_validation == [True]
    assert recorder.losses[1] < recorder.losses[0]


def test_the_users_number_of_epochs_counts(mvtec: Path, tmp_path: Path) -> None:
    recorder = Recorder()
    make_engine(tmp_path, [recorder], max_epochs=1).fit(PromptAD(**SMALL), datamodule=make_datamodule(mvtec))
    assert len(recorder.losses) == 1


def test_a_checkpoint_is_small_restores_the_model_and_refuses_another_backbone(mvtec: Path, tmp_path: Path) -> None:
    model, engine = PromptAD(**SMALL), make_engine(tmp_path)
    with pytest.raises(RuntimeError, match="This PromptAD is not trained"):
        engine.test(model, datamodule=make_datamodule(mvtec))
    engine.fit(model, datamodule=make_datamodule(mvtec))
    state = torch.load(engine.best_model_path, weights_only=True)["state_dict"]
    assert not any("clip" in name for name in state)
    restored, image = PromptAD.load_from_checkpoint(engine.best_model_path).eval(), torch.rand(1, 3, 90, 110)
    found, expected = restored(image), model.eval()(image)
    assert_close(found.anomaly_map, expected.anomaly_map)
    assert_close(found.pred_score, expected.pred_score)
    other = dict(state) | {"model.backbone_fingerprint": state["model.backbone_fingerprint"] + 1}
    with pytest.raises(ValueError, match="another backbone"):
        restored.load_state_dict(other)


def test_the_order_of_the_shots_does_not_matter(mvtec: Path, tmp_path: Path) -> None:
    models = []
    for seed in (1, 2):
        torch.manual_seed(seed)  # of the order in which an epoch shows them
        models.append(trained(mvtec, tmp_path).model)
    assert_close(models[0].image_prototypes, models[1].image_prototypes, rtol=1e-3, atol=1e-5)
    assert_close(models[0].memory_banks[0].features, models[1].memory_banks[0].features)


def test_a_shot_scores_lower_than_its_damaged_copy(mvtec: Path, tmp_path: Path) -> None:
    model, datamodule = trained(mvtec, tmp_path, sigma=0.0), make_datamodule(mvtec)
    datamodule.setup()
    shot = datamodule.train_data[0].image.unsqueeze(0)
    damaged = shot.clone()
    damaged[..., 20:40, 20:40] = 1.0
    with torch.no_grad():
        own, other = model(shot), model(damaged)
    assert own.anomaly_map.max() < 0.1 * other.anomaly_map.max()
    assert own.pred_score < other.pred_score


def test_prompts_alone(mvtec: Path, tmp_path: Path) -> None:
    model = trained(mvtec, tmp_path, use_memory=False)
    assert len(model.model.memory_banks) == 0
    found = model(torch.rand(2, 3, 64, 64))
    assert 0 < float(found.pred_score.min()) <= float(found.pred_score.max()) < 1


def test_promptad_g_has_generic_prompts_alone(caplog: pytest.LogCaptureFixture) -> None:
    generic, own = PromptAD(**SMALL, object_specific=False), PromptAD(**SMALL)
    for model in (generic, own):
        model.prepare_texts(["screw"])
    assert len(generic.model.anomalies) == len(GENERIC)
    assert len(own.model.anomalies) == len(GENERIC) + 3
    own.prepare_texts(["teapot"])
    assert "No anomalies are known for teapot" in caplog.text


def test_anomalies_of_categories() -> None:
    assert customized("metal nut") == customized("metal_nut")
    assert "{} squeezed with compression" in customized("capsule")
    assert all(customized(category) for category in CATEGORIES)
    assert templates_of(["with oil ", "cracked {}"]) == ("{} with oil", "cracked {}")


@pytest.mark.export
def test_an_exported_model_says_the_same_without_the_text_tower(mvtec: Path, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    model = trained(mvtec, tmp_path)
    file = model.to_onnx(tmp_path, input_size=(90, 110))
    compiled = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    images = torch.rand(2, 3, 90, 110)
    with torch.no_grad():
        expected = model(images)
    outputs = {output.any_name: torch.from_numpy(value) for output, value in compiled(images.numpy()).items()}
    assert_close(outputs["pred_score"].flatten(), expected.pred_score.flatten(), rtol=1e-3, atol=1e-3)
    assert_close(outputs["anomaly_map"].reshape(-1), expected.anomaly_map.reshape(-1), rtol=1e-3, atol=1e-3)
    embeddings = model.model.clip.text.token_embedding.weight
    assert file.stat().st_size < embeddings.numel() * embeddings.element_size()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_prompts": 0}, "image_prompts"),
        ({"prompt_lr": -1}, "prompt_lr"),
        ({"memory_layers": [99]}, "memory_layers"),
        ({"anomalies": ["{} {}"]}, "anomalies must be words"),
        ({"anomalies": ["with oil"], "object_specific": False}, "object_specific=True alone"),
        ({"pretrained": "no_such_tag"}, "pretrained must be"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PromptAD(**{**SMALL, **arguments})


def test_missing_weights_are_not_replaced_by_random_ones() -> None:
    with pytest.raises(FileNotFoundError, match="laion400m_e32"):
        PromptAD(backbone="ViT-B-16-plus-240")


def test_random_weights_are_told(caplog: pytest.LogCaptureFixture) -> None:
    model = PromptAD(**SMALL)
    assert "random weights" in caplog.text
    assert model.hparams["pretrained"] == "random"
