# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Compare an exported model with its checkpoint on your own images: scores, verdicts, time.

Usage:
    anople check exported/weights/onnx/model.onnx --model bottle.ckpt --images DIR
"""

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from .judge import judge, load
from .terminal import FINE, MEGAPIXELS, NOT_MET, allow_pixels

_EXAMPLES = 8


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument("export", type=Path, help="exported model, a file .onnx or .xml")
    parser.add_argument("--model", type=Path, required=True, help="the checkpoint that was exported")
    parser.add_argument("--images", type=Path, nargs="+", required=True, help="folders of images, or files")


def run(options: Namespace) -> int:
    """Print the comparison as JSON; the exit code is 4 where a verdict differs."""
    allow_pixels(MEGAPIXELS)
    found = compare(options.model, options.export, options.images)
    print(json.dumps(found, indent=2, ensure_ascii=False))
    return NOT_MET if found["verdicts_that_differ"] else FINE


def compare(checkpoint: Path, export: Path, images: Sequence[Path]) -> dict[str, Any]:
    """Judge images by a checkpoint and by its export.

    Args:
        checkpoint: File of the checkpoint.
        export: File of the exported graph.
        images: Files, and folders with everything below them.

    Returns:
        Number of images judged by both, the largest relative difference of their scores, the images whose verdicts
        differ with both verdicts, and the median milliseconds an image of both, reading included.

    Raises:
        ValueError: If no image could be judged.
    """
    from anople_anomalib.data.watching import ImageList
    from anople_anomalib.deployment.runtime import image_files
    from anople_anomalib.deployment.runtime import judge as judge_by_export
    from anople_anomalib.deployment.table import rows_of

    files = image_files(images)
    exported = {row["path"]: row for row in judge_by_export(files, export)}
    with tempfile.TemporaryDirectory() as folder:
        options = Namespace(model=checkpoint, output=Path(folder), pictures=False, look=None, accelerator="cpu")
        judge(load(options), ImageList(files, None), options)
        rows = rows_of(Path(folder) / "predictions.jsonl")
    judged = [row for row in rows if row["score"] is not None and exported[row["path"]]["score"] is not None]
    if not judged:
        msg = f"None of the {len(files)} images could be judged by both: give images of the parts (--images)."
        raise ValueError(msg)
    differences = [abs(exported[row["path"]]["score"] - row["score"]) / max(row["score"], 1e-12) for row in judged]
    differing = {
        row["path"]: [row["verdict"], exported[row["path"]]["verdict"]]
        for row in rows
        if row["verdict"] != exported[row["path"]]["verdict"]
    }
    return {
        "images": len(judged),
        "largest_relative_score_difference": max(differences),
        "verdicts_that_differ": differing,
        "milliseconds_checkpoint": round(1000 * median(row["seconds"] for row in judged), 2),
        "milliseconds_export": round(1000 * median(exported[row["path"]]["seconds"] for row in judged), 2),
    }


@contextmanager
def example_images(shape: Sequence[int] | None = None) -> Iterator[Path]:
    """Yield a folder of images to compare an export by where the user gives none: clouds of several sizes and colors.

    They are no parts, so that they say how far the numbers of two runtimes are apart, and no more.

    Args:
        shape: Height and width, where only one shape is judged.
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
