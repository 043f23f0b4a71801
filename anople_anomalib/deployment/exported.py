# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""An exported model in ONNX Runtime or OpenVINO, with numpy and Pillow alone.

Nothing here imports torch, Lightning or anomalib. The graph resizes and judges, see :mod:`.metadata`: pixels, scores
and verdicts are those of the checkpoint.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import ImageOps

from anople_anomalib.utils.files import EXPORTED, require_shape
from anople_anomalib.utils.image_heads import SIXTEEN_BITS, dark_bits, deep_white, eight_bits, opened

from .metadata import read_metadata
from .painting import paint, save
from .table import Judgment

_Outputs = Mapping[str, NDArray[Any]]
_Run = Callable[[NDArray[np.float32]], _Outputs]


class ExportedModel:
    """An exported model that is ready to judge.

    Args:
        path: The graph, ``.onnx`` or ``.xml``, with its metadata beside it.
        at_once: Number of threads that may call :meth:`judge` at the same time, between which the cores are divided.

    Raises:
        FileNotFoundError: If the graph or its metadata is missing.
        ImportError: If no runtime for it is installed.
        ValueError: If the metadata was changed, is that of another graph, or the graph is of another kind.
    """

    def __init__(self, path: str | Path, at_once: int = 1) -> None:
        path, self.at_once = Path(path), at_once
        if path.suffix not in EXPORTED:
            msg = f"An exported model is a file .onnx or .xml, got '{path}': write one by anople export."
            raise ValueError(msg)
        self.path, self.metadata = path, read_metadata(path)
        self._run = (_onnx if path.suffix == ".onnx" else _openvino)(path, at_once)

    def judge(self, pixels: NDArray[np.uint8], picture: Path | None = None) -> dict[str, Any]:
        """Judge an image.

        Args:
            pixels: Upright, in color, shape ``(H, W, 3)``.
            picture: File of a heat map to draw.

        Returns:
            Verdict, raw and normalized score, threshold, regions and error, as in a row of ``predictions.csv``.

        Raises:
            ValueError: If the graph takes images of another size, or its region of interest is for another shape.
        """
        height, width = pixels.shape[:2]
        if self.metadata.input_size not in (None, [height, width]):
            wanted = "x".join(map(str, self.metadata.input_size))
            msg = f"This model takes images of height and width {wanted}, got {height}x{width}: export it for any size."
            raise ValueError(msg)
        if self.metadata.roi_shape is not None:
            require_shape((height, width), self.metadata.roi_shape)
        judgment = self._judgment(self._run(scaled(pixels)[None]))
        if picture is not None:
            score = judgment.normalized if self.metadata.normalized else judgment.score
            save(paint(pixels, score, judgment.anomalous, judgment.heat, judgment.mask), picture)
        return judgment.row((width, height), remedy="set one by anople threshold and export the model again")

    def _judgment(self, found: _Outputs) -> Judgment:
        """Return the judgment that the graph's outputs make."""
        described, score = self.metadata, float(found["pred_score"].reshape(-1)[0])
        label, mask, heat = (found.get(name) for name in ("pred_label", "pred_mask", "anomaly_map"))
        return Judgment(
            self._raw(score),
            score if described.normalized else None,
            described.limits["image"],
            None if label is None else bool(label.reshape(-1)[0]),
            None if mask is None else mask.reshape(mask.shape[-2:]).astype(bool),
            None if heat is None else heat.reshape(heat.shape[-2:]),
            described.look,
            described.good,
        )

    def _raw(self, normalized: float) -> float:
        """Return the raw score x of x / (x + threshold)."""
        threshold = self.metadata.thresholds["image"]
        if not self.metadata.normalized or threshold is None:
            return normalized
        return threshold * normalized / max(1 - normalized, 1e-7)


def read_pixels(file: str | Path | IO[bytes]) -> NDArray[np.uint8]:
    """Read an image, from a path or an open file, upright and in color, shape ``(H, W, 3)``.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it has more than 8 bits per channel and is not a gray PNG or TIFF file that uses them: Pillow
            would cut the most important ones off.
    """
    with opened(file) as image:
        white, upright = deep_white(image), ImageOps.exif_transpose(image)
        if white is None:
            return np.asarray(upright.convert("RGB"))
        values = np.asarray(upright)
        dark = white == SIXTEEN_BITS and dark_bits(values.max())
        if image.format not in ("PNG", "TIFF") or values.dtype == np.uint8 or dark:
            name = f" '{file}'" if isinstance(file, str | Path) else ""
            use = f", and uses {dark} of them" if dark else ""
            msg = f"The image{name} has more than 8 bits per channel{use}: convert it by anople convert."
            raise ValueError(msg)
        return np.repeat(eight_bits(values, white)[..., None], 3, axis=2)


def scaled(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return an image of shape ``(H, W, 3)`` as values in [0, 1], shape ``(3, H, W)``."""
    values = pixels.transpose(2, 0, 1).astype(np.float32, order="C")
    values *= np.float32(1 / 255)
    return values


def cores() -> int:
    """Return the number of cores that this process may use: ``OMP_NUM_THREADS``, or all that it is given."""
    if given := int(os.environ.get("OMP_NUM_THREADS", "0")):
        return given
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _onnx(path: Path, at_once: int) -> _Run:
    """Return a function that runs an ONNX graph, in ONNX Runtime or, without it, in OpenVINO."""
    try:
        import onnxruntime
    except ImportError:
        return _openvino(path, at_once)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting threads would burn cores
    options.intra_op_num_threads = max(1, cores() // at_once)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    source, names = session.get_inputs()[0].name, [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(names, {source: images}), strict=True))


def _openvino(path: Path, at_once: int) -> _Run:
    """Return a function that runs a graph in OpenVINO, in full precision whatever the processor prefers.

    Images of the first one's size are judged by a graph of that size, in four fifths of the time, others by one of any.
    """
    try:
        import openvino
    except ImportError as error:
        msg = f"'{path}' needs a runtime: pip install openvino" + (
            " or onnxruntime." if path.suffix == ".onnx" else "."
        )
        raise ImportError(msg) from error
    config = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": at_once, "INFERENCE_NUM_THREADS": cores()}
    core, lock = openvino.Core(), Lock()
    graph = core.read_model(path)
    # sets up its conversions of arrays: two threads whose first ones meet would wait for each other for ever
    openvino.Tensor(np.zeros(1, np.float32)).data  # noqa: B018
    requests: dict[tuple[int, ...] | None, SimpleQueue[Any]] = {}  # by shape; one thread uses a request at a time

    def requests_for(shape: tuple[int, ...]) -> SimpleQueue[Any]:
        """Return the requests of the graph for images of a shape."""
        with lock:
            place = shape if next(iter(requests), shape) == shape else None
            if place not in requests:
                sized = graph.clone()
                if place is not None:
                    sized.reshape(list(place))
                model, free = core.compile_model(sized, "CPU", config), SimpleQueue[Any]()
                for _ in range(at_once):
                    free.put(model.create_infer_request())
                requests[place] = free
            return requests[place]

    def run(images: NDArray[np.float32]) -> _Outputs:
        """Run the graph."""
        free = requests_for(images.shape)
        request = free.get()
        try:
            return {output.any_name: value for output, value in request.infer(images).items()}
        finally:
            free.put(request)

    return run
