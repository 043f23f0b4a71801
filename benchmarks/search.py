# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Search in the second memory: time of a query against the rows of the bank, and of an image against its size.

The floor beside each time is that of the matrix product alone: its operations over the fastest rate that a large
product reaches on this machine. ``norms`` is the time for the rows' squared norms, which are computed once an image and
kept for all of its blocks. Rows and queries are random: the time of an exact search does not depend on their values.
``--half`` adds the same products in bfloat16 (up to 100,000 rows), ``--faiss`` the flat index of faiss, if it is
installed.

Usage:
    python benchmarks/search.py                        # rows from 1,000 to 1,000,000
    python benchmarks/search.py --sizes 224 320 448    # an image in the second memory of the preset offline
    python benchmarks/search.py --plot search.png
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import torch

from anople_anomalib.backbones.timm_features import load_memory_backbone
from anople_anomalib.method.image_sizes import cost_of
from anople_anomalib.method.scaled_memory_bank import ScaledMemoryBank
from anople_anomalib.presets import resolve

mpl.use("Agg")
from matplotlib import pyplot as plt

_MOST_HALF = 100_000  # rows: some processors emulate half precision
WIDTH = 168  # of EfficientNet-Lite2's stages of stride 8 and 16


def seconds_of(run: Callable[[], object], least: float = 0.5) -> float:
    """Return the median time of a call, over as many calls as fill the least time; one after a first long one."""
    times: list[float] = []
    while sum(times) < least:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def ceiling() -> float:
    """Measure operations a second of a large matrix product."""
    one, other = torch.rand(1024, 1024), torch.rand(1024, 1024)
    one @ other
    return 2 * 1024**3 / min(seconds_of(lambda: one @ other, 0.1) for _ in range(5))


def peak_megabytes() -> float:
    """Return the largest memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def filled(rows: int, dtype: torch.dtype = torch.float32) -> ScaledMemoryBank:
    """Return a bank of random rows."""
    bank = ScaledMemoryBank(WIDTH, (1, 1))
    bank.build(torch.rand(1, 1, WIDTH))
    bank.features = torch.rand(rows, WIDTH + 2).to(dtype)
    return bank


def faiss_search(bank: ScaledMemoryBank, queries: torch.Tensor) -> Callable[[], object]:
    """Return faiss' exact search in the rows of a bank."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatL2(WIDTH + 2)
    index.add(bank.features.numpy())
    prepared = torch.nn.functional.pad(queries[0], (0, 2)).numpy()
    return lambda: index.search(prepared, 1)


@torch.inference_mode()
def search(counts: list[int], number: int, *, half: bool, faiss: bool) -> list[tuple[int, float, float]]:
    """Print the time of a query against the rows, and return rows, seconds and the floor."""
    rate, queries, found = ceiling(), torch.rand(1, number, WIDTH), []
    print(f"{number} queries of {WIDTH} numbers, {rate / 1e9:.1f} GFLOP/s at most\n")
    names = ["rows", "ms", "floor, ms", "norms, ms", "more memory, MB", *["half, ms"] * half, *["faiss, ms"] * faiss]
    print(f"| {' | '.join(names)} |\n|{' ---: |' * len(names)}")
    for rows in counts:
        bank, before = filled(rows), peak_megabytes()
        seconds = seconds_of(lambda bank=bank: bank(queries))
        more = peak_megabytes() - before
        norms = seconds_of(lambda bank=bank: bank.features.square().sum(dim=-1), 0.1)
        floor = 2 * rows * number * WIDTH / rate
        cells = [1000 * seconds, 1000 * floor, 1000 * norms, more]
        if half and rows > _MOST_HALF:
            cells.append(float("nan"))
        elif half:
            one, other = queries[0].bfloat16(), filled(rows, torch.bfloat16).features[:, :WIDTH]
            blocks = [(part, block) for part in one.split(1024) for block in other.split(4096)]
            cells.append(1000 * seconds_of(lambda blocks=blocks: [(a @ b.T).amax(dim=-1) for a, b in blocks]))
        if faiss:
            cells.append(1000 * seconds_of(faiss_search(bank, queries)))
        print(f"| {rows} | {' | '.join(f'{cell:.2f}' for cell in cells)} |", flush=True)
        found.append((rows, seconds, floor))
    return found


@torch.inference_mode()
def sizes(sides: list[int], shots: int) -> None:
    """Print the time of an image against its size, with a bank of as many rows as its shots would fill."""
    memory = resolve("offline")["memory"]
    print(f"{memory['backbone']}, {shots} shots in the most turns that they may choose\n")
    print("| side | rows | features, ms | search, ms | GFLOP | MB | peak of the process, MB |\n|" + " ---: |" * 7)
    for side in sides:
        cost = cost_of(memory, side, shots)
        backbone = load_memory_backbone(memory["backbone"], (0.5,) * 3, (0.5,) * 3, image_size=side)
        image, bank = torch.rand(1, 3, side, side), filled(cost.rows)
        features = backbone(image)
        encode, compare = seconds_of(lambda net=backbone, x=image: net(x)), seconds_of(lambda b=bank, x=features: b(x))
        cells = [1000 * encode, 1000 * compare, cost.operations / 1e9, cost.megabytes, peak_megabytes()]
        print(f"| {side} | {cost.rows} | {' | '.join(f'{cell:.0f}' for cell in cells)} |", flush=True)


def plot(found: list[tuple[int, float, float]], path: Path) -> None:
    """Draw the time of a query and its floor against the rows."""
    figure, axes = plt.subplots(figsize=(5, 3.5), layout="constrained")
    rows, seconds, floors = zip(*found, strict=True)
    axes.loglog(rows, [1000 * each for each in seconds], "o-", label="search")
    axes.loglog(rows, [1000 * each for each in floors], "--", label="matrix product at the machine's best rate")
    axes.set(xlabel="rows of the bank", ylabel="ms")
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure and print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10**3, 10**4, 10**5, 10**6])
    parser.add_argument("--queries", type=int, default=1600, help="patches of an image")
    parser.add_argument("--sizes", type=int, nargs="*", default=[], help="sides of images to measure instead")
    parser.add_argument("--shots", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--half", action="store_true", help="in bfloat16, too")
    parser.add_argument("--faiss", action="store_true", help="by faiss, too")
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.threads} threads")
    if arguments.sizes:
        sizes(arguments.sizes, arguments.shots)
        return
    found = search(arguments.rows, arguments.queries, half=arguments.half, faiss=arguments.faiss)
    if arguments.plot:
        plot(found, arguments.plot)


if __name__ == "__main__":
    main()
