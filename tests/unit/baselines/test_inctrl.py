# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""InCTRL: its equations against plain transcriptions, and runs on the miniature CLIP."""

import math
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from anomalib.models.image.winclip.prompting import create_prompt_ensemble
from torch.nn import functional as F
from torch.testing import assert_close

from anople_anomalib.backbones.clip import FrozenCLIP
from anople_anomalib.baselines import InCTRL
from anople_anomalib.baselines.around_clip import ensemble_features
from anople_anomalib.baselines.inctrl.episodes import EpisodeSource
from anople_anomalib.baselines.inctrl.torch_model import focal_loss, patch_residuals
from anople_anomalib.baselines.transfer import AuxiliaryCategory, auxiliary_data
from helpers.folders import write_category
from helpers.miniature import MINIATURE
from helpers.training import make_datamodule, make_engine

SMALL: dict[str, Any] = {
    "backbone": MINIATURE,
    "pretrained": "random",
    "layers": [1, 2, 3],
    "epochs": 1,
    "batch_size": 4,
    "visualizer": False,
}


def other_data(root: Path, num_test: int = 2) -> dict[str, AuxiliaryCategory]:
    """Two more categories in the folder of the tiny one."""
    for category in ("cable", "tile"):
        write_category(root, category, num_test=num_test)
    datamodule = {"class_path": "MVTecAD", "init_args": {"root": str(root), "num_workers": 0}}
    return auxiliary_data(datamodule, ["cable", "tile"], InCTRL(**SMALL).pre_processor.transform)


def trained(root: Path, folder: Path, **arguments: Any) -> InCTRL:
    """A model that has learned from two categories and has the three good images of the tiny one as context."""
    model = InCTRL(**{**SMALL, **arguments})
    model.learn_from_auxiliary(other_data(root))
    make_engine(folder).fit(model, datamodule=make_datamodule(root))
    return model.eval()


def in_plain_words(query: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    """Equation (1) of one image: features of shape (L, n, d), of its context (L, S, n, d)."""
    layers = []
    for own, others in zip(query, context.flatten(1, 2), strict=True):
        cosines = [[float(F.cosine_similarity(f, r, dim=0)) for r in others] for f in own]
        layers.append([min(0.5 * (1 - cosine) for cosine in row) for row in cosines])
    return torch.tensor(layers).mean(dim=0)


def by_the_authors_reshape(query: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    """Equation (1) with the axes as the authors' program has them: layers stacked first, and then reshaped.

    Features are of shape (L, B, n, d), those of the context (L, S * B, n, d), all first shots before all second ones.
    """
    layers, batch, patches, width = query.shape
    query = query.reshape(batch, layers, patches, width)
    context = context.reshape(batch, layers, -1, width)
    found = [in_plain_words(own, others.unsqueeze(1)) for own, others in zip(query, context, strict=True)]
    return torch.stack(found)


@pytest.mark.parametrize("batch", [1, 2])
def test_patch_residuals_keep_layers_and_images_apart(batch: int) -> None:
    layers, shots, patches, width = 3, 2, 4, 5
    query = torch.randn(layers, batch, patches, width)
    context = torch.randn(layers, batch, shots, patches, width)
    found = patch_residuals(list(query), list(context))
    expected = torch.stack([in_plain_words(query[:, image], context[:, image]) for image in range(batch)])
    assert_close(found, expected)
    theirs = by_the_authors_reshape(query, context.transpose(1, 2).flatten(1, 2))
    if batch == 1:  # nothing to mix
        assert_close(theirs, expected)
    else:
        assert (theirs - expected).abs().max() > 0.05


def test_texts_are_the_compositional_ensemble(clip: FrozenCLIP) -> None:
    found = ensemble_features(clip, open_clip.tokenize, "metal_nut")
    for row, texts in zip(found, create_prompt_ensemble("metal nut"), strict=True):
        mean = sum(F.normalize(clip.text(open_clip.tokenize([text]))[0], dim=0) for text in texts) / len(texts)
        assert_close(row, mean / mean.norm(), atol=1e-5, rtol=1e-4)


def test_scores() -> None:
    model = InCTRL(**SMALL).model.eval()
    torch.manual_seed(0)
    embeddings, residuals = torch.randn(2, model.clip.embed_dim), torch.rand(2, 16)
    prototype, texts = torch.randn(model.clip.embed_dim), F.normalize(torch.randn(2, model.clip.embed_dim), dim=-1)
    found = model.scores(embeddings, residuals, prototype, texts)
    first, _, second, _ = model.adapter
    for z, m, score, image in zip(embeddings, residuals, *found, strict=True):
        adapted = (second.weight @ (first.weight @ z).clamp_min(0)).clamp_min(0)
        s_i = model.image_head((adapted - prototype).unsqueeze(0))[0, 0]  # (2)
        assert_close(image, s_i)
        unit = z / z.norm()
        odds = [math.exp(float(model.clip.logit_scale * unit @ text)) for text in texts]
        s_a = odds[1] / sum(odds)  # (3)
        h = model.holistic_head((m + s_i + s_a).unsqueeze(0))[0, 0]  # (4)
        assert_close(score, (h + m.max()) / 2, rtol=1e-4, atol=1e-5)  # (5)


def test_focal_loss() -> None:
    probabilities, labels = torch.tensor([0.9, 0.2, 0.4]), torch.tensor([1.0, 1.0, 0.0])
    terms = [-((1 - p) ** 2) * math.log(p) for p in (0.9, 0.2, 0.6)]  # (6)
    assert_close(focal_loss(probabilities, labels).item(), sum(terms) / 3, rtol=1e-5, atol=1e-6)


def test_training_and_judging_have_the_same_score(mvtec: Path, tmp_path: Path) -> None:
    model = trained(mvtec, tmp_path).model
    images, shots = torch.randn(2, 3, 64, 64), torch.randn(3, 3, 64, 64)
    model.fit(model.features(shots))
    judged = model(images).pred_score.flatten()
    queries, context = model.encode(images), model.encode(shots.repeat(2, 1, 1, 1))
    losses = model.losses(queries, context, model.text_features.expand(2, -1, -1), labels := torch.tensor([0.0, 1.0]))
    assert_close(losses["score"], focal_loss(judged, labels))


def test_batches_are_balanced_and_an_image_is_not_its_own_context(mvtec: Path) -> None:
    data = other_data(mvtec)
    source = EpisodeSource(data, batch_size=4, shots=5)
    assert source.shots == 2  # of three training images two are others
    batches = list(source)
    labels = torch.cat([batch.labels for batch in batches])
    assert len(labels) == 2 * (2 * 3 + 2 * 2)  # every normal image once, and as many anomalous ones
    for images, labels, categories, context in batches:
        assert labels.sum() * 2 == len(labels)
        assert images.shape[1:] == (3, 64, 64)
        assert len(context) == 2 * len(images) == 2 * len(categories)
        for image, own in zip(images, context.unflatten(0, (-1, 2)), strict=True):
            assert all(not torch.equal(image, shot) for shot in own)


def test_anomalies_are_simulated_where_there_are_none(mvtec: Path) -> None:
    model, data = InCTRL(**SMALL), other_data(mvtec, num_test=0)
    assert model.remark(data) == "simulated anomalies"
    assert all(batch.labels.sum() > 0 for batch in EpisodeSource(data, batch_size=4, shots=1))
    assert model.remark(other_data(mvtec)) == ""


def test_learning_changes_adapter_and_heads_alone(mvtec: Path) -> None:
    model = InCTRL(**SMALL)
    before = {name: value.clone() for name, value in model.model.named_parameters()}
    model.learn_from_auxiliary(other_data(mvtec))
    changed = {name for name, value in model.model.named_parameters() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in changed} == {"adapter", "image_head", "holistic_head"}


def test_shots_without_auxiliary_data_are_refused(mvtec: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="learns from other data before it sees the shots"):
        make_engine(tmp_path).fit(InCTRL(**SMALL), datamodule=make_datamodule(mvtec))


def test_there_is_a_score_without_a_map_and_a_checkpoint_restores_it(mvtec: Path, tmp_path: Path) -> None:
    model, engine = InCTRL(**SMALL), make_engine(tmp_path)
    model.learn_from_auxiliary(other_data(mvtec))
    engine.fit(model, datamodule=make_datamodule(mvtec))
    (metrics,) = engine.test(model, datamodule=make_datamodule(mvtec))
    assert "image_AUROC" in metrics
    assert not any(name.startswith("pixel") for name in metrics)
    state = torch.load(engine.best_model_path, weights_only=True)["state_dict"]
    assert not any("clip" in name for name in state)
    restored, image = InCTRL.load_from_checkpoint(engine.best_model_path).eval(), torch.rand(1, 3, 90, 110)
    found, expected = restored(image), model.eval()(image)
    assert found.anomaly_map is None
    assert_close(found.pred_score, expected.pred_score)


def test_a_shot_has_a_smaller_residual_than_its_damaged_copy(mvtec: Path, tmp_path: Path) -> None:
    model, datamodule = trained(mvtec, tmp_path), make_datamodule(mvtec)
    datamodule.setup()
    shot = datamodule.train_data[0].image.unsqueeze(0)
    damaged = shot.clone()
    damaged[..., 20:40, 20:40] = 1.0
    own, other = (
        model.model.memory_banks(model.model.encode(model.normalized(each)).layers) for each in (shot, damaged)
    )
    assert own.max() < 0.1 * other.max()


@pytest.mark.export
def test_an_exported_model_says_the_same(mvtec: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = trained(mvtec, tmp_path)
    session = onnxruntime.InferenceSession(model.to_onnx(tmp_path, input_size=(90, 110)))
    images = torch.rand(2, 3, 90, 110)
    with torch.no_grad():
        expected = model(images).pred_score
    outputs = session.run(["pred_score"], {session.get_inputs()[0].name: images.numpy()})
    assert_close(torch.from_numpy(outputs[0]).flatten(), expected.flatten(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"batch_size": 1}, "batch_size"), ({"lr": -1}, "lr"), ({"layers": [99]}, "layers"), ({"epochs": 0}, "epochs")],
)
def test_bad_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InCTRL(**{**SMALL, **arguments})
