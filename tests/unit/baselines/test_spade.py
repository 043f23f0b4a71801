# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""SPADE: its equations against plain transcriptions, and a training run."""

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from anople_anomalib.baselines import SPADE
from anople_anomalib.baselines.spade.torch_model import SPADEModel, squared_distances
from helpers.training import make_datamodule, make_engine

SMALL = {"backbone": "efficientnet-lite0", "visualizer": False}


def filled(num_images: int = 2, num_pixels: int = 1, shots: int = 4) -> SPADEModel:
    model = SPADE(pre_trained=False, num_images=num_images, num_pixels=num_pixels, **SMALL).model
    with torch.no_grad():
        model.fit(model.features(torch.randn(shots, 3, 64, 64)))
    model.is_fitted.fill_(value=True)
    return model


def plain_image_score(query: torch.Tensor, shots: torch.Tensor, k: int) -> float:
    """Equation (1) for one image."""
    squares = sorted(float(((query - shot) ** 2).sum()) for shot in shots)
    return sum(squares[:k]) / len(squares[:k])


def plain_pixel_score(query: torch.Tensor, gallery: torch.Tensor, kappa: int) -> float:
    """Equation (2) for one pixel."""
    squares = sorted(float(((query - pixel) ** 2).sum()) for pixel in gallery)
    return sum(squares[:kappa]) / kappa


@pytest.mark.parametrize("k", [1, 3, 50])
def test_score_of_an_image(k: int) -> None:
    model = filled(num_images=k)
    queries = torch.randn(3, model.image_features.shape[1])
    scores, nearest = model.nearest_images(queries)
    assert nearest.shape == (3, min(k, 4))
    for query, score in zip(queries, scores, strict=True):
        assert_close(score.item(), plain_image_score(query, model.image_features, k), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kappa", [1, 5])
def test_score_of_a_pixel(kappa: int) -> None:
    model = filled(num_pixels=kappa)
    model.pixel_features = torch.randn(4, 6, 5)
    query, nearest = torch.randn(2, 6, 5), torch.tensor([[0, 2], [3, 1]])
    distances = model.pixel_distances(query, nearest)
    for image in range(2):
        gallery = model.pixel_features[nearest[image]].flatten(0, 1)
        expected = [plain_pixel_score(pixel, gallery, kappa) for pixel in query[image]]
        assert_close(distances[image], torch.tensor(expected), rtol=1e-4, atol=1e-4)


def test_squared_distances_are_those_of_cdist() -> None:
    first, second = torch.randn(2, 5, 7), torch.randn(2, 4, 7)
    assert_close(squared_distances(first, second), torch.cdist(first, second).square(), rtol=1e-4, atol=1e-4)


def test_a_shot_is_normal_and_its_damaged_copy_is_not() -> None:
    model = SPADE(**SMALL, sigma=0.0).model
    shot = torch.rand(1, 3, 64, 64)
    damaged = shot.clone()
    damaged[..., 20:40, 20:40] = 3.0
    with torch.no_grad():
        model.fit(model.features(shot))
        model.is_fitted.fill_(value=True)
        own, other = model(shot), model(damaged)
    assert own.pred_score.item() < 1e-3 * other.pred_score.item()
    assert own.anomaly_map.max() < 1e-3 * other.anomaly_map.max()
    row, column = divmod(int(other.anomaly_map.flatten().argmax()), 64)
    assert 12 <= row < 48
    assert 12 <= column < 48


def test_more_images_at_once_change_nothing() -> None:
    model, images = filled(), torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        together = model(images)
        alone = [model(image.unsqueeze(0)) for image in images]
    assert_close(together.anomaly_map, torch.cat([one.anomaly_map for one in alone]), rtol=1e-3, atol=1e-3)


def test_a_training_run_keeps_the_shots_and_a_checkpoint_restores_them(tmp_path: Path, mvtec: Path) -> None:
    model = SPADE(**SMALL)
    engine = make_engine(tmp_path)
    with pytest.raises(RuntimeError, match="not trained"):
        engine.test(model, datamodule=make_datamodule(mvtec))
    engine.fit(model, datamodule=make_datamodule(mvtec))
    assert len(model.model.image_features) == 3
    restored = SPADE.load_from_checkpoint(engine.best_model_path)
    image = torch.rand(1, 3, 90, 110)
    assert_close(restored.eval()(image).anomaly_map, model.eval()(image).anomaly_map)
    make_engine(tmp_path / "again").fit(model, datamodule=make_datamodule(mvtec))  # anew, not in addition
    assert len(model.model.image_features) == 3


@pytest.mark.export
@pytest.mark.skipif(torch.__version__.startswith("2.6."), reason="torch 2.6 exports no batch normalization to ONNX")
def test_an_exported_model_says_the_same(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    # a network that is soon exported
    model = SPADE(backbone="resnet10t", pre_trained=False, visualizer=False, num_images=2, pre_processor=False)
    with torch.no_grad():
        model.model.fit(model.model.features(torch.randn(3, 3, 64, 64)))
    model.model.is_fitted.fill_(value=True)
    file = model.to_onnx(tmp_path, input_size=(64, 64))
    compiled = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model.eval()(images)
    outputs = {output.any_name: torch.from_numpy(value) for output, value in compiled(images.numpy()).items()}
    assert_close(outputs["pred_score"].flatten(), expected.pred_score.flatten(), rtol=1e-3, atol=1e-3)
    assert_close(outputs["anomaly_map"].reshape(-1), expected.anomaly_map.reshape(-1), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_images": 0}, "num_images"),
        ({"num_pixels": 1.5}, "num_pixels"),
        ({"sigma": -1}, "sigma"),
        ({"backbone": "no_such_net"}, "no_such_net"),
        ({"layers": ["blocks.1"]}, "layers must be 4 of"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SPADE(**{**SMALL, "pre_trained": False, **arguments})


def test_random_weights_are_told(caplog: pytest.LogCaptureFixture) -> None:
    model = SPADE(**SMALL, pre_trained=False)
    assert "random weights" in caplog.text
    assert model.hparams["pre_trained"] is False
