# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""AnomalyGPT: its equations against plain transcriptions, and runs on the miniature CLIP and a tiny language model."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from anople_anomalib.baselines import AnomalyGPT
from anople_anomalib.baselines.anomalygpt.language import AFTER, BETWEEN, LanguageModel, right_answer, yes_or_no
from anople_anomalib.baselines.anomalygpt.torch_model import PromptLearner, map_loss
from anople_anomalib.baselines.around_clip import _rate
from anople_anomalib.baselines.transfer import AuxiliaryCategory, auxiliary_data
from anople_anomalib.method.anomaly_simulation import PHOTOGRAPHS, PixelAnomalySimulator
from anople_anomalib.method.loss import dice_loss
from helpers.folders import write_category
from helpers.miniature import MINIATURE
from helpers.training import make_datamodule, make_engine

SMALL: dict[str, Any] = {
    "backbone": MINIATURE,
    "pretrained": "random",
    "layers": [1, 2, 3],
    "epochs": 1,
    "batch_size": 3,
    "visualizer": False,
}


def other_data(root: Path) -> dict[str, AuxiliaryCategory]:
    """Another category in the folder of the tiny one."""
    write_category(root, "cable")
    datamodule = {"class_path": "MVTecAD", "init_args": {"root": str(root), "num_workers": 0}}
    return auxiliary_data(datamodule, ["cable"], AnomalyGPT(**SMALL).pre_processor.transform)


def trained(root: Path, folder: Path, **arguments: Any) -> AnomalyGPT:
    """A model that has the three good images of the tiny category in its memory."""
    model = AnomalyGPT(**{**SMALL, **arguments})
    make_engine(folder).fit(model, datamodule=make_datamodule(root))
    return model.eval()


@pytest.fixture
def language(tmp_path: Path) -> Path:
    """A folder with a tiny causal model of random weights, and a tokenizer whose words are single letters."""
    transformers, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    folder = tmp_path / "language"
    letters = {chr(number): number for number in range(32, 127)}
    words = tokenizers.Tokenizer(tokenizers.models.BPE({"<s>": 0, **{k: v - 31 for k, v in letters.items()}}, []))
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<s>", pad_token="<s>").save_pretrained(
        folder
    )
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=96, n_positions=256, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def test_map_and_score(mvtec: Path, tmp_path: Path) -> None:
    model, images = trained(mvtec, tmp_path).model, torch.randn(2, 3, 64, 64)
    found, layers = model(images), model.features(images)
    for index in range(2):
        rows = []
        for features, bank in zip(layers, model.memory_banks, strict=True):
            units = [f / f.norm() for f in features[index]]
            rows.append([max(float(f @ r) for r in bank.features) for f in units])
        grid = (1 - torch.tensor(rows).mean(dim=0)).reshape(1, 1, 4, 4)  # (1)
        expected = F.interpolate(grid, size=(64, 64), mode="bilinear")
        assert_close(found.anomaly_map[index : index + 1], expected, rtol=1e-3, atol=1e-5)
        assert_close(found.pred_score[index, 0], expected.max(), rtol=1e-3, atol=1e-5)  # (2)


def test_map_of_the_decoder() -> None:
    model = AnomalyGPT(**SMALL).model
    layers = [torch.randn(1, 16, model.clip.visual.width) for _ in range(3)]
    texts = F.normalize(torch.randn(2, model.clip.embed_dim), dim=-1)
    found = model.decoder_map(layers, torch.Size((4, 4)), texts).flatten()
    for patch in range(16):
        values = []
        for layer, linear in zip(layers, model.decoder, strict=True):  # (3)
            z = linear(layer[0, patch]).detach()
            odds = [math.exp(float(model.clip.logit_scale * (z / z.norm()) @ text)) for text in texts]
            values.append(odds[1] / sum(odds))
        assert_close(found[patch].item(), sum(values) / 3, rtol=1e-3, atol=1e-5)


def test_loss_of_the_map() -> None:
    maps, masks = torch.rand(2, 1, 5, 6), (torch.rand(2, 1, 5, 6) > 0.7).float()
    true = torch.where(masks > 0, maps, 1 - maps)
    focal = (-((1 - true) ** 2) * true.log()).mean()
    assert_close(map_loss(maps, masks), dice_loss(maps.squeeze(1), masks.squeeze(1)) + focal, rtol=1e-3, atol=1e-4)


def test_prompts_are_learned_ones_and_those_of_the_map() -> None:
    learner = PromptLearner(embed_dim=8, width=16)
    maps = torch.zeros(2, 1, 48, 48)
    maps[1, :, :16, :16] = 1.0  # top left
    images, prompts = learner(torch.randn(2, 8), maps)
    assert images.shape == (2, 1, 16)
    assert prompts.shape == (2, 18, 16)
    assert torch.equal(prompts[0, :9], learner.base)  # (4)
    assert torch.equal(prompts[1, :9], learner.base)
    moved = (prompts[0, 9:] - prompts[1, 9:]).norm(dim=-1)
    assert moved.argmax() == 0  # the prompt of that place
    assert moved[8] < 1e-6


def test_answers_name_the_place() -> None:
    mask = torch.zeros(1, 30, 30)
    assert right_answer(mask) == "No, there is no anomaly in the image."
    mask[:, 22:28, 2:8] = 1
    assert right_answer(mask) == "Yes, there is an anomaly in the image, at the bottom left of the image."
    assert [yes_or_no(text) for text in (right_answer(mask), "no.", "Maybe", "")] == ["yes", "no", "", ""]


def test_answers_are_taught_by_their_cross_entropy(language: Path) -> None:
    model = LanguageModel(str(language))
    images, prompts = torch.randn(2, 1, 16), torch.randn(2, 18, 16)
    question, answers = model.question(images, prompts), ["Yes, here.", "No."]
    terms = []
    for row, answer in zip(question, answers, strict=True):
        tokens = model.tokenizer(f" {answer}<s>", return_tensors="pt")["input_ids"][0]
        words = model.model.get_input_embeddings()(tokens)
        logits = model.model(inputs_embeds=torch.cat([row, words]).unsqueeze(0)).logits[0]
        told = logits[len(row) - 1 : -1].log_softmax(dim=-1)
        terms += [-float(line[token]) for line, token in zip(told, tokens, strict=True)]
    assert_close(model.loss(question, answers).item(), sum(terms) / len(terms), rtol=1e-4, atol=1e-4)
    after = model.model.get_input_embeddings()(model.tokenizer(AFTER, return_tensors="pt")["input_ids"])
    assert torch.equal(question[:1, -after.shape[1] :], after)
    between = len(model.tokenizer(BETWEEN)["input_ids"])
    assert (
        question.shape[1] == len(model.tokenizer("### Human: <Img>")["input_ids"]) + 1 + between + 18 + after.shape[1]
    )


def test_a_sentence_is_told_and_never_the_score(mvtec: Path, language: Path, tmp_path: Path) -> None:
    model, engine = AnomalyGPT(**SMALL, language_model=str(language)), make_engine(tmp_path)
    with pytest.raises(ValueError, match="learns from other data before it sees the shots"):
        engine.fit(model, datamodule=make_datamodule(mvtec))
    before = {name: value.clone() for name, value in model.named_parameters()}
    model.learn_from_auxiliary(other_data(mvtec))
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert {".".join(name.split(".")[:2]) for name in changed} == {"model.decoder", "model.prompt_learner"}
    engine.fit(model, datamodule=make_datamodule(mvtec))
    engine.test(model, datamodule=make_datamodule(mvtec))
    predictions = engine.predict(model, datamodule=make_datamodule(mvtec))
    sentences = [sentence for batch in predictions for sentence in batch.explanation]
    assert len(sentences) == 4
    assert all(isinstance(sentence, str) for sentence in sentences)
    silent = trained(mvtec, tmp_path)
    image = torch.rand(1, 3, 90, 110)
    assert_close(model.eval()(image).pred_score, silent(image).pred_score)
    state = torch.load(engine.best_model_path, weights_only=True)["state_dict"]
    assert not any(name.startswith("language") or "clip" in name for name in state)
    restored = AnomalyGPT.load_from_checkpoint(engine.best_model_path)
    assert torch.equal(restored.model.prompt_learner.base, model.model.prompt_learner.base)


def test_the_decoder_learns_to_tell_simulated_anomalies(mvtec: Path) -> None:
    model, data = AnomalyGPT(**{**SMALL, "epochs": 30, "lr": 0.01}), other_data(mvtec)
    images = torch.stack([data["cable"].train[index].image for index in range(3)])
    texts = model.texts_of("cable")

    def loss() -> float:
        torch.manual_seed(1)
        damaged, masks = PixelAnomalySimulator(PHOTOGRAPHS, probability=1)(images)
        with torch.no_grad():
            layers = model.model.encode(model.normalized(damaged)).layers
            return float(map_loss(model.model.decoder_map(layers, masks.shape[-2:], texts), masks))

    untrained = loss()
    model.learn_from_auxiliary(data)
    assert loss() < 0.9 * untrained


def test_a_shot_scores_lower_than_its_damaged_copy(mvtec: Path, tmp_path: Path) -> None:
    model, datamodule = trained(mvtec, tmp_path), make_datamodule(mvtec)
    datamodule.setup()
    shot = datamodule.train_data[0].image.unsqueeze(0)
    damaged = shot.clone()
    damaged[..., 20:40, 20:40] = 1.0
    assert model(shot).pred_score < 0.1 * model(damaged).pred_score


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [_rate(step, steps=20) for step in range(20)]
    assert rates[:2] == [0.5, 1.0]
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert 0 < rates[-1] < 0.01
    assert [_rate(0, steps=1), _rate(0, steps=10)] == [1.0, 1.0]


@pytest.mark.export
def test_an_exported_model_says_the_same(mvtec: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model, images = trained(mvtec, tmp_path), torch.rand(2, 3, 90, 110)
    session = onnxruntime.InferenceSession(model.to_onnx(tmp_path, input_size=(90, 110)))
    with torch.no_grad():
        expected = model(images)
    scores, maps = session.run(["pred_score", "anomaly_map"], {session.get_inputs()[0].name: images.numpy()})
    assert_close(torch.from_numpy(scores).flatten(), expected.pred_score.flatten(), rtol=1e-3, atol=1e-3)
    assert_close(torch.from_numpy(maps).flatten(), expected.anomaly_map.flatten(), rtol=1e-3, atol=1e-3)


def test_a_language_model_for_short_texts_is_refused(language: Path) -> None:
    model = LanguageModel(str(language))
    model.model.config.n_positions = 64
    with pytest.raises(ValueError, match="language_model has 64 positions, question and answer take 82"):
        model.answer(torch.zeros(1, 50, 16))
    with pytest.raises(ValueError, match="language_model has 64 positions, question and answer take "):
        model.loss(torch.zeros(1, 50, 16), [right_answer(torch.zeros(1, 3, 3))])


def test_a_language_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        AnomalyGPT(**SMALL, language_model=str(tmp_path / "nowhere"))


@pytest.mark.parametrize(("arguments", "message"), [({"batch_size": 0}, "batch_size"), ({"layers": [99]}, "layers")])
def test_bad_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AnomalyGPT(**{**SMALL, **arguments})
