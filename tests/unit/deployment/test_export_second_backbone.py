# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Exports of a model with a second backbone for the memory."""

from pathlib import Path

import pytest
import torch
from anomalib.data import Folder
from anomalib.deploy import CompressionType, OpenVINOInferencer, TorchInferencer
from torch.testing import assert_close

from anople_anomalib.anople import AnoPLe
from anople_anomalib.backbones.package_weights import LITE0
from anople_anomalib.deployment.metadata import read_metadata
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


@pytest.fixture
def of_categories(root: Path) -> tuple[AnoPLe, torch.Tensor]:
    """A model whose memories keep two categories apart, and images of its shots' size, shape ``(4, 3, 90, 110)``."""
    datamodule = make_datamodule(root)
    datamodule.setup()
    images = torch.stack([item.image for item in datamodule.test_data])
    second = {"backbone": LITE0, "image_size": 96, "turns": "none", "subspace": 0.95, "fusion": "weighted"}
    model = make_model(post_processor=False, memory={**second, "per_category": True})
    return finish(model, model.pre_processor.transform(images[:3]), [0, 1, 0]), images


@pytest.mark.export
@pytest.mark.slow
def test_one_onnx_model_predicts_as_the_engine_does_in_both_runtimes(
    of_categories: tuple[AnoPLe, torch.Tensor], tmp_path: Path
) -> None:
    """Any number of images of any size, by memories of several categories."""
    onnxruntime, openvino = pytest.importorskip("onnxruntime"), pytest.importorskip("openvino")
    pytest.importorskip("onnxscript")
    model, images = of_categories
    path = make_engine(tmp_path).export(model, "onnx", export_root=tmp_path)
    session, compiled = onnxruntime.InferenceSession(path), openvino.Core().compile_model(path, "CPU", PRECISE)
    (given,), names = session.get_inputs(), ["pred_score", "anomaly_map"]
    for batch in (images, torch.rand(1, 3, 40, 64)):
        expected = model(batch)
        inferred = compiled(batch.numpy())
        for name, value in zip(names, session.run(names, {given.name: batch.numpy()}), strict=True):
            assert_close(torch.from_numpy(value), getattr(expected, name), atol=1e-4, rtol=0)
            assert_close(torch.from_numpy(inferred[name]), getattr(expected, name), atol=1e-3, rtol=0)


@pytest.mark.export
@pytest.mark.slow
def test_int8_keeps_the_scores_and_the_categories_apart(
    of_categories: tuple[AnoPLe, torch.Tensor], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """INT8 is calibrated on the good images where there are no others, and a defect is outside of all they show."""
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    pytest.importorskip("onnxscript")
    monkeypatch.chdir(tmp_path)  # anomalib's inferencer keeps a cache where it runs
    model, images = of_categories
    good = Folder("part", root=root / "bottle" / "train", normal_dir="good", val_split_mode="none", num_workers=0)
    settings = {"compression_type": CompressionType.INT8_PTQ, "datamodule": good, "input_size": (90, 110)}
    path = make_engine(tmp_path).export(model, "openvino", export_root=tmp_path, **settings)
    assert read_metadata(path).compression == "INT8_PTQ"
    inferencer = OpenVINOInferencer(path, "CPU", PRECISE)
    for shown in (images, torch.rand(images.shape, generator=torch.Generator().manual_seed(0))):
        actual, expected = inferencer.predict(shown), model(shown)
        for name in ("pred_score", "anomaly_map"):
            assert_close(torch.from_numpy(getattr(actual, name)), getattr(expected, name), atol=0.05, rtol=0)
