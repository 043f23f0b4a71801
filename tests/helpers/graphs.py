# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""An exported graph that takes no training: its score is the mean brightness of an image, its threshold one half."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from anople_anomalib.deployment.metadata import ExportMetadata, read_metadata, write_metadata
from anople_anomalib.utils.files import digest_of


def brightness_model(folder: Path, gain: float = 1.0) -> Path:
    """Write the graph and its metadata.

    Args:
        folder: Folder of both files, made if missing.
        gain: Factor of the score, for a graph that judges otherwise.

    Returns:
        File of the graph.
    """
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    helper, kinds = onnx.helper, onnx.TensorProto
    nodes = [
        helper.make_node("ReduceMean", ["images", "axes"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "gain"], ["pred_score"]),
        helper.make_node("Greater", ["pred_score", "limit"], ["pred_label"]),
        helper.make_node("ReduceMean", ["images", "channels"], ["anomaly_map"], keepdims=1),
        helper.make_node("Greater", ["anomaly_map", "limit"], ["pred_mask"]),
    ]
    constants = [
        helper.make_tensor("axes", kinds.INT64, [3], [1, 2, 3]),
        helper.make_tensor("channels", kinds.INT64, [1], [1]),
        helper.make_tensor("gain", kinds.FLOAT, [1], [gain]),
        helper.make_tensor("limit", kinds.FLOAT, [1], [0.5]),
    ]
    sizes = ["batch", 1, "height", "width"]
    outputs = [
        helper.make_tensor_value_info("pred_score", kinds.FLOAT, ["batch"]),
        helper.make_tensor_value_info("pred_label", kinds.BOOL, ["batch"]),
        helper.make_tensor_value_info("anomaly_map", kinds.FLOAT, sizes),
        helper.make_tensor_value_info("pred_mask", kinds.BOOL, sizes),
    ]
    images = helper.make_tensor_value_info("images", kinds.FLOAT, ["batch", 3, "height", "width"])
    graph = helper.make_graph(nodes, "brightness", [images], outputs, constants)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), file)
    metadata = ExportMetadata(
        model_id="brightness",
        files={file.name: digest_of(file)},
        thresholds={"image": 0.5, "pixel": 0.5},
        limits={"image": 0.5, "pixel": 0.5},
        look=None,
        good=[0.2, 0.3],
        normalized=False,
        class_names=["lamp"],
        image_size=[8, 8],
        input_size=None,
        roi_shape=None,
        known_images=[],
        compression=None,
        versions={},
    )
    write_metadata(metadata, file)
    return file


def described(graph: Path, folder: Path, **changes: Any) -> Path:
    """Copy a graph into a folder, with other metadata: to export another one takes seconds."""
    metadata = read_metadata(graph)
    for name in metadata.files:
        shutil.copy(graph.with_name(name), folder)
    write_metadata(replace(metadata, **changes), folder / graph.name)
    return folder / graph.name
