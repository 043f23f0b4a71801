#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# OpenVINO reads an ONNX file whose Resize asks for antialiasing, and shrinks images without it: no error, no warning.
#
# Guess: `antialias=1` of ONNX's Resize (operator set 18) is either done or refused: the
# exporter of torch writes it, ONNX Runtime and ONNX's own reference do it, and give Pillow's pixels to the last bits.
# Seen: OpenVINO compiles the file and runs it; shrunk 3-fold, noise differs by a half of 1 from the other two, a bright line by a fifth. The
# result is that of the same file with `antialias=0`. Where an image is not shrunk all agree in mode linear, so that a test at
# the model's own size shows nothing; in mode cubic it differs there, too, with the `cubic_coeff_a` of -0.5 that antialiasing has in Pillow.
# Who is hurt: those who put the resizing into an exported model, export once and compare the two runtimes never: fine defects and their
# scores change with the runtime. Write the resizing as matrix products, or resize before the model.
# openvino 2026.4.1, onnx 1.23.2, onnxruntime 1.32.0, pillow 12.3.0.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/environment"
"$work/environment/bin/pip" install --quiet --disable-pip-version-check \
    openvino==2026.4.1 onnx==1.23.2 onnxruntime==1.32.0 pillow==12.3.0 numpy==2.4.6
cd "$work"
"$work/environment/bin/python" -W ignore - <<'PYTHON'
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import PIL
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from PIL import Image

print("openvino", openvino.__version__, "onnx", onnx.__version__, "onnxruntime", onnxruntime.__version__, "pillow", PIL.__version__)
CPU = ["CPUExecutionProvider"]
KERNELS = {"linear": Image.Resampling.BILINEAR, "cubic": Image.Resampling.BICUBIC}


def resizing(mode: str, side: int, antialias: int) -> onnx.ModelProto:
    """A graph of one Resize, as torch's exporter writes it for `interpolate(..., antialias=True)`."""
    settings = {"mode": mode, "antialias": antialias, "exclude_outside": antialias, "coordinate_transformation_mode": "half_pixel"}
    if mode == "cubic":
        settings["cubic_coeff_a"] = -0.5
    node = helper.make_node("Resize", ["image", "", "", "sizes"], ["resized"], **settings)
    graph = helper.make_graph(
        [node],
        "resizing",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, "height", "width"])],
        [helper.make_tensor_value_info("resized", TensorProto.FLOAT, [1, 1, side, side])],
        [helper.make_tensor("sizes", TensorProto.INT64, [4], [1, 1, side, side])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    onnx.checker.check_model(model)
    return model


def by_openvino(model: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    """What OpenVINO makes of the file, in float32."""
    Path("model.onnx").write_bytes(model.SerializeToString())
    return openvino.Core().compile_model("model.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(image)[0]


noise, line = np.random.default_rng(0).random((1, 1, 30, 30), dtype=np.float32), np.zeros((1, 1, 30, 30), np.float32)
line[..., 15] = 1
for mode in KERNELS:
    for name, image in (("noise", noise), ("a line", line)):
        model = resizing(mode, 10, 1)
        pillow = np.asarray(Image.fromarray(image[0, 0]).resize((10, 10), KERNELS[mode]))
        found = {
            "ONNX Runtime": onnxruntime.InferenceSession(model.SerializeToString(), providers=CPU).run(None, {"image": image})[0],
            "reference": ReferenceEvaluator(model).run(None, {"image": image})[0],
            "OpenVINO": by_openvino(model, image),
        }
        away = {program: float(np.abs(result[0, 0] - pillow).max()) for program, result in found.items()}
        without = float(np.abs(found["OpenVINO"] - by_openvino(resizing(mode, 10, 0), image)).max())
        print(f"{mode}, {name}, 30 to 10 pixels, from Pillow:", {program: round(value, 6) for program, value in away.items()})
        print(f"  OpenVINO from its own result with antialias=0: {without:.6f}")
        assert away["ONNX Runtime"] < 1e-5 and away["reference"] < 1e-5
        assert away["OpenVINO"] > 0.1 and without < 1e-5

for mode in KERNELS:
    pillow = np.asarray(Image.fromarray(noise[0, 0]).resize((45, 45), KERNELS[mode]))
    away = float(np.abs(by_openvino(resizing(mode, 45, 1), noise)[0, 0] - pillow).max())
    print(f"{mode}, 30 to 45 pixels, OpenVINO from Pillow: {away:.6f}")
    assert (away < 1e-5) == (mode == "linear")
PYTHON
