# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Teach a trained AnoPLe new normal parts, without training.

Usage:
    anople-extend-memory-bank --ckpt_path model.ckpt --images new_variant/good --output model_2.ckpt
    anople-extend-memory-bank ... --threshold_images other/good     # and recompute the thresholds
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from anople_anomalib.anople import AnoPLe
from anople_anomalib.utils.quiet import without_noise


def main(arguments: Sequence[str] | None = None) -> None:
    """Read a checkpoint, extend its memory bank and write another checkpoint."""
    parser = ArgumentParser(prog="anople-extend-memory-bank", description="Teach a trained AnoPLe new normal parts.")
    parser.add_argument("--ckpt_path", type=Path, required=True, help="checkpoint of a finished training run")
    parser.add_argument("--images", type=Path, nargs="+", required=True, help="files or folders of new normal images")
    parser.add_argument("--category", help="their category, for a model with memory_per_category")
    parser.add_argument("--threshold_images", type=Path, nargs="+", help="normal images for new thresholds")
    parser.add_argument("--output", type=Path, required=True, help="checkpoint to write")
    parsed = parser.parse_args(arguments)
    without_noise()
    try:
        model = AnoPLe.load_from_checkpoint(parsed.ckpt_path)
        before = len(model.model.memory_bank or ())
        model.extend_memory_bank(parsed.images, parsed.category)
        if parsed.threshold_images:
            model.recompute_thresholds(parsed.threshold_images)
        model.save_checkpoint(parsed.output)
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    print(f"{parsed.output}: {before} features became {len(model.model.memory_bank or ())}.")


if __name__ == "__main__":
    main()
