# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Models as files for another runtime, and how far these are from their checkpoints."""

import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import ArgumentParser, Namespace

from anople_anomalib.utils.files import make_folder

from .judge import judge_series
from .models import load_model
from .terminal import FINE, MEGAPIXELS, NOT_MET, UNJUDGED, UsageError, add_shared, allow_pixels

if TYPE_CHECKING:
    from anople_anomalib.anople import AnoPLe

_EXAMPLES = 8


def export_options(parser: ArgumentParser) -> None:
    """Add the options of ``export``."""
    add_shared(parser, "model")
    parser.add_argument("--type", type=Literal["openvino", "onnx", "torch"], default="openvino", help="kind of file")
    parser.add_argument("--output", type=Path, default=Path("exported"), help="folder of the files")
    size = tuple[int, int] | None
    parser.add_argument("--input_size", type=size, default=None, help="height and width of its images; any by default")
    smaller = "FP16, or INT8_PTQ, which calibrates on --images; OpenVINO alone"
    parser.add_argument("--compression", type=Literal["FP16", "INT8_PTQ"] | None, default=None, help=smaller)
    parser.add_argument("--images", type=Path | None, default=None, help="folder of images that it is compared by")


def export(options: Namespace) -> int:
    """Write a model as a file for another runtime: OpenVINO, ONNX or torch.

    A file whose verdicts differ from the checkpoint's is not kept.
    """
    if options.input_size is not None and min(options.input_size) < 1:
        msg = f"--input_size must be a height and a width of 1 or more, got {list(options.input_size)}."
        raise UsageError(msg)
    if options.compression is not None and options.type != "openvino":
        msg = f"--compression is OpenVINO's: leave it out, or --type {options.type}."
        raise UsageError(msg)
    if options.compression == "INT8_PTQ" and options.images is None:
        msg = "--compression INT8_PTQ calibrates on images: give some of good parts by --images DIR."
        raise UsageError(msg)
    model = load_model(options.model, visualizer=False).cpu().eval()
    make_folder(options.output)
    if options.type == "torch":
        print(model.to_torch(options.output))
        return FINE
    with tempfile.TemporaryDirectory(dir=options.output) as folder:
        file = _written(model, folder, options)
        print(_compared(model, file, options.images))
        written = file.relative_to(folder)
        shutil.copytree(folder, options.output, dirs_exist_ok=True)
    print(options.output / written)
    return FINE


def _written(model: "AnoPLe", folder: str, options: Namespace) -> Path:
    """Return the file that a model is written to."""
    size = {"input_size": options.input_size}
    if options.type == "onnx":
        return Path(model.to_onnx(folder, **size))
    from anomalib.deploy import CompressionType

    from anople_anomalib.data.parts import Parts

    compression = None if options.compression is None else CompressionType[options.compression]
    data = None  # INT8 alone calibrates
    if compression is CompressionType.INT8_PTQ:
        data = Parts("/", "part", options.images.absolute(), val_split_mode="none")
    return Path(model.to_openvino(folder, **size, compression_type=compression, datamodule=data))


def _compared(model: "AnoPLe", file: Path, given: Path | None) -> str:
    """Return how far an export and its checkpoint are apart; another verdict is an error."""
    from anople_anomalib.deployment.metadata import read_metadata

    metadata = read_metadata(file)
    shape = metadata.input_size or metadata.roi_shape
    with nullcontext(given) if given else example_images(shape) as images:
        found = compare(model, file, [images])
    if found["verdicts_that_differ"]:
        path, (expected, other) = next(iter(found["verdicts_that_differ"].items()))
        msg = f"The export calls '{path}' {other}, its checkpoint {expected}: it was not kept."
        raise ValueError(msg)
    difference, count = found["largest_relative_score_difference"], found["images"]
    return f"Export and checkpoint agree on {count} images; scores differ by {difference:.1e} at most."


def check_options(parser: ArgumentParser) -> None:
    """Add the options of ``check``."""
    parser.add_argument("export", type=Path, help="exported model, a file .onnx or .xml")
    parser.add_argument("--model", type=Path, required=True, help="the checkpoint that was exported")
    parser.add_argument("--images", type=Path, nargs="+", required=True, help="folders of images, or files")


def check(options: Namespace) -> int:
    """Compare an exported model with its checkpoint on your own images: scores, verdicts, time.

    Printed as JSON; the exit code is 4 where a verdict differs or the export is of another model, or of another
    state of it, and 3 where an image was not compared.
    """
    allow_pixels(MEGAPIXELS)
    found = compare(load_model(options.model, visualizer=False), options.export, options.images)
    print(json.dumps(found, indent=2, ensure_ascii=False))
    if found["verdicts_that_differ"] or not found["same_model"]:
        return NOT_MET
    return UNJUDGED if found["not_compared"] else FINE


def compare(model: "AnoPLe", export: Path, images: Sequence[Path]) -> dict[str, Any]:
    """Judge images, of files and folders, by a model and by its export.

    Returns:
        Number of images judged by both, the largest relative difference of their scores, the images whose verdicts
        differ with both verdicts, those not compared, whether the export is of this state of the model, and the median
        milliseconds an image of both, reading included.

    Raises:
        ValueError: If no image could be judged.
    """
    from anople_anomalib.data.image_series import ImageList
    from anople_anomalib.deployment.runtime import ExportedModel
    from anople_anomalib.deployment.runtime import judge as judge_by_export
    from anople_anomalib.deployment.table import rows_of
    from anople_anomalib.utils.files import image_files
    from anople_anomalib.utils.scoped import logged_from

    graph, given = ExportedModel(export), [path.absolute() for path in image_files(images)]  # as rows name them
    files = given
    if (size := graph.metadata.input_size) is not None:
        files = [file for file in files if _has_size(file, size)]
        if not files:
            msg = f"No image has the height and width of this export, {size[0]}x{size[1]}: give some (--images)."
            raise ValueError(msg)
    exported = {row["path"]: row for row in judge_by_export(files, graph)}
    tables = "anople_anomalib.deployment.predictions"  # would tell of one in a folder that does not stay
    with tempfile.TemporaryDirectory() as folder, logged_from(logging.WARNING, tables):
        judge_series(model, ImageList(files, None), Namespace(output=Path(folder), accelerator="cpu"))
        pairs = [(row, exported[row["path"]]) for row in rows_of(Path(folder) / "predictions.jsonl")]
    judged = [(own, other) for own, other in pairs if own["score"] is not None and other["score"] is not None]
    if not judged:
        msg = f"None of the {len(files)} images could be judged by both: give images of the parts (--images)."
        raise ValueError(msg)
    known = {own["path"] for own, _ in judged}
    verdicts = {own["path"]: [own["verdict"], other["verdict"]] for own, other in pairs}
    return {
        "images": len(judged),
        "largest_relative_score_difference": max(
            abs(other["score"] - own["score"]) / max(own["score"], 1e-12) for own, other in judged
        ),
        "verdicts_that_differ": {path: pair for path, pair in verdicts.items() if pair[0] != pair[1]},
        "not_compared": [str(file) for file in given if str(file) not in known],
        "same_model": graph.metadata.model_id == model.model_id(),
        "milliseconds_checkpoint": round(1000 * median(own["seconds"] for own, _ in judged), 2),
        "milliseconds_export": round(1000 * median(other["seconds"] for _, other in judged), 2),
    }


def _has_size(file: Path, size: Sequence[int]) -> bool:
    """Return whether an image has a height and width; one that cannot be read has none."""
    from anople_anomalib.data.image_reading import turned_size

    with suppress(OSError, ValueError):
        return list(turned_size(file)[::-1]) == list(size)
    return False


@contextmanager
def example_images(shape: Sequence[int] | None = None) -> Iterator[Path]:
    """Yield a folder of images to compare an export by where the user gives none: clouds of several sizes and colors.

    They are no parts, so that they say how far the numbers of two runtimes are apart, and no more. Where only one shape
    is judged, theirs is this height and width.
    """
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(_EXAMPLES):
            cells = random.integers(0, 256, (4 + 3 * number, 5 + 2 * number, 3), dtype=np.uint8)
            height, width = shape or (260 + 40 * number, 200 + 60 * number)
            Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC).save(
                Path(folder) / f"{number}.png"
            )
        yield Path(folder)
