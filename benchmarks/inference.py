# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""AnoPLe's whole detection over open_clip's plain ``encode_image``, beside WinCLIP and PatchCore, with random weights.

Every model sees the same batch in turn, in one process; a ratio is the median of the ratios of neighbors in time. The
weights are random, which changes no time. Multi-class is the memory of 15 categories with one shot each. With four
turns the second memory holds every shot in four rotations and reflections, as many as solar cells choose.

Usage:
    python benchmarks/inference.py                                      # the paper's architecture
    python benchmarks/inference.py --backbone anople-tiny --repeats 20 --batches 1
    python benchmarks/inference.py --without winclip patchcore          # quicker
    python benchmarks/inference.py --backbone anople-tiny --beside ViT-B-16-plus-240 --without winclip patchcore bf16
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from unittest.mock import patch

import open_clip
import torch
from anomalib.models.image.patchcore.torch_model import PatchcoreModel
from anomalib.models.image.winclip import torch_model as winclip
from torch.nn import functional as F

from anople_anomalib import AnoPLe, MemoryConfig
from anople_anomalib.backbones.package_weights import LITE2
from anople_anomalib.backbones.timm_loading import NO_BACKBONE
from anople_anomalib.method.torch_model import AnoPLeModel

MEMORIES = {"1-shot": 1, "4-shot": 4, "multi-class": 15}
"""Images in the memory."""

Times = dict[str, list[tuple[float, float]]]
"""Wall time and CPU time (of all threads) of every call, by name."""


def anople(backbone: str, images: int, memory_backbone: str = NO_BACKBONE, turns: int = 1) -> AnoPLeModel:
    """Build a model as after training, with random weights and memories of so many images in so many turns."""
    fusion = "paper" if memory_backbone == NO_BACKBONE else "weighted"
    model = AnoPLe(
        preset="offline",
        backbone=backbone,
        pretrained="random",
        memory=MemoryConfig(backbone=memory_backbone, pretrained="random", fusion=fusion),
        visualizer=False,
    ).model
    model.text_features = F.normalize(torch.randn_like(model.text_features), dim=-1)
    height, width = model.clip.visual.grid
    model.memory_bank.build(torch.randn(images * height * width, model.clip.visual.width))
    if (second := model.second_memory) is not None:
        rows, columns = second.backbone.grid
        second.memory_bank.build(torch.randn(images, turns * rows * columns, second.backbone.width))
    return model.for_inference()


def both_memories(backbone: str, memory_backbone: str) -> dict[str, torch.nn.Module]:
    """Build models with both memories, and the second backbone alone; print what it adds to a checkpoint or export."""
    models: dict[str, torch.nn.Module] = {
        f"AnoPLe, {shots}-shot, second memory{', four turns' * (turns > 1)}": anople(
            backbone, shots, memory_backbone, turns
        )
        for shots in (1, 4)
        for turns in (1, 4)
    }
    second = next(iter(models.values())).second_memory
    models["second backbone"] = second.backbone
    count = sum(parameter.numel() for parameter in second.backbone.parameters())
    bank = second.memory_bank.features
    print(
        f"{memory_backbone}: {count / 1e6:.2f} M parameters, {2 * count / 1e6:.1f} MB in half precision; "
        f"{bank.nbytes / 2e6:.2f} MB of memory a shot and turn in half precision"
    )
    return models


def winclip_model(size: tuple[int, int]) -> torch.nn.Module:
    """Build anomalib's WinCLIP with one reference image, without the download of its weights."""
    with patch.object(winclip, "PRETRAINED", None):
        model = winclip.WinClipModel()
    model.setup("object", torch.randn(1, 3, *size))
    return model.eval()


def patchcore_model(size: tuple[int, int], images: int = 1) -> torch.nn.Module:
    """Build anomalib's PatchCore with a tenth of the patches of so many images in memory."""
    model = PatchcoreModel(layers=("layer2", "layer3"), backbone="wide_resnet50_2", pre_trained=False)
    model.train()
    embedding = model(torch.randn(images, 3, *size))
    model.memory_bank = embedding[:: 10 * images] if images > 1 else embedding[::10]
    return model.eval()


def measure(calls: dict[str, Callable[[], object]], repeats: int) -> Times:
    """Call all in turn, again and again; the first round is a warm-up."""
    times: Times = {name: [] for name in calls}
    for repeat in range(repeats + 1):
        for name, call in calls.items():
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            pair = time.perf_counter() - wall, time.process_time() - cpu
            if repeat:
                times[name].append(pair)
    return times


def ratio(times: Times, name: str, reference: str, column: int) -> float:
    """Return the median ratio of two calls of the same round."""
    pairs = zip(times[name], times[reference], strict=True)
    return statistics.median(one[column] / other[column] for one, other in pairs)


def autocast(model: torch.nn.Module, images: torch.Tensor) -> object:
    """Run a model in bfloat16 where torch finds it safe."""
    with torch.autocast("cpu", torch.bfloat16):
        return model(images)


def main() -> None:
    """Measure all and print a table per batch size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="ViT-B-16-plus-240")
    parser.add_argument("--memory-backbone", default=LITE2, help=f"second backbone, or {NO_BACKBONE!r}")
    parser.add_argument("--beside", help="another open_clip model whose encode_image is measured in the same rounds")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--without", nargs="*", default=[], choices=["winclip", "patchcore", "bf16"])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    versions = f"torch {torch.__version__}, open_clip {open_clip.__version__}, {platform.machine()}"
    print(f"{arguments.backbone}, {versions}, {arguments.threads} threads, {arguments.repeats} repeats")

    models: dict[str, torch.nn.Module] = {
        f"AnoPLe, {name}": anople(arguments.backbone, images) for name, images in MEMORIES.items()
    }
    if arguments.memory_backbone != NO_BACKBONE:
        models |= both_memories(arguments.backbone, arguments.memory_backbone)
    first = next(iter(models.values()))
    tower, size = first.clip.visual.visual, first.image_size
    beside = None if arguments.beside is None else open_clip.create_model(arguments.beside).visual.eval()
    if "winclip" not in arguments.without:
        models["WinCLIP, 1-shot"] = winclip_model((240, 240))
    if "patchcore" not in arguments.without:
        models["PatchCore, 1-shot"] = patchcore_model((256, 256))
    with torch.inference_mode():
        for batch in arguments.batches:
            inputs = {name: torch.randn(batch, 3, *size) for name in models}
            inputs |= {name: torch.randn(batch, 3, 256, 256) for name in models if "second" in name}
            inputs |= {name: torch.randn(batch, 3, 240, 240) for name in models if name.startswith("WinCLIP")}
            inputs |= {name: torch.randn(batch, 3, 256, 256) for name in models if name.startswith("PatchCore")}
            images = torch.randn(batch, 3, *size)
            calls: dict[str, Callable[[], object]] = {"encode_image": lambda images=images: tower(images)}
            if beside is not None:
                others = torch.randn(batch, 3, *beside.image_size)
                calls[f"encode_image of {arguments.beside}"] = lambda others=others: beside(others)
            calls |= {name: lambda m=m, name=name, inputs=inputs: m(inputs[name]) for name, m in models.items()}
            if "bf16" not in arguments.without:
                calls["encode_image, bf16"] = lambda images=images: autocast(tower, images)
                calls["AnoPLe, 1-shot, bf16"] = lambda images=images: autocast(first, images)
            print_table(measure(calls, arguments.repeats), batch)


def print_table(times: Times, batch: int) -> None:
    """Print seconds of every model, and its ratio to the plain encoder."""
    print(f"\n| batch {batch} | s per batch | over encode_image, wall time | over encode_image, CPU time |")
    print("| --- | ---: | ---: | ---: |")
    for name, pairs in times.items():
        seconds = statistics.median(wall for wall, _ in pairs)
        ratios = [ratio(times, name, "encode_image", column) for column in (0, 1)]
        print(f"| {name} | {seconds:.3f} | {ratios[0]:.3f} | {ratios[1]:.3f} |", flush=True)
    if "WinCLIP, 1-shot" in times:
        factors = [ratio(times, "WinCLIP, 1-shot", "AnoPLe, 1-shot", column) for column in (0, 1)]
        print(f"\nWinCLIP over AnoPLe, 1-shot: {factors[0]:.2f} in wall time, {factors[1]:.2f} in CPU time")


if __name__ == "__main__":
    main()
