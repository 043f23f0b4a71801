# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""One training step of AnoPLe over forward and backward of the same views through the frozen tower alone.

The step is everything that ``training_step`` does (simulation, views, both prompted towers, decoder, losses), its
backward pass and the optimizer's step. The reference sends the same number of images of the same size through
open_clip's own visual tower and back to the images. Both are timed in turn, in one run.

Usage:
    python benchmarks/training_step.py                             # the paper's architecture, random weights
    python benchmarks/training_step.py --backbone anople-tiny --repeats 20
"""

import argparse
import statistics
import time
from collections.abc import Callable

import open_clip
import torch
from anomalib.data import ImageBatch

from anople_anomalib import AnoPLe


def reference(tower: torch.nn.Module, images: torch.Tensor) -> None:
    """Forward and backward through the frozen tower, down to the images."""
    images.grad = None
    tower(images).sum().backward()


def training_step(model: AnoPLe, optimizer: torch.optim.Optimizer, batch: ImageBatch) -> None:
    """A whole training step."""
    optimizer.zero_grad()
    model.training_step(batch, 0).backward()
    optimizer.step()


def seconds(function: Callable[[], None]) -> tuple[float, float]:
    """Wall time and CPU time (of all threads) of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    """Time both in turn and print medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="ViT-B-16-plus-240")
    parser.add_argument("--pretrained", default="random", help="weights; they do not change the time")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()

    model = AnoPLe(backbone=arguments.backbone, pretrained=arguments.pretrained, class_names="object")
    model.log_dict = lambda *_args, **_kwargs: None  # there is no trainer to log to
    model.prepare_texts(model.hparams["class_names"])
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3, momentum=0.9)
    height, width = model.image_size
    batch = ImageBatch(image=torch.rand(1, 3, 2 * height, 2 * width))
    tower = model.model.clip.visual.visual
    views = torch.rand(model.model.num_views, 3, height, width, requires_grad=True)

    times: dict[str, list[tuple[float, float]]] = {"reference": [], "step": []}
    for repeat in range(arguments.repeats + 1):
        reference_time = seconds(lambda: reference(tower, views))
        step_time = seconds(lambda: training_step(model, optimizer, batch))
        if repeat:  # the first is a warm-up
            times["reference"].append(reference_time)
            times["step"].append(step_time)
    print(f"{arguments.backbone}, open_clip {open_clip.__version__}, torch {torch.__version__}")
    for column, kind in enumerate(("wall time", "CPU time")):
        steps, bases = ([pair[column] for pair in times[name]] for name in ("step", "reference"))
        ratios = [step / base for step, base in zip(steps, bases, strict=True)]
        print(
            f"{kind}: tower, forward and backward of {len(views)} views {statistics.median(bases):.2f} s; "
            f"training step {statistics.median(steps):.2f} s; ratio median {statistics.median(ratios):.3f} "
            f"(min {min(ratios):.3f}, max {max(ratios):.3f})"
        )


if __name__ == "__main__":
    main()
