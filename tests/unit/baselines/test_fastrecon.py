# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""FastRecon: its closed form against plain transcriptions, and an export."""

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from anople_anomalib.baselines import FastRecon
from anople_anomalib.baselines.fastrecon.torch_model import FastReconModel
from helpers.training import make_datamodule, make_engine

SMALL = {"backbone": "efficientnet-lite0", "visualizer": False}


def filled(regularization: float = 2.0, ratio: float = 0.2, width: int = 30) -> tuple[FastReconModel, torch.Tensor]:
    """A model that is filled with random features, and these."""
    model = FastRecon(pre_trained=False, coreset_sampling_ratio=ratio, regularization=regularization, **SMALL).model
    shots = torch.randn(3, 16, width)
    model.fit([shots])
    return model, shots


@pytest.mark.parametrize("regularization", [0.0, 0.5, 2.0])
def test_reconstruction_is_the_closed_form(regularization: float) -> None:
    model, shots = filled(regularization)
    query = torch.randn(16, 30)
    s, mu = model.coreset, shots.mean(dim=0)
    gram = s @ s.T + regularization * s @ s.T
    w = (query @ s.T + regularization * mu @ s.T) @ torch.linalg.inv(gram)  # equation (2)
    assert_close(model.reconstruct(query.unsqueeze(0))[0], w @ s, rtol=1e-3, atol=1e-4)


def test_the_closed_form_minimizes_the_objective() -> None:
    model, shots = filled()
    query, s, mu = torch.randn(16, 30), model.coreset, shots.mean(dim=0)
    w = torch.zeros(16, len(s), requires_grad=True)
    optimizer = torch.optim.LBFGS([w], max_iter=200)

    def objective() -> torch.Tensor:  # equation (1)
        optimizer.zero_grad()
        loss = (query - w @ s).square().sum() + model.regularization * (w @ s - mu).square().sum()
        loss.backward()
        return loss

    optimizer.step(objective)
    assert_close(model.reconstruct(query.unsqueeze(0))[0], (w @ s).detach(), rtol=1e-2, atol=1e-3)


def test_rows_that_depend_on_each_other_are_no_trouble() -> None:
    model, _ = filled(ratio=1.0)  # 48 rows in 30 dimensions: S S^T is singular
    query = torch.randn(1, 16, 30)
    assert model.basis.shape == (30, 30)
    assert_close(model.reconstruct(query), (query + 2 * model.mean) / 3, rtol=1e-3, atol=1e-4)


def test_coreset_has_its_share_and_is_the_same_again() -> None:
    model, shots = filled(ratio=0.25)
    first = model.coreset.clone()
    torch.randn(3)
    model.fit([shots])
    assert len(first) == 12
    assert torch.equal(model.coreset, first)


def test_a_shot_is_more_normal_than_its_damaged_copy() -> None:
    model = FastRecon(**SMALL, coreset_sampling_ratio=1.0, sigma=0.0).model
    shot = torch.rand(1, 3, 64, 64)
    damaged = shot.clone()
    damaged[..., 20:40, 20:40] = 3.0
    with torch.no_grad():
        model.fit(model.features(shot))
        model.is_fitted.fill_(value=True)
        own, other = model(shot), model(damaged)
    assert own.pred_score.item() < 0.01 * other.pred_score.item()
    assert own.anomaly_map.shape == shot[:, :1].shape


def test_training_does_not_depend_on_the_order_of_the_shots(tmp_path: Path, mvtec: Path) -> None:
    models = []
    for seed in (1, 2):
        model = FastRecon(**SMALL)
        torch.manual_seed(seed)  # of the order in which an epoch shows them
        make_engine(tmp_path).fit(model, datamodule=make_datamodule(mvtec, train_batch_size=1))
        models.append(model.model)
    assert_close(models[0].coreset, models[1].coreset)
    assert_close(models[0].mean, models[1].mean)


@pytest.mark.export
@pytest.mark.skipif(torch.__version__.startswith("2.6."), reason="torch 2.6 exports no batch normalization to ONNX")
def test_an_exported_model_says_the_same(tmp_path: Path, mvtec: Path) -> None:
    openvino = pytest.importorskip("openvino")
    model = FastRecon(backbone="resnet10t", pre_trained=False, visualizer=False)  # a network that is soon exported
    make_engine(tmp_path).fit(model, datamodule=make_datamodule(mvtec))
    precise = {"INFERENCE_PRECISION_HINT": "f32"}  # some CPUs would take bfloat16
    compiled = openvino.compile_model(
        openvino.Core().read_model(model.to_onnx(tmp_path, input_size=(90, 110))), "CPU", precise
    )
    image = torch.rand(1, 3, 90, 110)
    with torch.no_grad():
        expected = model.eval()(image)
    outputs = {output.any_name: torch.from_numpy(value) for output, value in compiled(image.numpy()).items()}
    assert_close(outputs["pred_score"].flatten(), expected.pred_score.flatten(), rtol=1e-3, atol=1e-3)
    assert_close(outputs["anomaly_map"].reshape(-1), expected.anomaly_map.reshape(-1), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"coreset_sampling_ratio": 0}, "coreset_sampling_ratio"),
        ({"regularization": -1}, "regularization"),
        ({"backbone": "vit_small_patch16_224"}, "vit_small_patch16_224"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FastRecon(**{**SMALL, "pre_trained": False, **arguments})
