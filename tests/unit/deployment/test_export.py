# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""What is exported of a trained model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.deploy import CompressionType, OpenVINOInferencer, TorchInferencer
from anomalib.post_processing import PostProcessor
from torch.testing import assert_close

from anople_anomalib.anople import AnoPLe
from anople_anomalib.deployment.metadata import read_metadata
from helpers.training import make_datamodule, make_engine, make_model, train_model


@pytest.fixture(scope="module")
def model(root: Path, tmp_path_factory: pytest.TempPathFactory) -> AnoPLe:
    """A trained model."""
    folder = tmp_path_factory.mktemp("training")
    return train_model(root, folder, gradient_checkpointing=True)  # a matter of training alone


def test_a_detector_has_neither_text_tower_nor_what_training_needs(model: AnoPLe) -> None:
    detector = model.detector()
    names = {name for name, _ in detector.named_parameters()} | {name for name, _ in detector.named_buffers()}
    assert not any(word in name for name in names for word in ("text_projection", "token_embedding", "visual_to_text"))
    assert not any(parameter.requires_grad for parameter in detector.parameters())
    assert not hasattr(detector, "loss")
    visual = sum(parameter.numel() for parameter in model.model.clip.visual.parameters())
    decoder = sum(parameter.numel() for parameter in model.model.decoder.parameters())
    assert sum(parameter.numel() for parameter in detector.parameters()) == visual + decoder
    assert model.model.clip.text is not None  # the model itself can go on training
    assert any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.export
def test_torch_inferencer_predicts_as_the_engine_does(
    model: AnoPLe, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    path = make_engine(tmp_path).export(model, "torch", export_root=tmp_path)
    tensors = [*model.detector().parameters(), *model.detector().buffers()]
    assert path.stat().st_size < 1.5 * sum(tensor.nbytes for tensor in tensors)  # nothing else hangs on to it
    inferencer = TorchInferencer(path, device="cpu")
    predictions = make_engine(tmp_path).predict(model, datamodule=make_datamodule(root))
    for batch in predictions:
        for index, file in enumerate(batch.image_path):
            actual = inferencer.predict(file)
            assert_close(actual.pred_score.flatten()[0], batch.pred_score[index].flatten()[0], atol=1e-5, rtol=0)
            assert_close(actual.anomaly_map.squeeze(), batch.anomaly_map[index].squeeze(), atol=1e-5, rtol=0)
            assert torch.equal(actual.pred_label.flatten()[0], batch.pred_label[index].flatten()[0])


@pytest.mark.parametrize(
    "arguments",
    [
        {"enabled": False},
        {"decoder": "none", "coupling": "text_to_image"},
        {"view_signal": False, "coupling": "text_only"},
        {"pre_processor": False, "post_processor": False},
    ],
)
def test_every_kind_of_model_has_a_detector(arguments: dict[str, Any]) -> None:
    model = make_model(**arguments)
    model.prepare_texts("object")
    model.model.refresh_text_features()
    if model.model.memory_bank is not None:
        model.model.memory_bank.build(torch.randn(40, model.model.clip.visual.width))
    model.model.is_fitted.fill_(value=True)
    images = torch.rand(2, 3, 50, 60)
    expected, actual = model.eval()(images), model.detector().eval()(images)
    assert_close(actual.anomaly_map, expected.anomaly_map)
    assert_close(actual.pred_score, expected.pred_score)


def test_new_parts_and_thresholds_are_exported(model: AnoPLe, root: Path) -> None:
    part = torch.rand(1, 3, 80, 70)
    before = model.detector().eval()(part)
    changed = make_model()
    changed.load_state_dict(model.state_dict())
    changed.extend_memory_bank(part)
    changed.recompute_thresholds(root / "bottle" / "test" / "good")
    after = changed.detector().eval()
    assert isinstance(after.post_processor, PostProcessor)
    assert after.post_processor.image_threshold != model.post_processor.image_threshold
    assert after(part).anomaly_map.max() < before.anomaly_map.max()


PRECISE = {"INFERENCE_PRECISION_HINT": "f32"}  # some CPUs would take bfloat16


@pytest.mark.export
@pytest.mark.slow
def test_one_openvino_model_predicts_as_the_engine_does(
    model: AnoPLe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For any number of images of any size."""
    pytest.importorskip("openvino")
    pytest.importorskip("onnxscript")
    monkeypatch.chdir(tmp_path)  # anomalib's inferencer keeps a cache where it runs
    path = make_engine(tmp_path).export(model, "openvino", export_root=tmp_path)
    inferencer = OpenVINOInferencer(path, "CPU", PRECISE)
    for number, size in ((1, (90, 110)), (3, (40, 64))):
        images = torch.rand(number, 3, *size)
        expected, actual = model(images), inferencer.predict(images)
        for name in ("pred_score", "anomaly_map"):
            value = torch.from_numpy(getattr(actual, name))
            assert_close(value, getattr(expected, name), atol=1e-3, rtol=0)


@pytest.mark.export
@pytest.mark.slow
def test_an_onnx_file_is_whole_and_has_a_free_batch(model: AnoPLe, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    path = make_engine(tmp_path).export(model, "onnx", export_root=tmp_path, input_size=(90, 110))
    assert sorted(file.name for file in path.parent.iterdir()) == ["model.json", "model.onnx"]
    described = read_metadata(path)
    assert described.input_size == [90, 110]
    assert described.limits["image"] == pytest.approx(float(model.post_processor.image_threshold))
    content = onnx.load(path)
    batch, *rest = content.graph.input[0].type.tensor_type.shape.dim
    assert batch.dim_param
    assert [size.dim_value for size in rest] == [3, 90, 110]
    assert content.opset_import[0].version == 18
    sizes = [tuple(tensor.dims) for tensor in content.graph.initializer]
    vocabulary = tuple(model.model.clip.text.token_embedding.weight.shape)
    assert vocabulary not in sizes


@pytest.mark.export
@pytest.mark.slow
def test_int8_leaves_the_memory_alone_and_keeps_the_scores(model: AnoPLe, root: Path, tmp_path: Path) -> None:
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
    operations = openvino.Core().read_model(path).get_ordered_ops()
    matmuls = [operation for operation in operations if operation.get_type_name() == "MatMul"]
    quantized = [matmul for matmul in matmuls if any(_is_quantized(matmul, port) for port in (0, 1))]
    assert len(quantized) == 4 * 2  # the linear layers of the three blocks but the first
    bank = sorted(model.model.memory_bank.features.shape)
    shapes = {matmul: matmul.input(1).get_partial_shape() for matmul in matmuls}
    memory = [matmul for matmul in matmuls if shapes[matmul].is_static and sorted(shapes[matmul].to_shape()) == bank]
    assert memory
    assert not set(memory) & set(quantized)
    quantized_model = openvino.Core().compile_model(path, "CPU", PRECISE)
    datamodule = make_datamodule(root)
    datamodule.setup()
    for item in datamodule.test_data:
        images = item.image.unsqueeze(0)
        expected, actual = model(images), quantized_model(images.numpy())
        for name in ("pred_score", "anomaly_map"):
            assert_close(torch.from_numpy(actual[name]), getattr(expected, name), atol=0.05, rtol=0)


def _is_quantized(matmul: Any, port: int) -> bool:
    return matmul.input(port).get_source_output().get_node().get_type_name() == "FakeQuantize"


def test_int8_without_data_says_what_is_missing(model: AnoPLe) -> None:
    pytest.importorskip("nncf")
    with pytest.raises(ValueError, match="INT8_PTQ calibrates on images: give the data"):
        model.detector()._compress_ov_model(None, CompressionType.INT8_PTQ)
