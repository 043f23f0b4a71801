# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Exports of a model with a second backbone for the memory."""

from pathlib import Path

import pytest
import torch
from anomalib.deploy import CompressionType, OpenVINOInferencer, TorchInferencer
from torch.testing import assert_close

from anople_anomalib.anople import AnoPLe
from anople_anomalib.backbones.package_weights import LITE0
from helpers.training import finish, make_datamodule, make_engine, make_model, train_model

PRECISE = {"INFERENCE_PRECISION_HINT": "f32"}  # some CPUs would take bfloat16


@pytest.fixture(scope="module")
def model(root: Path, tmp_path_factory: pytest.TempPathFactory) -> AnoPLe:
    folder = tmp_path_factory.mktemp("training")
    return train_model(
        root, folder, memory={"backbone": LITE0, "image_size": 128, "subspace": 0.95, "fusion": "weighted"}
    )


def test_the_backbones_see_images_of_their_own_size(model: AnoPLe) -> None:
    assert (model.image_size, model.input_size) == ((64, 64), (128, 128))
    assert model(torch.rand(1, 3, 90, 110)).anomaly_map.shape[-2:] == (128, 128)


def test_torch_inferencer_predicts_as_the_engine_does(
    model: AnoPLe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    path = make_engine(tmp_path).export(model, "torch", export_root=tmp_path)
    tensors = [*model.detector().parameters(), *model.detector().buffers()]
    assert path.stat().st_size < 1.2 * sum(tensor.nbytes for tensor in tensors)  # no weights that are not used
    images = torch.rand(3, 90, 110)
    expected, actual = model(images[None]), TorchInferencer(path, device="cpu").predict(images)
    assert_close(actual.pred_score.flatten(), expected.pred_score.flatten(), atol=1e-5, rtol=0)
    assert_close(actual.anomaly_map.squeeze(), expected.anomaly_map.squeeze(), atol=1e-5, rtol=0)


def test_one_openvino_model_predicts_as_the_engine_does(
    model: AnoPLe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("onnxscript")
    monkeypatch.chdir(tmp_path)  # anomalib's inferencer keeps a cache where it runs
    path = make_engine(tmp_path).export(model, "openvino", export_root=tmp_path)
    inferencer = OpenVINOInferencer(path, "CPU", PRECISE)
    for size in ((1, 3, 90, 110), (3, 3, 40, 64)):
        images = torch.rand(size)
        expected, actual = model(images), inferencer.predict(images)
        for name in ("pred_score", "anomaly_map"):
            assert_close(torch.from_numpy(getattr(actual, name)), getattr(expected, name), atol=1e-3, rtol=0)


def test_an_onnx_model_predicts_as_the_engine_does(model: AnoPLe, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = make_engine(tmp_path).export(model, "onnx", export_root=tmp_path)
    session = onnxruntime.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    images = torch.rand(2, 3, 90, 110)
    outputs = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    actual, expected = dict(zip(names, outputs, strict=True)), model(images)
    for name in ("pred_score", "anomaly_map"):
        assert_close(torch.from_numpy(actual[name]), getattr(expected, name), atol=1e-4, rtol=0)


def test_int8_keeps_the_scores(model: AnoPLe, root: Path, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    pytest.importorskip("onnxscript")
    path = make_engine(tmp_path).export(
        model,
        "openvino",
        export_root=tmp_path,
        input_size=(90, 110),
        compression_type=CompressionType.INT8_PTQ,
        datamodule=make_datamodule(root),
    )
    quantized = openvino.Core().compile_model(path, "CPU", PRECISE)
    datamodule = make_datamodule(root)
    datamodule.setup()
    for item in datamodule.test_data:
        expected, actual = model(item.image[None]), quantized(item.image[None].numpy())
        for name in ("pred_score", "anomaly_map"):
            assert_close(torch.from_numpy(actual[name]), getattr(expected, name), atol=0.05, rtol=0)


@pytest.mark.parametrize(("compression", "tolerance"), [(None, 1e-3), (CompressionType.INT8_PTQ, 0.05)])
def test_both_memories_keep_categories_apart(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    compression: CompressionType | None,
    tolerance: float,
) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    pytest.importorskip("onnxscript")
    monkeypatch.chdir(tmp_path)  # anomalib's inferencer keeps a cache where it runs
    second = {"backbone": LITE0, "image_size": 96, "turns": "none", "subspace": 0.95, "fusion": "weighted"}
    datamodule = make_datamodule(root)
    datamodule.setup()
    images = torch.stack([item.image for item in datamodule.test_data])
    model = make_model(post_processor=False, memory={**second, "per_category": True})
    finish(model, model.pre_processor.transform(images[:3]), [0, 1, 0])
    settings = {"compression_type": compression, "datamodule": datamodule if compression else None}
    path = make_engine(tmp_path).export(model, "openvino", export_root=tmp_path, **settings)
    actual, expected = OpenVINOInferencer(path, "CPU", PRECISE).predict(images), model(images)
    assert_close(torch.from_numpy(actual.anomaly_map), expected.anomaly_map, atol=tolerance, rtol=0)
