# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Write a checkpoint or an exported model with other thresholds.

Usage:
    anople-thresholds --ckpt_path model.ckpt --output new.ckpt --image_threshold 0.04
    anople-thresholds --ckpt_path model.ckpt --output new.ckpt --images good --quantile 0.95
    anople-thresholds --exported model.onnx --output model.onnx --images good --false_alarm_rate 0.01
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from jsonargparse import ArgumentParser, Namespace

from anople_anomalib.anople import AnoPLe
from anople_anomalib.deployment.exported_thresholds import read_exported
from anople_anomalib.metrics.category_scores import IMAGE, PIXEL
from anople_anomalib.utils.quiet import without_noise


def main(arguments: Sequence[str] | None = None) -> None:
    """Read a checkpoint or an exported model, change its thresholds and write it."""
    parser = ArgumentParser(
        prog="anople-thresholds", description="Write a checkpoint or an exported model with other thresholds."
    )
    parser.add_argument("--ckpt_path", type=Path, help="checkpoint of a finished training run")
    parser.add_argument("--exported", type=Path, help="or an exported model: a file .pt, .onnx or .xml")
    parser.add_argument("--output", type=Path, required=True, help="file to write, which may be the one that is read")
    parser.add_argument("--image_threshold", type=float, help="raw threshold of image scores")
    parser.add_argument("--pixel_threshold", type=float, help="raw threshold of anomaly maps")
    parser.add_argument("--images", type=Path, nargs="+", help="files or folders of good images, none of them a shot")
    parser.add_argument("--quantile", type=float, help="share of these images below the thresholds")
    parser.add_argument("--false_alarm_rate", type=float, help="wanted share of new good images above the thresholds")
    parsed = parser.parse_args(arguments)
    rule = parsed.quantile, parsed.false_alarm_rate
    if (parsed.ckpt_path is None) == (parsed.exported is None):
        _refuse(parser, "give --ckpt_path or --exported")
    if not parsed.images and ((parsed.image_threshold, parsed.pixel_threshold) == (None, None) or rule != (None, None)):
        _refuse(parser, "give --image_threshold or --pixel_threshold, or --images for a rule")
    without_noise()
    try:
        print((_change_checkpoint if parsed.exported is None else _change_exported)(parsed))
    except ImportError as error:
        sys.exit(f"error: {error}: install the package with its extra [export].")
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")


def _change_checkpoint(parsed: Namespace) -> str:
    """Write a checkpoint with other thresholds and say what has changed."""
    model = AnoPLe.load_from_checkpoint(parsed.ckpt_path)
    processor = model.require_thresholds()
    before = float(processor.image_threshold), float(processor.pixel_threshold)
    number = 0
    if parsed.images:
        number = model.recompute_thresholds(parsed.images, parsed.quantile, parsed.false_alarm_rate)
    model.set_thresholds(parsed.image_threshold, parsed.pixel_threshold)
    model.save_checkpoint(parsed.output)
    return _changes(parsed.output, before, (float(processor.image_threshold), float(processor.pixel_threshold)), number)


def _change_exported(parsed: Namespace) -> str:
    """Write an exported model with other thresholds and say what has changed."""
    model = read_exported(parsed.exported)
    before, number = model.thresholds(), 0
    if parsed.images:
        number = model.recompute_thresholds(parsed.images, parsed.quantile, parsed.false_alarm_rate)
    model.set_thresholds(parsed.image_threshold, parsed.pixel_threshold)
    model.save(parsed.output)
    after = model.thresholds()
    return _changes(parsed.output, (before[IMAGE], before[PIXEL]), (after[IMAGE], after[PIXEL]), number)


def _changes(output: Path, before: tuple[float, float], after: tuple[float, float], number: int) -> str:
    """Say what has changed, and how many good images are behind it."""
    behind = f", from {number} good images" if number else ""
    return (
        f"{output}: image threshold {before[0]:.4g} -> {after[0]:.4g}, "
        f"pixel threshold {before[1]:.4g} -> {after[1]:.4g}{behind}."
    )


def _refuse(parser: ArgumentParser, message: str) -> NoReturn:
    parser.error(message)
    raise AssertionError(message)  # the parser has ended the process


if __name__ == "__main__":
    main()
