# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Cost and AUROC of the memory bank against the number of shots, with all patches and with a coreset.

A model is trained on one shot. Further shots are then added to its memory without training, as
``extend_memory_bank`` does; the test images are encoded once. The query's time is that of one image. Where there are
fewer than 64 training images, mirrored and turned ones follow when they are used up; the table counts them.

The bank is that of CLIP's features with the paper's fusion, or with ``--second`` that of the second backbone alone,
where the score is the maximum of its map; it holds the turns that the first shot has chosen, and no turned ones follow.

Usage:
    python benchmarks/memory_bank.py                                          # SampleTextures: 12 training images
    python benchmarks/memory_bank.py --data-root DIR --category NAME          # a folder in MVTec AD's layout
    python benchmarks/memory_bank.py --plot memory_bank.png
    python benchmarks/memory_bank.py --second --epochs 1                      # the second memory needs no training
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import torch
from anomalib.data import AnomalibDataModule, MVTecAD
from anomalib.data.utils import read_image
from anomalib.engine import Engine
from torchmetrics.functional.classification import binary_auroc

from anople_anomalib import AnoPLe, MemoryConfig, TrainingConfig
from anople_anomalib.backbones.outputs import VisualFeatures
from anople_anomalib.data import SampleTextures
from anople_anomalib.data.sampling import draw_shots
from anople_anomalib.method.fusion import PaperFusion, fuse
from anople_anomalib.method.memory_bank import MemoryBank
from anople_anomalib.utils.files import relative_names
from anople_anomalib.utils.transforms import resize

mpl.use("Agg")
from matplotlib import pyplot as plt

SHOTS = (1, 2, 4, 8, 16, 32, 64)


class Row(NamedTuple):
    """One line of the table."""

    ratio: float
    shots: int
    turned: int
    features: int
    megabytes: float
    milliseconds: float
    image_auroc: float
    pixel_auroc: float


class Encoded(NamedTuple):
    """The test images as far as no memory is needed.

    Attributes:
        visual: What the visual tower gives of every image.
        probability: p_hat, shape ``(n,)``.
        maps: M_hat, shape ``(n, h, w)``.
        masks: Ground truth, shape ``(n, h, w)``.
    """

    visual: list[VisualFeatures]
    probability: torch.Tensor
    maps: torch.Tensor
    masks: torch.Tensor


def encode(model: AnoPLe, datamodule: AnomalibDataModule) -> Encoded:
    """Run the tower and the decoder over the test images."""
    visual, probability, maps, masks = [], [], [], []
    for item in datamodule.test_data:
        image, mask = model.pre_processor.transform(item.image.unsqueeze(0), item.gt_mask.unsqueeze(0))
        visual.append(model.model.encode_whole(image))
        probability.append(model.model.abnormal_probability(visual[-1]))
        maps.append(model.model.decoder_map(visual[-1]))
        masks.append(mask)
    return Encoded(visual, torch.cat(probability), torch.cat(maps), torch.cat(masks))


def turned(image: torch.Tensor) -> Iterator[torch.Tensor]:
    """Return the seven other ways to lay down a square image of shape ``(1, 3, h, w)``, mirrored first."""
    yield image.flip(-1)
    for turns in (2, 1, 3):
        yield image.rot90(turns, dims=(-2, -1))
        yield image.flip(-1).rot90(turns, dims=(-2, -1))


def judge(model: AnoPLe, bank: MemoryBank, test: Encoded, ratio: float, shots: int, num_turned: int) -> Row:
    """Compare with the ground truth what a bank says: that of CLIP fused with everything else, the second one alone."""
    parts, seconds, memory = model.model, [], []
    query = parts.first_memory_map if parts.second_memory is None else parts.second_memory_map
    for visual in test.visual:
        start = time.perf_counter()
        memory.append(query(visual, bank))
        seconds.append(time.perf_counter() - start)
    maps, labels = torch.cat(memory), test.masks.flatten(1).any(dim=1)
    if parts.second_memory is None:
        maps = fuse(test.maps, maps)
        scores = PaperFusion().score(test.probability, maps)
    else:
        scores = maps.flatten(1).amax(dim=1)
        maps = resize(maps.unsqueeze(1), test.masks.shape[-2:]).squeeze(1)  # masks are as large as the larger input
    return Row(
        ratio,
        shots,
        num_turned,
        len(bank),
        bank.features.nbytes / 1e6,
        1000 * statistics.median(seconds),
        binary_auroc(scores, labels.int()).item(),
        binary_auroc(maps.flatten(), test.masks.flatten().int()).item(),
    )


def make_bank(model: AnoPLe, shots: torch.Tensor, ratio: float) -> MemoryBank:
    """Build a bank of shots: of the second memory if there is one, else of CLIP's."""
    second = model.model.second_memory
    if second is None:
        bank = MemoryBank(model.model.clip.visual.width, ratio)
    else:
        bank = second.memory_bank.twin()
        bank.coreset_sampling_ratio = ratio
    bank.build(shots)
    return bank


@torch.inference_mode()
def rows_of(model: AnoPLe, datamodule: AnomalibDataModule, ratios: list[float]) -> list[Row]:
    """Return all lines of the table."""
    paths = datamodule.train_data.samples.image_path.tolist()
    names, test, rows = relative_names(paths), encode(model, datamodule), []
    images = [model.pre_processor.transform(read_image(path, as_tensor=True).unsqueeze(0)) for path in paths]
    second = model.model.second_memory
    encode_shot = model.model.memory_features if second is None else second.features
    features = [encode_shot(image) for image in images]
    others = chain.from_iterable(zip(*map(turned, images), strict=True))  # all images mirrored, then all upside down
    most = max(SHOTS) if second is None else len(paths)
    further = [encode_shot(image) for image in islice(others, max(0, most - len(paths)))]
    counts = [count for count in SHOTS if count <= most]
    for ratio in ratios:
        for count in counts:
            drawn = draw_shots(names, min(count, len(paths)), seed=0, category=datamodule.category)
            shots = [features[index] for index in drawn] + further[: max(0, count - len(paths))]
            bank = make_bank(model, torch.cat(shots), ratio)
            rows.append(judge(model, bank, test, ratio, len(shots), len(shots) - len(drawn)))
            print("| {:g} | {} | {} | {} | {:.2f} | {:.2f} | {:.4f} | {:.4f} |".format(*rows[-1]), flush=True)
    return rows


def plot(rows: list[Row], path: Path) -> None:
    """Draw cost and AUROC against the size of the bank, one line per coreset ratio."""
    figure, (cost, quality) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for ratio in sorted({row.ratio for row in rows}, reverse=True):
        line = [row for row in rows if row.ratio == ratio]
        features = [row.features for row in line]
        cost.plot(features, [row.milliseconds for row in line], "o-", label=f"{ratio:g} of the patches")
        quality.plot(features, [row.image_auroc for row in line], "o-", label=f"{ratio:g}, image")
        quality.plot(features, [row.pixel_auroc for row in line], "s--", label=f"{ratio:g}, pixel")
    for axes, label in ((cost, "ms per image"), (quality, "AUROC")):
        axes.set(xscale="log", xlabel="features in the memory bank", ylabel=label)
        axes.legend(fontsize="small")
    cost.set_yscale("log")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Train, extend the memory step by step, print the table and draw it if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, help="folder above a category in MVTec AD's layout")
    parser.add_argument("--category", default="brick")
    parser.add_argument("--backbone", default="anople-tiny")
    parser.add_argument("--pretrained")
    parser.add_argument("--second", action="store_true", help="measure the second memory")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--ratios", type=float, nargs="+", default=[1.0, 0.1])
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    if arguments.data_root is None:
        datamodule = SampleTextures(category=arguments.category)
    else:
        datamodule = MVTecAD(root=arguments.data_root, category=arguments.category, num_workers=0)
    model = AnoPLe(
        preset="offline",
        backbone=arguments.backbone,
        pretrained=arguments.pretrained,
        training=TrainingConfig(epochs=arguments.epochs),
        memory=MemoryConfig() if arguments.second else MemoryConfig(backbone="none", fusion="paper"),
        visualizer=False,
    )
    Engine(logger=False, enable_progress_bar=False, limit_val_batches=0).fit(model, datamodule=datamodule)
    print(
        f"\n{arguments.backbone}, {arguments.category}, torch {torch.__version__}, {torch.get_num_threads()} threads\n"
    )
    print("| coreset ratio | shots | of them turned | features | MB | ms per image | image AUROC | pixel AUROC |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    rows = rows_of(model.eval(), datamodule, arguments.ratios)
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
