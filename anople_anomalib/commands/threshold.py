# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Write a model with other thresholds.

Usage:
    anople threshold --model bottle.ckpt --output new.ckpt --images DIR/good
    anople threshold --model bottle.ckpt --output new.ckpt --images DIR/good --false-alarms 0.01 --confidence 0.95
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
    parser.add_argument(
        "--false-alarms", type=float | None, default=None, help="largest share of new good parts above the thresholds"
    )
    parser.add_argument("--look", type=bool | None, default=None, help="whether doubtful parts get the verdict LOOK")
    parser.add_argument("--confidence", type=float, default=0.95, help="confidence with which --false-alarms is kept")


def run(options: Namespace) -> int:
    """Change the thresholds of a checkpoint."""
    thresholds = options.image_threshold, options.pixel_threshold
    changed = options.look is not None or thresholds != (None, None)
    if not options.images and (not changed or options.false_alarms is not None):
        msg = "Give --images, good parts that set the thresholds, or --image_threshold or --pixel_threshold."
        raise UsageError(msg)
    from anople_anomalib.anople import AnoPLe
    from anople_anomalib.metrics.thresholds import Promise

    model = AnoPLe.load_from_checkpoint(options.model)
    processor = model.require_thresholds()
    before = float(processor.image_threshold), float(processor.pixel_threshold)
    if options.images:
        promise = None if options.false_alarms is None else Promise(options.false_alarms, options.confidence)
        model.recompute_thresholds(options.images, promise)
    model.set_thresholds(*thresholds)
    processor.look = processor.look if options.look is None else options.look
    model.save_checkpoint(options.output)
    print(
        f"{options.output}: image threshold {before[0]:.4g} -> {float(processor.image_threshold):.4g}, "
        f"pixel threshold {before[1]:.4g} -> {float(processor.pixel_threshold):.4g}."
    )
    if processor.normal_scores:
        print(processor.calibration(options.confidence))
    if doubt := processor.doubt():
        print(doubt)
    return FINE
