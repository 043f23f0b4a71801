#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# anomalib exports to ONNX with `compression_type=INT8_PTQ`, ends well, and the file is the same float32 as without it.
#
# Guess: a compression is applied to whatever is exported, or refused where it cannot be: `anomalib export --export_type onnx
# --compression_type INT8_PTQ` is taken, and names the calibration data.
# Seen: `Engine.export` hands compression, datamodule and metric to the OpenVINO export alone; for ONNX and torch they are dropped without
# a word. The ONNX file has no quantization node, float32 weights and the size of the one without compression; so has FP16's.
# Who is hurt: those who size a small station by the option they gave, or compare INT8 of two runtimes: one of them is float32. Export to
# OpenVINO, or quantize the ONNX file by ONNX Runtime, and look for QuantizeLinear in what was written.
# anomalib 2.7.0 (engine/engine.py, Engine.export), torch 2.14.1, onnx 1.23.2.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/environment"
"$work/environment/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 torchvision==0.29.1
"$work/environment/bin/pip" install --quiet --disable-pip-version-check anomalib==2.7.0 onnx==1.23.2 onnxscript==0.7.2
cd "$work"
"$work/environment/bin/python" -W ignore - 2> "$work/log.txt" <<'PYTHON' || { tail -20 "$work/log.txt"; exit 1; }
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
from anomalib.data import Folder
from anomalib.deploy import CompressionType, ExportType
from anomalib.engine import Engine
from anomalib.models import Padim
from PIL import Image

print("anomalib", version("anomalib"), "torch", version("torch"), "onnx", version("onnx"))
draw = np.random.default_rng(0)
Path("parts/good").mkdir(parents=True)
for number in range(12):
    Image.fromarray(draw.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(f"parts/good/{number}.png")
splits = {"test_split_mode": "synthetic", "val_split_mode": "same_as_test"}
data = Folder(name="parts", root="parts", normal_dir="good", num_workers=0, train_batch_size=4, **splits)
model = Padim(backbone="resnet18", layers=["layer1"], pre_trained=False, n_features=10)
engine = Engine(accelerator="cpu", logger=False, enable_progress_bar=False)
engine.fit(model, datamodule=data)

sizes = {}
for compression in (None, CompressionType.FP16, CompressionType.INT8_PTQ):
    asked = "none" if compression is None else compression.name
    path = engine.export(
        model, ExportType.ONNX, export_root=asked, datamodule=data, compression_type=compression
    )
    graph = onnx.load(path).graph
    weights = Counter(onnx.TensorProto.DataType.Name(each.data_type) for each in graph.initializer)
    quantizing = [node.op_type for node in graph.node if "Quantize" in node.op_type]
    sizes[asked] = sum(file.stat().st_size for file in Path(path).parent.iterdir())
    print(f"asked for {asked}: {sizes[asked]} bytes, weights {dict(weights)}, nodes that quantize: {quantizing}")
    assert not quantizing and "INT8" not in weights and "FLOAT16" not in weights
assert max(sizes.values()) < 1.01 * min(sizes.values())
PYTHON
