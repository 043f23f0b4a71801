# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Write a model as a file for another runtime: OpenVINO, ONNX or torch.

Usage:
    anople export --model bottle.ckpt --type openvino --output exported --images DIR
"""

import shutil
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace

from .check import compare, example_images
from .terminal import FINE


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument("--model", type=Path, required=True, help="checkpoint of anople teach or anomalib train")
    parser.add_argument("--type", type=Literal["openvino", "onnx", "torch"], default="openvino", help="kind of file")
    parser.add_argument("--output", type=Path, default=Path("exported"), help="folder of the files")
    parser.add_argument(
        "--input_size", type=tuple[int, int] | None, default=None, help="height and width of its images; any by default"
    )
    parser.add_argument(
        "--images", type=Path | None, default=None, help="folder of images by which the export is compared"
    )


def run(options: Namespace) -> int:
    """Export a checkpoint; a file whose verdicts differ from the checkpoint's is not kept."""
    from anople_anomalib.anople import AnoPLe

    model = AnoPLe.load_from_checkpoint(options.model).cpu().eval()
    if options.type == "torch":
        print(model.to_torch(options.output))
        return FINE
    write = model.to_onnx if options.type == "onnx" else model.to_openvino
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.output) as folder:
        file = Path(write(folder, input_size=options.input_size))
        if options.input_size is None:
            print(_compared(options, file))
        written = file.relative_to(folder)
        shutil.copytree(folder, options.output, dirs_exist_ok=True)
    print(options.output / written)
    return FINE


def _compared(options: Namespace, file: Path) -> str:
    """Return how far an export and its checkpoint are apart.

    Raises:
        ValueError: If a verdict differs.
    """
    from anople_anomalib.deployment.metadata import read_metadata

    shape = read_metadata(file).roi_shape
    with nullcontext(options.images) if options.images else example_images(shape) as images:
        found = compare(options.model, file, [images])
    if found["verdicts_that_differ"]:
        path, (expected, other) = next(iter(found["verdicts_that_differ"].items()))
        msg = f"The export calls '{path}' {other}, its checkpoint {expected}: it was not kept."
        raise ValueError(msg)
    difference, count = found["largest_relative_score_difference"], found["images"]
    return f"Export and checkpoint agree on {count} images; scores differ by {difference:.1e} at most."
