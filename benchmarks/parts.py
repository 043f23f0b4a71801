# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The whole of AnoPLe beside its parts, from the same trained models: image AUROC / pixel AUROC / AUPRO in percent.

Every category, number of shots and seed is one training run. Its parts are read from one pass over the test images:

- ``memory``: the memory map (13), its largest value is the image score;
- ``decoder``: the decoder's map, its largest value is the image score;
- ``prompts``: p_hat of equation (8) and no map;
- ``prompts + decoder``: the decoder's map, fused with p_hat as in equation (14);
- ``whole``: what the model predicts.

Usage:
    python benchmarks/parts.py                                               # anople-tiny on SampleTextures
    python benchmarks/parts.py --data-root DIR --category NAME               # a folder in MVTec AD's layout
    python benchmarks/parts.py --model prompts.coupling=text_only training.epochs=30  # other options of AnoPLe
"""

import argparse
import logging
import math
import statistics
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from anomalib.data import AnomalibDataModule, ImageBatch, MVTecAD
from anomalib.engine import Engine
from torch import Tensor
from torch.nn import functional as F

from anople_anomalib import AnoPLe
from anople_anomalib.data import SampleTextures
from anople_anomalib.data.sample_textures import CATEGORIES
from anople_anomalib.method.fusion import fuse
from anople_anomalib.metrics.score_counts import CategoryScores

QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False, "logger": False}

Prediction = tuple[Tensor, Tensor | None]
"""Image scores of shape (n,) and maps of shape (n, h, w), if there are any."""


def train(
    datamodule: AnomalibDataModule, k_shot: int, seed: int, arguments: Mapping[str, Any], precision: str
) -> AnoPLe:
    """Train one model; validation and visualization are left out."""
    model = AnoPLe(
        **{**arguments, "training": {"seed": seed, **arguments.get("training", {})}},
        k_shot=k_shot,
        seed=seed,
        visualizer=False,
        evaluator=False,
    )
    with tempfile.TemporaryDirectory() as folder:
        Engine(default_root_dir=folder, precision=precision, **QUIET).fit(model, datamodule=datamodule)
    return model.eval()


@torch.no_grad()
def predict(model: AnoPLe, images: Tensor) -> dict[str, Prediction]:
    """Predict by the parts and by the whole, for normalized images of shape (n, 3, h, w)."""
    parts = model.model
    visual = parts.encode_whole(images)
    probability, decoder_map = parts.abnormal_probability(visual), parts.decoder_map(visual)
    top = decoder_map.flatten(1).amax(1)
    whole = parts(images)
    predictions: dict[str, Prediction] = {
        "decoder": (top, decoder_map),
        "prompts": (probability, None),
        "prompts + decoder": (fuse(probability, top), decoder_map),
        "whole": (whole.pred_score.flatten(), whole.anomaly_map.squeeze(1)),
    }
    if parts.memory_bank is not None:
        memory_map = parts.memory_map(visual)
        predictions = {"memory": (memory_map.flatten(1).amax(1), memory_map), **predictions}
    return predictions


class Scores:
    """Metrics of one row of the table, gathered batch by batch."""

    def __init__(self) -> None:
        self.counted = CategoryScores()

    def update(self, batch: ImageBatch, prediction: Prediction) -> None:
        """Add the predictions of a batch."""
        scores, maps = prediction
        self.counted.update_images(scores, None, batch.gt_label)
        if maps is not None:  # each of what its backbone sees, masks of what the model takes
            maps = F.interpolate(maps.unsqueeze(1), size=batch.gt_mask.shape[-2:], mode="bilinear").squeeze(1)
            self.counted.update_pixels(maps, None, batch.gt_mask)

    def compute(self) -> tuple[float, float, float]:
        """Compute image AUROC, pixel AUROC and AUPRO in percent; NaN without a map."""
        names = ("image_AUROC", "pixel_AUROC", "pixel_AUPRO")
        values, _ = self.counted.compute(names)
        return tuple(100 * float(values.get(name, float("nan"))) for name in names)


def test(model: AnoPLe, datamodule: AnomalibDataModule) -> dict[str, tuple[float, float, float]]:
    """Compute the metrics of every part on the test set."""
    rows: dict[str, Scores] = {}
    for batch in datamodule.test_dataloader():
        for row, prediction in predict(model, model.pre_processor(batch.image)).items():
            rows.setdefault(row, Scores()).update(batch, prediction)
    return {row: scores.compute() for row, scores in rows.items()}


def make_datamodule(root: Path | None, category: str) -> AnomalibDataModule:
    """Make the category's datamodule, without a validation set: nothing is chosen by it."""
    settings = {"category": category, "num_workers": 0, "val_split_mode": "none"}
    return SampleTextures(**settings) if root is None else MVTecAD(root=root, **settings)


Table = dict[tuple[str, int, str], list[tuple[float, ...]]]
"""(row, shots, category) -> metrics of every seed."""


def measure(arguments: argparse.Namespace) -> Table:
    """Train and test everything; a line on standard error when a category is done."""
    table: Table = {}
    for category in arguments.category:
        for k_shot in arguments.shots:
            for seed in arguments.seeds:
                datamodule = make_datamodule(arguments.data_root, category)
                settings = {"preset": "offline", **arguments.model}
                model = train(datamodule, k_shot, seed, settings, arguments.precision)
                for row, metrics in test(model, datamodule).items():
                    table.setdefault((row, k_shot, category), []).append(metrics)
        sys.stderr.write(f"{category} is done\n")
    return table


def report(table: Table, categories: Sequence[str], shots: Sequence[int]) -> Iterator[str]:
    """Return the table's lines, averaged over seeds, and over categories at the end."""
    names = [*categories, "mean"] if len(categories) > 1 else list(categories)
    head = [f"{name} {k}-shot" for name in names for k in shots]
    yield "| " + " | ".join(["", *head]) + " |"
    yield "|" + " --- |" * (len(head) + 1)
    for row in dict.fromkeys(row for row, _, _ in table):
        cells = [[mean(table[row, k, name]) for k in shots] for name in categories]
        if len(categories) > 1:
            cells.append([mean([category[i] for category in cells]) for i in range(len(shots))])
        yield "| " + " | ".join([row, *(_cell(metrics) for pair in cells for metrics in pair)]) + " |"


def _cell(metrics: Sequence[float]) -> str:
    return "/".join("-" if math.isnan(value) else f"{value:.1f}" for value in metrics)


def mean(rows: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    """Return the mean of each column."""
    return tuple(statistics.fmean(column) for column in zip(*rows, strict=True))


def setting(text: str) -> tuple[str, Any]:
    """Parse one argument of AnoPLe, ``name=value`` with the value in YAML."""
    name, separator, value = text.partition("=")
    if not separator:
        msg = f"{text!r} is not of the form name=value"
        raise argparse.ArgumentTypeError(msg)
    return name, yaml.safe_load(value)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, help="folder above categories in MVTec AD's layout")
    parser.add_argument("--category", nargs="+", help="folders below it; default: SampleTextures' categories")
    parser.add_argument("--shots", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--model", nargs="+", type=setting, default=[], metavar="NAME=VALUE", help="AnoPLe's arguments")
    parser.add_argument("--precision", default="32-true", help="of training alone, e.g. bf16-mixed")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.data_root is not None and arguments.category is None:
        parser.error("--data-root needs --category.")
    settings: dict[str, Any] = {}
    for name, value in arguments.model:
        group, _, option = name.rpartition(".")
        (settings.setdefault(group, {}) if group else settings)[option] = value
    arguments.model = settings
    arguments.category = arguments.category or list(CATEGORIES)
    return arguments


def main() -> None:
    """Measure and print."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore")
    for name in ("anomalib", "anople_anomalib", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    table = measure(arguments)
    sys.stdout.write("\n".join(report(table, arguments.category, arguments.shots)) + "\n")


if __name__ == "__main__":
    main()
