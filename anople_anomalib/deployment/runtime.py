# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Exported models judge images with numpy, Pillow and one runtime alone: ONNX Runtime or OpenVINO.

Nothing here imports torch, Lightning or anomalib, so that a small computer at a line starts in a second. The graph
resizes and judges, see :mod:`.metadata`: pixels, scores and verdicts are those of the checkpoint. The distribution
``anople-runtime`` (``runtime/pyproject.toml``) has this module and those it needs.

Usage:
    anople-runtime FOLDER --model exported/weights/onnx/model.onnx
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from anople_anomalib.utils.files import EXPORTED, READ_ERRORS, is_deep, is_hidden, is_picture, one_line, require_shape

from .metadata import read_metadata
from .outbox import delivered
from .table import COLUMNS, ERROR, OK, Judgment, TableWriter, line_of, message_of, stamped, unjudged

FINE, FLAGGED, UNJUDGED = 0, 1, 3
"""Exit codes: every image has a verdict, some are not OK where that was asked for, some have none."""

_Outputs = Mapping[str, NDArray[Any]]
_Run = Callable[[NDArray[np.float32]], _Outputs]


class ExportedModel:
    """An exported model that is ready to judge.

    Args:
        path: The graph, ``.onnx`` or ``.xml``, with its metadata beside it.

    Raises:
        FileNotFoundError: If the graph or its metadata is missing.
        ImportError: If no runtime for it is installed.
        ValueError: If the metadata was changed, is that of another graph, or the graph is of another kind.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        if path.suffix not in EXPORTED:
            msg = f"An exported model is a file .onnx or .xml, got '{path}': write one by anople export."
            raise ValueError(msg)
        self.metadata = read_metadata(path)
        self._run = _onnx(path) if path.suffix == ".onnx" else _openvino(path)

    def judge(self, pixels: NDArray[np.uint8]) -> dict[str, Any]:
        """Judge an image.

        Args:
            pixels: Upright, in color, shape ``(H, W, 3)``.

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
        batch = pixels.transpose(2, 0, 1)[None].astype(np.float32) * np.float32(1 / 255)
        return self._judgment(self._run(np.ascontiguousarray(batch)), (width, height))

    def _judgment(self, found: _Outputs, size: tuple[int, int]) -> dict[str, Any]:
        """Return the part of a row that the graph's outputs make."""
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
        ).row(size, remedy="set one by anople threshold and export the model again")

    def _raw(self, normalized: float) -> float:
        """Return the raw score x of x / (x + threshold)."""
        threshold = self.metadata.thresholds["image"]
        if not self.metadata.normalized or threshold is None:
            return normalized
        return threshold * normalized / max(1 - normalized, 1e-7)


def judge(paths: Iterable[str | Path], model: str | Path | ExportedModel) -> Iterator[dict[str, Any]]:
    """Judge image files.

    Args:
        paths: Files, and folders with everything below them.
        model: An exported model, or its file.

    Yields:
        A row per image with the keys of :data:`.table.COLUMNS`; one that cannot be judged has the verdict ``"ERROR"``.

    Raises:
        FileNotFoundError: If a file or folder, the model or its metadata is missing.
        ValueError: If the model is refused, see :class:`ExportedModel`.
    """
    exported = model if isinstance(model, ExportedModel) else ExportedModel(model)
    for path in image_files(paths):
        yield row_of(exported, str(path), partial(read_pixels, path), _state_of(path))


def row_of(
    model: ExportedModel, path: str, read: Callable[[], NDArray[np.uint8]], file: Mapping[str, int]
) -> dict[str, Any]:
    """Judge an image, and return its row; whatever is wrong with the image is the error in it.

    Args:
        model: The exported model.
        path: Name of the image.
        read: Returns its pixels as :func:`read_pixels` does, or raises as that does.
        file: Columns on its file.
    """
    started, names = time.perf_counter(), model.metadata.class_names
    row: dict[str, Any] = {**dict.fromkeys(COLUMNS), "path": path, "category": names[0] if len(names) == 1 else ""}
    row |= file
    try:
        row |= model.judge(read())
    except (*READ_ERRORS, SyntaxError, Image.DecompressionBombError) as error:
        row |= unjudged(one_line(error))
    row["seconds"] = round(time.perf_counter() - started, 4)
    return stamped(row, model.metadata.model_id)


def _state_of(path: Path) -> dict[str, int]:
    """Return the columns on a file; none for one that is gone, which reading tells."""
    with suppress(OSError):
        state = path.stat()
        return {"modified": state.st_mtime_ns, "bytes": state.st_size}
    return {}


def write_verdicts(
    images: Iterable[str | Path],
    model: str | Path,
    output: Path,
    signals: Iterable[str] = (),
    *,
    fail_on_flag: bool = False,
) -> int:
    """Judge images as :func:`judge` does, print a line and write a row each to a folder, and return an exit code.

    Every row also goes to the addresses of signals, see :mod:`.signals`; a wrong one is a ValueError.
    """
    exported, images = ExportedModel(model), image_files(images)
    with delivered(output, signals) as deliver, TableWriter(output) as table:
        for row in judge(images, exported):
            table.write([row])
            deliver(message_of(row))
            print(line_of(row), flush=True)
    print(table.summary())
    return exit_code(table.counts, fail_on_flag=fail_on_flag)


def exit_code(counts: Mapping[str, int], *, fail_on_flag: bool = False) -> int:
    """Return the exit code for so many rows of each verdict.

    Args:
        counts: The numbers.
        fail_on_flag: Whether a part that is NOT OK, or that somebody has to look at, is a failure.
    """
    if fail_on_flag and any(number for verdict, number in counts.items() if verdict not in (OK, ERROR)):
        return FLAGGED
    return UNJUDGED if counts.get(ERROR) else FINE


def image_files(paths: Iterable[str | Path]) -> list[Path]:
    """List image files: those given, and in folders the pictures by their ending, sorted, without hidden ones.

    Raises:
        FileNotFoundError: If one is not there.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            msg = f"There is no file or folder '{path}': check the path."
            raise FileNotFoundError(msg)
        below = sorted(path.rglob("*")) if path.is_dir() else []
        found += (
            [path]
            if path.is_file()
            else [file for file in below if is_picture(file) and file.is_file() and not is_hidden(file, path)]
        )
    return found


def read_pixels(file: str | Path | IO[bytes]) -> NDArray[np.uint8]:
    """Read an image upright and in color, shape ``(H, W, 3)``.

    Args:
        file: Its path, or an open file.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it has more than 8 bits per channel, of which Pillow would cut the most important ones off.
    """
    with Image.open(file) as image:
        if is_deep(image):
            name = f" '{file}'" if isinstance(file, str | Path) else ""
            msg = f"The image{name} has more than 8 bits per channel: convert it by anople convert."
            raise ValueError(msg)
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def _onnx(path: Path) -> _Run:
    """Return a function that runs an ONNX graph, in ONNX Runtime or, without it, in OpenVINO."""
    try:
        import onnxruntime
    except ImportError:
        return _openvino(path)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting threads would burn cores
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "0"))
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    source, names = session.get_inputs()[0].name, [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(names, {source: images}), strict=True))


def _openvino(path: Path) -> _Run:
    """Return a function that runs a graph in OpenVINO, in full precision whatever the processor prefers."""
    try:
        import openvino
    except ImportError as error:
        msg = f"'{path}' needs a runtime: pip install openvino" + (
            " or onnxruntime." if path.suffix == ".onnx" else "."
        )
        raise ImportError(msg) from error
    model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: {output.any_name: value for output, value in model(images).items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge images on the command line: a line each, and a row each in ``predictions.csv``; return an exit code."""
    parser = argparse.ArgumentParser(prog="anople-runtime", description="Judge images by an exported model.")
    parser.add_argument("images", nargs="+", type=Path, help="folders, with everything below them, or files")
    parser.add_argument("--model", type=Path, required=True, help="exported model, a file .onnx or .xml")
    parser.add_argument("--output", type=Path, default=Path("verdicts"), help="folder of the rows")
    parser.add_argument("--signal", nargs="+", default=[], help="addresses that get every row")
    parser.add_argument("--fail-on-flag", action="store_true", help="end with 1 where a part is not OK")
    options = parser.parse_args(arguments)
    try:
        return write_verdicts(
            options.images, options.model, options.output, options.signal, fail_on_flag=options.fail_on_flag
        )
    except (OSError, ValueError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
