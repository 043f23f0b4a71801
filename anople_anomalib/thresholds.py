# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Write a checkpoint with other thresholds.

Usage:
    anople-thresholds --ckpt_path model.ckpt --output new.ckpt --image_threshold 0.04
    anople-thresholds --ckpt_path model.ckpt --output new.ckpt --images good --quantile 0.95
    anople-thresholds --ckpt_path model.ckpt --output new.ckpt --images good --false_alarm_rate 0.01
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from .lightning_model import AnoPLe


def main(arguments: Sequence[str] | None = None) -> None:
    """Read a checkpoint, change its thresholds and write another checkpoint."""
    parser = ArgumentParser(prog="anople-thresholds", description="Write a checkpoint with other thresholds.")
    parser.add_argument("--ckpt_path", type=Path, required=True, help="checkpoint of a finished training run")
    parser.add_argument("--output", type=Path, required=True, help="checkpoint to write")
    parser.add_argument("--image_threshold", type=float, help="raw threshold of image scores")
    parser.add_argument("--pixel_threshold", type=float, help="raw threshold of anomaly maps")
    parser.add_argument("--images", type=Path, nargs="+", help="files or folders of good images, none of them a shot")
    parser.add_argument("--quantile", type=float, help="share of these images below the thresholds")
    parser.add_argument("--false_alarm_rate", type=float, help="wanted share of new good images above the thresholds")
    parsed = parser.parse_args(arguments)
    values = parsed.image_threshold, parsed.pixel_threshold
    rule = parsed.quantile, parsed.false_alarm_rate
    try:
        if not parsed.images and (values == (None, None) or rule != (None, None)):
            parser.error("give --image_threshold or --pixel_threshold, or --images for a rule")
        model = AnoPLe.load_from_checkpoint(parsed.ckpt_path)
        processor = model.require_thresholds()
        before = float(processor.image_threshold), float(processor.pixel_threshold)
        number = model.recompute_thresholds(parsed.images, *rule) if parsed.images else 0
        model.set_thresholds(*values)
        model.save_checkpoint(parsed.output)
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    behind = f", from {number} good images" if number else ""
    print(
        f"{parsed.output}: image threshold {before[0]:.4g} -> {float(processor.image_threshold):.4g}, "
        f"pixel threshold {before[1]:.4g} -> {float(processor.pixel_threshold):.4g}{behind}."
    )


if __name__ == "__main__":
    main()
