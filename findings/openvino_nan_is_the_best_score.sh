#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# OpenVINO makes the best of all scores out of NaN, where ONNX Runtime and the reference give NaN for the same ONNX file and image.
#
# A good guess: a NaN that arises within a model comes out as NaN, by whichever runtime, so that one check of the score (`isfinite`)
# finds a model that has failed; and a NaN is never larger than a threshold.
# Seen: a model standardizes each image by its own deviation, which is 0 for a picture without light. ONNX Runtime and the reference say
# NaN. OpenVINO says 0.0: `ReduceMax` leaves NaN out and starts at the least float, `Clip` and `Relu` turn a NaN into their lower bound, and
# the check finds nothing. `Greater` is true for NaN, so that a mask out of the same map marks every pixel, beside the best score there is.
# Who is hurt: a line whose lamp or cable fails: parts go on to be judged, all of them good. The file that was tested in one runtime fails
# loudly there, and silently in the other.
# What helps: refuse images without contrast before the model, or add a small number to the divisor in the graph.
# openvino 2026.4.1 (CPU, x86-64), onnxruntime 1.32.0, onnx 1.23.2, numpy 2.4.6.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/environment"
"$work/environment/bin/pip" install --quiet --disable-pip-version-check \
    openvino==2026.4.1 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$work"
"$work/environment/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
import openvino
from onnx.parser import parse_model
from onnx.reference import ReferenceEvaluator

print("openvino", openvino.__version__, "onnxruntime", onnxruntime.__version__, "onnx", onnx.__version__)
model = parse_model("""<ir_version: 9, opset_import: ["": 18]>
judge (float[1, 1, 32, 32] image) => (float[1, 1, 32, 32] map, bool[1, 1, 32, 32] mask, float[1, 1, 1, 1] peak, float[1, 1, 1, 1] score)
<int64[2] axes = {2, 3}, float low = {0.0}, float high = {1.0}, float limit = {4.0}, float range = {8.0}> {
    mean = ReduceMean(image, axes)
    centered = Sub(image, mean)
    square = Mul(centered, centered)
    variance = ReduceMean(square, axes)
    deviation = Sqrt(variance)
    map = Div(centered, deviation)
    mask = Greater(map, limit)
    peak = ReduceMax(map, axes)
    scaled = Div(peak, range)
    score = Clip(scaled, low, high)
}""")
onnx.checker.check_model(model)
names = [output.name for output in model.graph.output]
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
core = openvino.Core()
compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
runtimes = {
    "reference": lambda image: ReferenceEvaluator(model).run(None, {"image": image}),
    "ONNX Runtime": lambda image: session.run(None, {"image": image}),
    "OpenVINO": lambda image: [compiled(image)[name] for name in names],
}
part = np.random.default_rng(0).normal(0.5, 0.05, (1, 1, 32, 32)).astype(np.float32)
part[..., 8, 8] = 1.0
found = {}
for title, image in (("a part with a bright dot", part), ("no light", np.zeros_like(part))):
    for runtime, run in runtimes.items():
        result = {name: np.asarray(value) for name, value in zip(names, run(image), strict=True)}
        found[title, runtime] = result
        print(
            f"{title}, {runtime}: {int(np.isnan(result['map']).sum())} NaN in the map, {int(result['mask'].sum())} pixels in the mask,"
            f" score {result['score'].item():.3f}"
        )
for runtime in runtimes:
    assert abs(found["a part with a bright dot", runtime]["score"].item() - found["a part with a bright dot", "reference"]["score"].item()) < 1e-4
    dark = found["no light", runtime]
    assert np.isnan(dark["map"]).all()
    assert dark["score"].item() == 0 and dark["mask"].all() if runtime == "OpenVINO" else np.isnan(dark["score"]) and not dark["mask"].any()
PYTHON
