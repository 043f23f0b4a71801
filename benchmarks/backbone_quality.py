# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""What a backbone's patch features are worth: a memory bank alone, at one and four shots, over three draws.

Compared are ``anople-tiny``, random weights of the same architecture, raw pixel patches, classical filter energies and
PatchCore's features with random weights. The memory bank is the paper's: the nearest cosine distance; the image score
is the largest distance. Two other ways of scoring can be asked for: ``standardized`` divides every dimension by its
spread in the bank and takes Euclidean distances; ``centered`` subtracts every image's median feature first.

Usage:
    python benchmarks/backbone_quality.py                                   # SampleTextures
    python benchmarks/backbone_quality.py --data-root DIR --category NAME   # a folder in MVTec AD's layout
    python benchmarks/backbone_quality.py --layers 4,5 2,3,4 --scoring cosine centered
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import open_clip
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import wide_resnet50_2
from torchvision.transforms.v2 import functional as transforms

from anople_anomalib.data.sample_textures import CATEGORIES, SampleTextures
from anople_anomalib.data.sampling import draw_shots
from anople_anomalib.metrics.score_counts import CategoryScores

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))
from tiny_clip.export import ASSET
from tiny_clip.filters import filter_energies
from tiny_clip.model import MEAN, STD, build_model
from tiny_clip.quality import held_out_quality
from tiny_clip.speed import keep_freed_memory

SIZE, PATCH = 240, 16
SHOTS, SEEDS = (1, 4), (0, 1, 2)

Features = dict[str, Tensor]
"""Patch features of n images by the name of the table's row, each of shape (n, patches, width)."""


@dataclass(frozen=True)
class Category:
    """One category in memory.

    Args:
        name: Its name.
        names: File names of the normal training images.
        train: Those images, shape (n, 3, SIZE, SIZE), values in [0, 1].
        test: The test images, same shape and range.
        masks: Their masks, shape (n, SIZE, SIZE), true where anomalous.
    """

    name: str
    names: list[str]
    train: Tensor
    test: Tensor
    masks: Tensor

    @property
    def labels(self) -> Tensor:
        """1 for an anomalous test image, shape (n,)."""
        return self.masks.flatten(1).any(1).int()


def read_category(root: Path, name: str) -> Category:
    """Read ``root/name``, a folder in MVTec AD's layout."""
    folder = root / name
    train = sorted((folder / "train" / "good").glob("*.*"))
    test = sorted((folder / "test").glob("*/*.*"))
    if not train or not test:
        msg = f"{folder} has no images in train/good and test; give the folder above a category in MVTec AD's layout."
        raise FileNotFoundError(msg)
    masks = [_mask(folder / "ground_truth" / path.parent.name / f"{path.stem}_mask.png") for path in test]
    stacks = (torch.stack([_image(path) for path in paths]) for paths in (train, test))
    return Category(name, [path.name for path in train], *stacks, masks=torch.stack(masks))


def _image(path: Path) -> Tensor:
    image = transforms.to_dtype(transforms.pil_to_tensor(Image.open(path).convert("RGB")), scale=True)
    return transforms.resize(image, [SIZE, SIZE], antialias=True)


def _mask(path: Path) -> Tensor:
    """Return the mask of a test image; normal images have none."""
    if not path.exists():
        return torch.zeros(SIZE, SIZE, dtype=torch.bool)
    mask = transforms.pil_to_tensor(Image.open(path).convert("L"))
    return transforms.resize(mask, [SIZE, SIZE], transforms.InterpolationMode.NEAREST)[0] > 0


def clip_features(model: nn.Module, images: Tensor, layer_sets: Sequence[tuple[int, ...]], row: str) -> Features:
    """Average patch tokens of some layers of an open_clip visual tower."""
    visual = model.visual
    tokens: list[Tensor] = []
    hooks = [
        block.register_forward_hook(lambda _m, _i, out: tokens.append(out[:, 1:]))
        for block in visual.transformer.resblocks
    ]
    try:
        visual(transforms.normalize(images, list(MEAN), list(STD)))
    finally:
        for hook in hooks:
            hook.remove()
    means = {layers: torch.stack([tokens[layer - 1] for layer in layers]).mean(0) for layers in layer_sets}
    return {f"{row}, layers {','.join(map(str, layers))}": mean for layers, mean in means.items()}


def pixel_features(images: Tensor) -> Features:
    """Return the pixels of every patch, centered at zero."""
    return {"raw pixel patches": F.unfold(images - 0.5, PATCH, stride=PATCH).transpose(1, 2)}


def filter_features(images: Tensor) -> Features:
    """Compute color and energies of derivatives at four scales."""
    return {"filter energies": filter_energies(images, PATCH)}


def resnet_features(model: nn.Module, images: Tensor) -> Features:
    """Compute PatchCore's features: layers 2 and 3 of a wide ResNet-50, each averaged over 3 x 3 places."""
    x = transforms.normalize(images, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    x = model.layer1(model.maxpool(model.relu(model.bn1(model.conv1(x)))))
    second = model.layer2(x)
    pooled = [F.avg_pool2d(layer, 3, 1, 1) for layer in (second, model.layer3(second))]
    maps = torch.cat([pooled[0], F.interpolate(pooled[1], pooled[0].shape[-2:], mode="bilinear")], 1)
    return {"wide_resnet50_2, random": maps.flatten(2).transpose(1, 2)}


def standardize(queries: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
    """Center and divide every dimension by the bank's statistics."""
    mean, std = bank.mean((0, 1)), bank.std((0, 1)) + 1e-6
    return (queries - mean) / std, (bank - mean) / std


def center(queries: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
    """Subtract every image's median feature."""
    return tuple(x - x.median(1, keepdim=True).values for x in (queries, bank))


SCORINGS: dict[str, tuple[Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None, bool]] = {
    "cosine": (None, True),
    "centered": (center, True),
    "standardized": (standardize, False),
}
"""What is done to the features, and whether distances are cosine (else Euclidean)."""


def anomaly_maps(queries: Tensor, bank: Tensor, scoring: str) -> Tensor:
    """Compute the distance of every patch to its nearest in the bank, resized to the images.

    Args:
        queries: Shape (n, patches, width).
        bank: Features of the shots, shape (k, patches, width).
        scoring: Name in ``SCORINGS``.

    Returns:
        Shape (n, SIZE, SIZE).
    """
    prepare, cosine = SCORINGS[scoring]
    queries, bank = prepare(queries, bank) if prepare else (queries, bank)
    if cosine:
        queries, bank = F.normalize(queries, dim=-1), F.normalize(bank, dim=-1)
        nearest = torch.stack([(1 - q @ bank.flatten(0, 1).t()).amin(1) / 2 for q in queries])
    else:
        nearest = torch.stack([torch.cdist(q, bank.flatten(0, 1)).amin(1) for q in queries])
    side = int(nearest.shape[1] ** 0.5)
    return F.interpolate(nearest.view(-1, 1, side, side), (SIZE, SIZE), mode="bilinear")[:, 0]


def scores(maps: Tensor, category: Category) -> tuple[float, float, float]:
    """Compute image AUROC, pixel AUROC and AUPRO, in percent."""
    counted, names = CategoryScores(), ("image_AUROC", "pixel_AUROC", "pixel_AUPRO")
    counted.update_images(maps.flatten(1).amax(1), None, category.labels)
    counted.update_pixels(maps, None, category.masks)
    values, _ = counted.compute(names)
    return tuple(100 * float(values[name]) for name in names)


def sources(layer_sets: Sequence[tuple[int, ...]], resnet: bool, seed: int) -> list[Callable[[Tensor], Features]]:
    """Return functions from images to features; random weights are drawn with ``seed``."""
    tiny = open_clip.create_model(f"local-dir:{ASSET}").eval()
    random = build_model(seed).eval()
    found = [
        lambda images: clip_features(tiny, images, layer_sets, "anople-tiny"),
        lambda images: clip_features(random, images, layer_sets, "random weights"),
        pixel_features,
        filter_features,
    ]
    if resnet:
        torch.manual_seed(seed)
        network = wide_resnet50_2(weights=None).eval()
        found.append(lambda images: resnet_features(network, images))
    return found


@torch.no_grad()
def collect(images: Tensor, functions: Sequence[Callable[[Tensor], Features]]) -> Features:
    """Collect the features of all rows of the table for all images."""
    parts = [{k: v for f in functions for k, v in f(chunk).items()} for chunk in images.split(16)]
    return {row: torch.cat([part[row] for part in parts]) for row in parts[0]}


Table = dict[tuple[str, str, int, str], list[tuple[float, ...]]]
"""(row, scoring, shots, category) -> (image AUROC, pixel AUROC, AUPRO) of every draw."""


def measure(category: Category, arguments: argparse.Namespace) -> Table:
    """Measure all rows of one category, three draws each; the draw's seed also draws the random weights."""
    table: Table = {}
    for seed in SEEDS:
        functions = sources(arguments.layers, arguments.resnet, seed)
        train, test = (collect(images, functions) for images in (category.train, category.test))
        for row in train:
            for k_shot in SHOTS:
                drawn = draw_shots(category.names, k_shot, seed, category.name)
                for scoring in arguments.scoring:
                    result = scores(anomaly_maps(test[row], train[row][drawn], scoring), category)
                    table.setdefault((row, scoring, k_shot, category.name), []).append(result)
    return table


def report(table: Table, categories: Sequence[str]) -> Iterator[str]:
    """Return the table's lines: image AUROC / pixel AUROC / AUPRO, averaged over draws, at the end over categories."""
    head = [f"{name} {k}-shot" for name in (*categories, "mean") for k in SHOTS]
    yield " | ".join(["features", "scoring", *head])
    yield " | ".join(["---"] * (len(head) + 2))
    for row, scoring in dict.fromkeys(key[:2] for key in table):
        by_category = [[_mean(table[row, scoring, k, name]) for k in SHOTS] for name in categories]
        means = [_mean([cells[i] for cells in by_category]) for i in range(len(SHOTS))]
        cells = [cell for pair in (*by_category, means) for cell in pair]
        yield " | ".join([row, scoring, *("/".join(f"{value:.1f}" for value in cell) for cell in cells)])


def _mean(rows: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    return tuple(statistics.fmean(column) for column in zip(*rows, strict=True))


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, help="folder above categories in MVTec AD's layout")
    parser.add_argument("--category", nargs="+", help="folders below it; default: SampleTextures' categories")
    parser.add_argument("--layers", nargs="+", type=_layers, default=[(4, 5)], help="sets of layers, e.g. 4,5 2,3,4")
    parser.add_argument("--scoring", nargs="+", choices=list(SCORINGS), default=["cosine"])
    parser.add_argument("--resnet", action="store_true", help="also a wide ResNet-50 with random weights (slow)")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    if (arguments.data_root is None) != (arguments.category is None):
        parser.error("give --data-root and --category together, or neither for SampleTextures.")
    return arguments


def _layers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


def main() -> None:
    """Measure and print."""
    arguments = parse_arguments()
    keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    root, names = arguments.data_root, arguments.category
    if root is None:
        names = list(CATEGORIES)
        datamodules = [SampleTextures(category=name) for name in names]
        for datamodule in datamodules:
            datamodule.prepare_data()
        root = datamodules[0].root
    table: Table = {}
    for name in names:
        table |= measure(read_category(root, name), arguments)
    sys.stdout.write("\n".join(report(table, names)) + "\n\n")
    tiny = open_clip.create_model(f"local-dir:{ASSET}").eval()
    for row, model in (("anople-tiny", tiny), ("random weights", build_model(0).eval())):
        quality = held_out_quality(model, layers=arguments.layers[0])
        sys.stdout.write(
            f"held-out procedural images, {row}: {', '.join(f'{k} {v:.2f}' for k, v in quality.items())}\n"
        )


if __name__ == "__main__":
    main()
