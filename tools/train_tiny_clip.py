# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Train the bundled backbone ``anople-tiny`` from nothing, on images that this program draws.

Usage:
    python tools/train_tiny_clip.py                  # draw, train, write the asset, print its quality
    python tools/train_tiny_clip.py --images DIR     # with your own images of flawless parts among the drawn ones

An interrupted run continues where it stopped when the command is given again; ``--work-dir`` keeps its canvases and its
checkpoint. The same seed gives the same images, marks and batches.

Recipe: 4000 canvases of 320 pixels (36 textures, 11 objects, 10 photographs); per step 16, 8 or 4 canvases (at 112,
160 and 240 pixels), two clean and two damaged windows of each; the patch embedding and the first two layers start
from classical filters; losses on captions, names, states, patches, ranking, filter energies and their similarities;
AdamW 1e-3 with a cosine; running mean of the weights. The bundled weights are those of ``--threads 1``: on one of two
busy cores (AMD EPYC) drawing the canvases took 2 minutes and the 3500 steps 65 minutes.
"""

import argparse
import sys
from pathlib import Path

import torch

from tiny_clip.canvases import render_once
from tiny_clip.export import ASSET, compressed_size, export_asset
from tiny_clip.model import MODEL_CONFIG
from tiny_clip.quality import held_out_quality
from tiny_clip.speed import keep_freed_memory
from tiny_clip.train import Settings, Trainer
from tiny_clip.windows import Windows

STRANGERS = (
    "engine", "zipper", "transistor", "hazelnut", "toothbrush", "candle", "cashew", "macaroni", "part", "product",
    "component", "zebra", "lamp", "wheel", "window", "shoe", "bread", "glass", "chip", "lens",
)  # fmt: skip
"""Words without an embedding of their own, for captions that say nothing but the state."""

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}


def parse_arguments() -> argparse.Namespace:
    """Read and check the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=Settings.steps, help="optimizer steps")
    parser.add_argument(
        "--minutes", type=float, default=Settings.minutes, help="end earlier when training takes longer"
    )
    parser.add_argument("--canvases", type=int, default=4000, help="images drawn before training")
    parser.add_argument("--images", type=Path, help="folder of your own images of flawless parts")
    parser.add_argument("--threads", type=int, default=2, help="1 is faster beside other busy programs")
    parser.add_argument("--seed", type=int, default=0, help="of weights, images and batches")
    parser.add_argument("--work-dir", type=Path, default=Path("runs/tiny_clip"), help="for canvases and checkpoint")
    parser.add_argument("--output", type=Path, default=ASSET, help="folder of the finished asset")
    arguments = parser.parse_args()
    for name in ("steps", "minutes", "canvases", "threads"):
        if getattr(arguments, name) <= 0:
            parser.error(f"--{name} must be positive, got {getattr(arguments, name)}.")
    if arguments.images and not own_images(arguments.images):
        parser.error(f"--images: there is no image in {arguments.images}.")
    return arguments


def own_images(folder: Path | None) -> list[Path]:
    """Return all images below a folder."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES) if folder else []


def main() -> None:
    """Draw, train, write, measure."""
    arguments = parse_arguments()
    keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    own = own_images(arguments.images)
    canvases, labels = render_once(arguments.work_dir / "canvases", arguments.canvases, arguments.seed, images=own)
    patch = MODEL_CONFIG["vision_cfg"]["patch_size"]
    windows = Windows(canvases, labels, patch, arguments.seed, STRANGERS)
    trainer = Trainer(windows, Settings(arguments.steps, arguments.minutes, arguments.seed))
    checkpoint = arguments.work_dir / "checkpoint.pt"
    if checkpoint.exists():
        trainer.load_state_dict(torch.load(checkpoint, weights_only=True))
    model = trainer.train(checkpoint)
    weights = export_asset(model, trainer.trained_tokens, arguments.output)
    size = compressed_size(weights) / 2**20
    summary = f"{weights}: {trainer.step} steps, {trainer.seconds / 60:.0f} minutes, {size:.1f} MiB compressed"
    sys.stdout.write(f"{summary}, logit scale {float(model.logit_scale.exp()):.1f}\n")
    for name, value in held_out_quality(model, arguments.seed).items():
        sys.stdout.write(f"{name:>14}: {value:.2f}\n")


if __name__ == "__main__":
    main()
