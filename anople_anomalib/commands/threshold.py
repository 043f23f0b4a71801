# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Write a model with other thresholds.

Usage:
    anople threshold --model bottle.ckpt --output new.ckpt --images DIR/good
    anople threshold --model bottle.ckpt --output new.ckpt --images DIR/good --false_alarm_rate 0.01
    anople threshold --model bottle.ckpt --output new.ckpt --image_threshold 0.04
"""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from .terminal import FINE, UsageError


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument("--model", type=Path, required=True, help="checkpoint of anople teach or anomalib train")
    parser.add_argument("--output", type=Path, required=True, help="file to write, which may be the one that is read")
    parser.add_argument("--image_threshold", type=float | None, default=None, help="raw threshold of image scores")
    parser.add_argument("--pixel_threshold", type=float | None, default=None, help="raw threshold of anomaly maps")
    parser.add_argument("--images", type=Path, nargs="+", help="files or folders of good parts, none of them learned")
    parser.add_argument("--quantile", type=float | None, default=None, help="share of them below the thresholds")
    parser.add_argument(
        "--false_alarm_rate", type=float | None, default=None, help="wanted share of new good parts above them"
    )


def run(options: Namespace) -> int:
    """Change the thresholds of a checkpoint."""
    rule = options.quantile, options.false_alarm_rate
    thresholds = options.image_threshold, options.pixel_threshold
    if not options.images and (thresholds == (None, None) or rule != (None, None)):
        msg = "Give --images, good parts that set the thresholds, or --image_threshold or --pixel_threshold."
        raise UsageError(msg)
    from anople_anomalib.anople import AnoPLe

    model = AnoPLe.load_from_checkpoint(options.model)
    processor = model.require_thresholds()
    before, behind = (float(processor.image_threshold), float(processor.pixel_threshold)), ""
    if options.images:
        behind = f", from {model.recompute_thresholds(options.images, *rule)} good parts"
    model.set_thresholds(*thresholds)
    model.save_checkpoint(options.output)
    print(
        f"{options.output}: image threshold {before[0]:.4g} -> {float(processor.image_threshold):.4g}, "
        f"pixel threshold {before[1]:.4g} -> {float(processor.pixel_threshold):.4g}{behind}."
    )
    return FINE
