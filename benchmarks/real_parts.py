# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Real parts, offline: AnoPLe by both fusions, its parts, and baselines over the same features; AUROC in percent.

Nothing is downloaded. Measured are folders in MVTec AD's layout, the photographs of SampleTextures, and solar cells:
PyPI's ``elpv-dataset`` (CC BY-NC-SA; measured where it is installed, neither shipped nor trained on). Of the cells the
first 100 good and the first 100 defective ones of a kind are tested, or those that ``--cell-seed`` draws, and the shots
are drawn from the other good ones; ``darkness`` shows what their brightness alone tells.

Rows: ``AnoPLe, weighted`` is the default over anople-tiny; ``AnoPLe, paper`` is equations (12) and (14) over its CLIP
alone; then the parts, the second memory by the preset's score, the others by their largest value. Over the second
backbone's features: ``bank`` is a plain nearest-neighbor bank, ``PatchCore`` anomalib's; ``AnomalyDINO`` and
``SuperADD`` are the recipes of anomalib's models (cosine distances and the mean of the top 1 %; Euclidean distances of
every stage over their widths and the mean of the top 0.1 %). ``32 x 32 pixels`` is the distance to the nearest shot of
that size, a floor. With ``--memories-only`` one step is trained, and those rows alone are measured that do not depend
on the training.

Usage:
    python benchmarks/real_parts.py                                       # SampleTextures
    python benchmarks/real_parts.py --data-root DIR --category A B --cells mono poly --results FILE.csv
"""

import argparse
import csv
import logging
import random
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from anomalib.data import AnomalibDataModule, Folder
from anomalib.models.image.patchcore.torch_model import PatchcoreModel
from parts import train
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import binary_auroc
from torchvision.transforms.v2 import functional as tv_functional

from anople_anomalib import AnoPLe
from anople_anomalib.backbones.outputs import VisualFeatures
from anople_anomalib.backbones.package_weights import PACKAGE_WEIGHTS, package_weights
from anople_anomalib.backbones.timm_features import MemoryBackbone
from anople_anomalib.data import Parts, SampleTextures
from anople_anomalib.data.sample_textures import CATEGORIES
from anople_anomalib.method.fusion import PaperFusion, top_mean
from anople_anomalib.method.memory_bank import MemoryBank
from anople_anomalib.method.scaled_memory_bank import ScaledMemoryBank
from anople_anomalib.method.second_memory import SecondMemory

SIDE = 120  # of the maps whose pixels are compared
Rows = dict[str, tuple[Tensor, Tensor | None]]
"""Score of shape (1,) and map of shape (1, h, w) of an image, by row."""


class Result(NamedTuple):
    """AUROC of a row in percent, for one draw of the shots; without masks there is no pixel AUROC."""

    part: str
    shots: int
    draw: int
    row: str
    image: float
    pixel: float | None


def write_cells(kind: str, folder: Path, seed: int | None) -> None:
    """Copy solar cells of a kind ("mono" or "poly") into a folder: the first ones to test, or those of a seed."""
    spec = find_spec("elpv_dataset")
    if spec is None or spec.origin is None:
        sys.exit("The solar cells come with a package of PyPI: pip install elpv-dataset")
    root = Path(spec.origin).parent / "data"
    table = np.genfromtxt(root / "labels.csv", dtype=["|S19", "<f8", "|S4"], names=["path", "probability", "type"])
    rows = [(row["path"].decode(), float(row["probability"])) for row in table if row["type"].decode() == kind]
    good, defective = ([path for path, probability in rows if probability == wanted] for wanted in (0, 1))
    if seed is not None:
        for paths in (good, defective):
            random.Random(seed).shuffle(paths)  # noqa: S311  # no secret
    shots = random.Random(0).sample(good[100:], 50)  # noqa: S311  # no secret
    for name, files in (("train", shots), ("good", good[:100]), ("defective", defective[:100])):
        (folder / name).mkdir(parents=True)
        for file in files:
            shutil.copy(root / file, folder / name)


def make_datamodule(name: str, root: Path | None, cells: Path) -> AnomalibDataModule:
    """Return the data of a category, without a validation set: nothing is chosen by it."""
    settings = {"num_workers": 0, "val_split_mode": "none"}
    if name in ("mono", "poly"):
        folders = {"normal_dir": "train", "abnormal_dir": "defective", "normal_test_dir": "good"}
        return Folder(name=name, root=cells / name, **folders, **settings)
    return SampleTextures(category=name, **settings) if root is None else Parts(root / name, **settings)


def patchcore(shots: list[Tensor], backbone: str) -> PatchcoreModel:
    """Return anomalib's PatchCore over the stages with strides 8 and 16 of the second memory's backbone."""
    architecture = PACKAGE_WEIGHTS[backbone].architecture
    model = PatchcoreModel(layers=("blocks.2", "blocks.4"), backbone=architecture, pre_trained=False)
    extractor, weights = model.feature_extractor.feature_extractor, package_weights(backbone)
    extractor.load_state_dict({name: weights[name] for name in extractor.state_dict()})
    model.train()
    model.feature_extractor.eval()
    for shot in shots:
        model(shot)
    model.subsample_embedding(0.1)
    return model.eval()


class Recipes:
    """Other methods over the features of the second memory's backbone, and a floor of pixels.

    Args:
        memory: The second memory.
        features: Of the shots, shape ``(k, n, width)``.
        shots: The shots, shape ``(1, 3, H, W)`` each, values in [0, 1].
    """

    def __init__(self, memory: SecondMemory, features: Tensor, shots: list[Tensor]) -> None:
        self._grid, self._widths = memory.backbone.grid, memory.backbone.features.feature_info.channels()
        self._plain = ScaledMemoryBank(memory.backbone.width, self._grid)
        self._cosine = MemoryBank(memory.backbone.width)
        self._stages = [ScaledMemoryBank(width, self._grid) for width in self._widths]
        stages = features.split(self._widths, dim=-1)
        for bank, rows in zip([self._plain, self._cosine, *self._stages], [features, features, *stages], strict=True):
            bank.build(rows)
        self._small = torch.cat([small(shot) for shot in shots])

    def rows(self, features: Tensor, image: Tensor) -> Rows:
        """Return the prediction of every method for the features of an image and the image itself."""
        stages = zip(self._stages, features.split(self._widths, dim=-1), strict=True)
        roots = [(bank(part) * 4 * bank.variance).sqrt() / part.shape[-1] for bank, part in stages]
        plain, cosine, stage = (
            distances.reshape(1, *self._grid)
            for distances in (self._plain(features), self._cosine(features), torch.stack(roots).mean(dim=0))
        )
        return {
            "bank": (top_mean(plain, 0.0), plain),
            "AnomalyDINO": (top_mean(cosine, 0.01), cosine),
            "SuperADD": (top_mean(stage, 0.001), stage),
            "32 x 32 pixels": ((small(image) - self._small).norm(dim=1).amin().reshape(1), None),
            "darkness": (1 - image.mean().reshape(1), None),
        }


def small(image: Tensor) -> Tensor:
    """Return an image as a vector of 32 x 32 pixels."""
    return tv_functional.resize(image, [32, 32], antialias=True).flatten(1)


def rows_of(model: AnoPLe, recipes: Recipes, baseline: PatchcoreModel, image: Tensor, *, trained: bool) -> Rows:
    """Return the prediction of every row for an image of shape (1, 3, H, W) in [0, 1]."""
    parts, images = model.model, model.pre_processor.transform(image)
    visual, other = parts.encode_whole(images), baseline(as_backbone_sees(image, parts.second_memory.backbone))
    rows = trained_rows(model, images, visual) if trained else {}
    second = parts.second_memory_map(visual)
    return rows | {
        "second memory": (top_mean(second, parts.fusion.top_share), second),
        "PatchCore": (other.pred_score.flatten(), other.anomaly_map.squeeze(1)),
        **recipes.rows(visual.second_features, image),
    }


def trained_rows(model: AnoPLe, images: Tensor, visual: VisualFeatures) -> Rows:
    """Return the prediction of every row that depends on the training."""
    parts, paper, whole = model.model, PaperFusion(), model.model(images)
    probability, decoder_map = parts.abnormal_probability(visual), parts.decoder_map(visual)
    first = parts.first_memory_map(visual)
    fused = paper.map(decoder_map, first)
    return {
        "AnoPLe, weighted": (whole.pred_score.flatten(), whole.anomaly_map.squeeze(1)),
        "AnoPLe, paper": (paper.score(probability, fused), fused),
        "prompts": (probability, None),
        "decoder": (decoder_map.flatten(1).amax(dim=1), decoder_map),
        "CLIP's memory": (first.flatten(1).amax(dim=1), first),
    }


def as_backbone_sees(image: Tensor, backbone: MemoryBackbone) -> Tensor:
    """Resize and normalize an image as an EfficientNet-Lite was trained."""
    return 2 * tv_functional.resize(image, list(backbone.image_size), antialias=True) - 1


def auroc(scores: Tensor, labels: Tensor) -> float:
    """AUROC in percent; scaled, since torchmetrics takes what exceeds 1 for logits."""
    return 100 * float(binary_auroc(scores / scores.max().clamp_min(1e-9), labels.int()))


@torch.no_grad()
def test(model: AnoPLe, datamodule: AnomalibDataModule, *, trained: bool) -> Iterator[tuple[str, float, float | None]]:
    """Yield image and pixel AUROC of every row."""
    datamodule.setup()
    names = next(iter(model.drawn_samples.values()))
    items = [datamodule.train_data[index] for index in range(len(datamodule.train_data))]
    shots = [item.image[None] for item in items if any(str(item.image_path).endswith(f"/{name}") for name in names)]
    second = model.model.second_memory
    features = torch.cat([second.features(model.pre_processor.transform(shot)) for shot in shots])
    recipes = Recipes(second, features, shots)
    baseline = patchcore([as_backbone_sees(shot, second.backbone) for shot in shots], second.backbone.name)
    scores: dict[str, list[Tensor]] = {}
    maps: dict[str, list[Tensor]] = {}
    labels, masks = [], []
    for item in (datamodule.test_data[index] for index in range(len(datamodule.test_data))):
        labels.append(int(item.gt_label))
        if item.gt_mask is not None:
            masks.append(F.interpolate(item.gt_mask[None, None].float(), size=(SIDE, SIDE))[0] > 0.5)
        for row, (score, anomaly_map) in rows_of(model, recipes, baseline, item.image[None], trained=trained).items():
            scores.setdefault(row, []).append(score)
            if anomaly_map is not None:
                maps.setdefault(row, []).append(F.interpolate(anomaly_map[:, None], size=(SIDE, SIDE))[:, 0])
    for row, values in scores.items():
        pixel = auroc(torch.cat(maps[row]).flatten(), torch.cat(masks).flatten()) if masks and row in maps else None
        yield row, auroc(torch.cat(values), torch.tensor(labels)), pixel


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, help="folder above categories in MVTec AD's layout")
    parser.add_argument("--category", nargs="*", default=[], help="folders below it")
    parser.add_argument("--textures", nargs="*", default=list(CATEGORIES), help="of SampleTextures")
    parser.add_argument("--cells", nargs="*", default=[], choices=["mono", "poly"])
    parser.add_argument("--cell-seed", type=int, help="draw the cells to test, instead of the first ones")
    parser.add_argument("--shots", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--memories-only", action="store_true", help="rows that do not depend on the training")
    parser.add_argument("--results", type=Path, help="CSV file of what is measured; what it has is not run again")
    return parser.parse_args()


def measure(part: str, shots: int, draw: int, root: Path | None, cells: Path, *, trained: bool) -> list[Result]:
    """Train one model and test it and its baselines."""
    arguments = {"preset": "offline", "training": {} if trained else {"epochs": 1}}
    model = train(make_datamodule(part, root, cells), shots, draw, arguments, "32-true")
    weights = [round(weight, 2) for weight in model.model.fusion.weights.tolist()]
    turns = model.model.second_memory.turns.int().tolist()
    sys.stderr.write(f"{part}, {shots} shots, draw {draw}: weights {weights}, turns {turns}\n")
    rows = test(model, make_datamodule(part, root, cells), trained=trained)
    return [Result(part, shots, draw, row, image, pixel) for row, image, pixel in rows]


def read_results(file: Path | None) -> list[Result]:
    """Read what was measured before."""
    if file is None or not file.exists():
        return []
    with file.open(newline="") as lines:
        return [
            Result(part, int(shots), int(draw), row, float(image), float(pixel) if pixel else None)
            for part, shots, draw, row, image, pixel in csv.reader(lines)
        ]


def report(results: Sequence[Result]) -> Iterator[str]:
    """Yield the lines of the table, means over the draws; the mean of the textures is a column of its own."""
    columns: dict[str, set[str]] = {}
    for result in results:
        columns.setdefault(f"{result.part}, {result.shots}-shot", set()).add(result.part)
        if result.part in CATEGORIES:
            columns.setdefault(f"textures, {result.shots}-shot", set()).add(result.part)
    yield f"| | {' | '.join(columns)} |"
    yield f"|{' --- |' * (len(columns) + 1)}"
    for row in dict.fromkeys(result.row for result in results):
        cells = [
            mean([each for each in results if each.row == row and each.part in parts and f"{each.shots}-" in column])
            for column, parts in columns.items()
        ]
        yield f"| {row} | {' | '.join(cells)} |"


def mean(draws: Sequence[Result]) -> str:
    """Image and pixel AUROC, each the mean over the draws."""
    image, pixel = np.mean([draw.image for draw in draws]), [draw.pixel for draw in draws if draw.pixel is not None]
    return f"{image:.1f}/{np.mean(pixel):.1f}" if pixel else f"{image:.1f}"


def main() -> None:
    """Measure and print a Markdown table."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    for name in ("anomalib", "anople_anomalib", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    results = read_results(arguments.results)
    done = {(result.part, result.shots, result.draw) for result in results}
    parts = [*arguments.category, *arguments.textures, *arguments.cells]
    with tempfile.TemporaryDirectory() as cells:
        for kind in arguments.cells:
            write_cells(kind, Path(cells) / kind, arguments.cell_seed)
        for shots, part, draw in product(arguments.shots, parts, arguments.seeds):
            if (part, shots, draw) in done:
                continue
            root = arguments.data_root if part in arguments.category else None
            new = measure(part, shots, draw, root, Path(cells), trained=not arguments.memories_only)
            results += new
            if arguments.results is not None:
                with arguments.results.open("a", newline="") as lines:
                    csv.writer(lines).writerows(new)
    sys.stdout.write("\n".join(report(results)) + "\n")


if __name__ == "__main__":
    main()
