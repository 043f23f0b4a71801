# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""One training step of AnoPLe over forward and backward of the same views through the frozen tower alone.

The step is everything that ``training_step`` does (simulation, views, both prompted towers, decoder, losses), its
backward pass and the optimizer's step. The reference sends the same number of images of the same size through
open_clip's own visual tower and back to the images. Both are timed in turn, in one run.

Usage:
    python benchmarks/training_step.py                             # the paper's architecture, random weights
    python benchmarks/training_step.py --backbone anople-tiny --repeats 20
    python benchmarks/training_step.py --variants              # also in bfloat16, and with checkpointed blocks
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import open_clip
import torch
from anomalib.data import ImageBatch

from anople_anomalib import AnoPLe

EPOCHS = 60
"""The paper's, for the price of a whole training."""

CATEGORIES = 15

Times = dict[str, list[tuple[float, float]]]
"""Wall time and CPU time of every call, by name."""


@contextmanager
def checkpointed(model: AnoPLe) -> Iterator[None]:
    """Switch to what ``gradient_checkpointing=True`` does."""
    model.model.clip.set_grad_checkpointing()
    try:
        yield
    finally:
        model.model.clip.set_grad_checkpointing(enable=False)


def kept_megabytes(model: AnoPLe, batch: ImageBatch, context: AbstractContextManager) -> float:
    """Return the size of the tensors that a step keeps for its backward pass; the weights do not count."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def record(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor), context:
        loss = model.training_step(batch, 0)
    del loss
    return sum(kept.values()) / 1e6


def reference(tower: torch.nn.Module, images: torch.Tensor) -> None:
    """Run forward and backward through the frozen tower, down to the images."""
    images.grad = None
    tower(images).sum().backward()


def training_step(
    model: AnoPLe, optimizer: torch.optim.Optimizer, batch: ImageBatch, context: AbstractContextManager
) -> None:
    """Run a whole training step, its forward pass in a context."""
    optimizer.zero_grad()
    with context:
        loss = model.training_step(batch, 0)
    loss.backward()
    optimizer.step()


def seconds(function: Callable[[], None]) -> tuple[float, float]:
    """Measure wall time and CPU time (of all threads) of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    """Time both in turn and print medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="ViT-B-16-plus-240")
    parser.add_argument("--pretrained", default="random", help="weights; they do not change the time")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--variants", action="store_true", help="time bfloat16 and checkpointing, too")
    arguments = parser.parse_args()

    model = AnoPLe(backbone=arguments.backbone, pretrained=arguments.pretrained, class_names="object")
    model.log_dict = lambda *_args, **_kwargs: None  # there is no trainer to log to
    model.prepare_texts(model.hparams["class_names"])
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3, momentum=0.9)
    height, width = model.image_size
    batch = ImageBatch(image=torch.rand(1, 3, 2 * height, 2 * width))
    tower = model.model.clip.visual.visual
    views = torch.rand(model.model.num_views, 3, height, width, requires_grad=True)

    contexts: dict[str, Callable[[], AbstractContextManager]] = {"training step": nullcontext}
    if arguments.variants:
        contexts["training step, bf16"] = lambda: torch.autocast("cpu", torch.bfloat16)
        contexts["training step, checkpointed blocks"] = lambda: checkpointed(model)
    times: Times = {name: [] for name in ("tower", *contexts)}
    for repeat in range(arguments.repeats + 1):
        measured = {"tower": seconds(lambda: reference(tower, views))}
        for name, context in contexts.items():
            measured[name] = seconds(lambda context=context: training_step(model, optimizer, batch, context()))
        for name, pair in measured.items() if repeat else ():  # the first is a warm-up
            times[name].append(pair)
    kept = {name: kept_megabytes(model, batch, context()) for name, context in contexts.items()}

    threads = torch.get_num_threads()
    print(f"{arguments.backbone}, open_clip {open_clip.__version__}, torch {torch.__version__}, {threads} threads")
    print(f"tower: forward and backward of {len(views)} views through the frozen visual tower alone\n")
    print_table(times, kept)
    step = statistics.median(wall for wall, _ in times["training step"])
    for name, categories in (("one-class", 1), (f"{CATEGORIES}-category", CATEGORIES)):
        minutes = EPOCHS * categories * step / 60
        print(f"extrapolated: a 1-shot {name} training, {EPOCHS * categories} steps, takes {minutes:.0f} minutes")


def print_table(times: Times, kept: dict[str, float]) -> None:
    """Print seconds and their ratio to the tower's, and what is kept for the backward pass."""
    print("| | s | over tower, wall time | over tower, CPU time | MB kept for backward |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, pairs in times.items():
        median = statistics.median(wall for wall, _ in pairs)
        rounds = list(zip(pairs, times["tower"], strict=True))
        ratios = [statistics.median(pair[column] / base[column] for pair, base in rounds) for column in (0, 1)]
        megabytes = f"{kept[name]:.0f}" if name in kept else ""
        print(f"| {name} | {median:.2f} | {ratios[0]:.3f} | {ratios[1]:.3f} | {megabytes} |")
    print()


if __name__ == "__main__":
    main()
