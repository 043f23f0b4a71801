#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# OpenVINO: two threads whose first inferences meet wait for each other for ever.
#
# Guess: a compiled model with two streams and a request per thread takes `request.infer(array)` from two threads at once; that is what
# requests and streams are for.
# Seen: in about a third of the processes neither thread returns. One is in the first setup of the conversions of NumPy arrays
# (`pybind11::gil_safe_call_once_and_store`, within the guard of a static variable) and waits for Python's lock; the other has the lock
# and waits for the guard. The whole process stands still, without an error and without load. It goes on where one thread has
# converted an array before.
# Who is hurt: every program that judges images by OpenVINO in a pool of threads, at its very start, now and then.
# What helps: `openvino.Tensor(numpy.zeros(1, numpy.float32)).data` once, before the threads.
# openvino 2026.4.1, Linux, CPython 3.11, two cores.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/environment"
"$work/environment/bin/pip" install --quiet --disable-pip-version-check openvino==2026.4.1 numpy==2.4.6
cat > "$work/two.py" <<'PYTHON'
import sys
import threading

import numpy as np
import openvino
from openvino import opset13

images = opset13.parameter([1, 3, -1, -1], np.float32)
model = openvino.Model([opset13.relu(images)], [images], "relu")
compiled = openvino.Core().compile_model(model, "CPU", {"NUM_STREAMS": 2, "INFERENCE_NUM_THREADS": 2})
requests = [compiled.create_infer_request() for _ in range(2)]
if sys.argv[1] == "prepared":
    openvino.Tensor(np.zeros(1, np.float32)).data
meeting = threading.Barrier(2)


def infer(request):
    array = np.zeros((1, 3, 8, 8), np.float32)
    meeting.wait()
    request.infer(array)


threads = [threading.Thread(target=infer, args=[request]) for request in requests]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
PYTHON
for kind in plain prepared; do
    hung=0
    for _ in $(seq 20); do
        code=0
        timeout -s KILL 10 "$work/environment/bin/python" "$work/two.py" "$kind" 2>/dev/null || code=$?
        [ "$code" = 0 ] || [ "$code" = 137 ]
        [ "$code" = 0 ] || hung=$((hung + 1))
    done
    echo "$kind: $hung of 20 processes hang"
    if [ "$kind" = plain ]; then [ "$hung" -gt 0 ]; else [ "$hung" = 0 ]; fi
done
