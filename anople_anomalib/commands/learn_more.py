# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Teach a model more good parts, without training.

Usage:
    anople learn-more new_variant/good --model bottle.ckpt --output bottle_2.ckpt
    anople learn-more ... --threshold_images other/good     # and set the thresholds anew
"""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from .terminal import FINE


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument("images", type=Path, nargs="+", help="files or folders of new good parts")
    parser.add_argument("--model", type=Path, required=True, help="checkpoint of anople teach or anomalib train")
    parser.add_argument("--output", type=Path, required=True, help="checkpoint to write")
    parser.add_argument("--category", type=str | None, default=None, help="their category, for a memory per category")
    parser.add_argument("--threshold_images", type=Path, nargs="+", help="good parts for new thresholds")


def run(options: Namespace) -> int:
    """Extend the memory of a checkpoint."""
    from anople_anomalib.anople import AnoPLe

    model = AnoPLe.load_from_checkpoint(options.model)
    before = len(model.model.memory_bank or ())
    model.extend_memory_bank(options.images, options.category)
    if options.threshold_images:
        model.recompute_thresholds(options.threshold_images)
    model.save_checkpoint(options.output)
    print(f"{options.output}: {before} features became {len(model.model.memory_bank or ())}.")
    return FINE
