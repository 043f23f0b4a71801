# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""How many images are called rightly by thresholds that good images alone are behind, and by which rule.

AnoPLe over anople-tiny learns from k shots. The thresholds come from the shots, each judged by the memory of the
others, or from the other good training images, by three rules: just above the largest score, the fence, and the
default, which for shots looks at their own patches, too. Shown is the share of the test set's good images below the
threshold, and of its defective ones above, in percent: means over the draws of the shots. With ``--odd`` a share of the
shots and of the others, each at least one of four, is odd: a hair lies on it, it is turned, or a shadow falls on it.
Scores can be kept in a file; what it holds is not measured again.

Usage:
    python benchmarks/thresholds.py                                       # SampleTextures
    python benchmarks/thresholds.py --data-root DIR --category A B        # folders in MVTec AD's layout
    python benchmarks/thresholds.py --shots 4 10 --odd 0.1                # a tenth of the good images is odd
"""

import argparse
import json
import logging
import math
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from anomalib.data import Folder
from anomalib.engine import Engine
from PIL import Image, ImageDraw
from torchvision.transforms.v2 import functional as tv_functional

from anople_anomalib import AnoPLe, TrainingConfig
from anople_anomalib.data import SampleTextures
from anople_anomalib.data.listing import each_image
from anople_anomalib.data.sample_textures import CATEGORIES
from anople_anomalib.data.sampling import draw_shots
from anople_anomalib.method.fusion_weights import draw
from anople_anomalib.metrics.post_processing import ExactPostProcessor
from anople_anomalib.metrics.thresholds import between, good_threshold

RULES: dict[str, Callable[[torch.Tensor, list[float]], float]] = {
    "largest": lambda scores, _: between(float(scores.max()), None),
    "fence": lambda scores, _: good_threshold(scores),
    "default": lambda scores, spreads: good_threshold(scores, spreads=spreads),
}
SOURCES = ("shots", "others")


class Scores(NamedTuple):
    """Raw scores of one training run.

    Attributes:
        category: The category.
        shots: Number k of shots.
        seed: Seed of their draw.
        held_out: Of the shots, each by the memory of the others.
        spreads: How far patches of each shot are from those elsewhere in it.
        others: Of the other good training images.
        good: Of the good test images.
        bad: Of the defective ones.
        odd: Share of the shots and of the others that was odd.
    """

    category: str
    shots: int
    seed: int
    held_out: list[float]
    spreads: list[float]
    others: list[float]
    good: list[float]
    bad: list[float]
    odd: float = 0.0


def hair(image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Lay a dark, curved hair over an image, half its side long."""
    height, width = image.shape[-2:]
    x, y, angle = (draw(generator, low, high) for low, high in ((0.3, 0.7), (0.3, 0.7), (0, 2 * math.pi)))
    bend, points = draw(generator, -0.15, 0.15), [(x * width, y * height)]
    for _ in range(20):
        angle, x, y = angle + bend, x + 0.025 * math.cos(angle), y + 0.025 * math.sin(angle)
        points.append((x * width, y * height))
    mask = Image.new("L", (width, height))
    ImageDraw.Draw(mask).line(points, fill=255, width=max(2, round(min(height, width) / 150)), joint="curve")
    return image * (1 - 0.7 * tv_functional.to_dtype(tv_functional.pil_to_tensor(mask), scale=True))


def turned(image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Turn an image by 10 to 20 degrees, mirrored beyond its edges."""
    angle, margin = draw(generator, 10, 20), [side // 3 for side in (image.shape[-1], image.shape[-2])]
    padded = torch.nn.functional.pad(image, [margin[0], margin[0], margin[1], margin[1]], mode="reflect")
    rotated = tv_functional.rotate(padded, angle, interpolation=tv_functional.InterpolationMode.BILINEAR)
    return tv_functional.center_crop(rotated, list(image.shape[-2:]))


def shaded(image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Let a soft shadow fall on one side of an image, which takes half of the light."""
    angle, edge = draw(generator, 0, 2 * math.pi), draw(generator, -0.2, 0.2)
    rows, columns = (torch.linspace(-0.5, 0.5, side) for side in image.shape[-2:])
    along = rows[:, None] * math.sin(angle) + columns * math.cos(angle)
    return image * (1 - 0.5 * torch.sigmoid((along - edge) / 0.05))


ODD = (hair, turned, shaded)


def with_odd(files: Sequence[Path], share: float, seed: int, folder: Path) -> list[Path]:
    """Replace a share of files by odd copies of them in a folder: at least one of four files, none of fewer."""
    number = math.ceil(share * len(files)) if len(files) > 3 else 0
    copies = []
    for index, file in enumerate(files[:number]):
        generator = torch.Generator().manual_seed(1000 * seed + index)
        _, image = next(iter(each_image(file)))
        changed = ODD[(seed + index) % len(ODD)](image, generator).clamp(0, 1)
        copies.append(folder / f"{len(files)}_{index}_{file.stem}.png")
        tv_functional.to_pil_image(changed[0]).save(copies[-1])
    return [*copies, *files[number:]]


class Recorder(ExactPostProcessor):
    """Keeps the scores that the thresholds are fitted to."""

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *args: Any, **kwargs: Any) -> None:
        """Keep the scores of a batch."""
        self.seen = [*getattr(self, "seen", []), *outputs.pred_score.flatten().tolist()]
        self.seen_spreads = self.spreads
        super().on_validation_batch_end(trainer, pl_module, outputs, *args, **kwargs)


def train_on(files: Sequence[Path], epochs: int) -> tuple[AnoPLe, list[float], list[float]]:
    """Train on a folder of good images and nothing else; return the model, scores and spreads of the shots."""
    with tempfile.TemporaryDirectory() as folder:
        good = Path(folder) / "good"
        good.mkdir()
        for file in files:
            shutil.copy(file, good)
        recorder = Recorder()
        model = AnoPLe(
            preset="offline",
            k_shot=len(files),
            training=TrainingConfig(epochs=epochs),
            visualizer=False,
            post_processor=recorder,
        )
        datamodule = Folder(
            name="part", root=folder, normal_dir="good", val_split_mode="none", test_split_mode="none", num_workers=0
        )
        quiet = {"enable_progress_bar": False, "enable_model_summary": False}
        Engine(default_root_dir=folder, logger=False, accelerator="cpu", **quiet).fit(model, datamodule=datamodule)
        return model.eval(), recorder.seen, recorder.seen_spreads


@torch.no_grad()
def scores_of(model: AnoPLe, files: Sequence[Path]) -> list[float]:
    """Return the raw scores of images."""
    transform = model.pre_processor.transform
    return [float(model.model(transform(image)).pred_score) for _, image in each_image(files)]


def measure(root: Path, category: str, shots: int, seed: int, odd: float, epochs: int) -> Scores:
    """Train once and judge everything."""
    files = sorted((root / category / "train" / "good").iterdir())
    drawn = [files[index] for index in draw_shots([str(file) for file in files], shots, seed, category)]
    others = [file for file in files if file not in drawn]
    with tempfile.TemporaryDirectory() as folder:
        model, held_out, spreads = train_on(with_odd(drawn, odd, seed, Path(folder)), epochs)
        normal = scores_of(model, with_odd(others, odd, seed, Path(folder)))
    tests = sorted((root / category / "test").glob("*/*"))
    good = scores_of(model, [file for file in tests if file.parent.name == "good"])
    bad = scores_of(model, [file for file in tests if file.parent.name != "good"])
    return Scores(category, shots, seed, held_out, spreads, normal, good, bad, odd)


def judged_rightly(scores: Scores, source: str, rule: str) -> tuple[float, float]:
    """Return the shares of good images below and of defective ones above a threshold, in percent."""
    normal, spreads = (scores.held_out, scores.spreads) if source == "shots" else (scores.others, [])
    threshold = RULES[rule](torch.tensor(normal), spreads)
    good, bad = torch.tensor(scores.good), torch.tensor(scores.bad)
    return 100 * float((good <= threshold).float().mean()), 100 * float((bad > threshold).float().mean())


def table(measured: Sequence[Scores]) -> Iterator[str]:
    """Yield the lines of the table."""
    yield f"| category | shots | thresholds from | {' | '.join(RULES)} |"
    yield f"| --- | ---: | --- | {' | '.join('---:' for _ in RULES)} |"
    groups = dict.fromkeys((each.category, each.shots) for each in measured)
    for (category, shots), source in product(groups, SOURCES):
        draws = [each for each in measured if (each.category, each.shots) == (category, shots)]
        number = shots if source == "shots" else len(draws[0].others)
        cells = []
        for rule in RULES:
            passed, found = torch.tensor([judged_rightly(each, source, rule) for each in draws]).mean(dim=0).tolist()
            cells.append(f"{passed:.0f} / {found:.0f}")
        yield f"| {category} | {shots} | {number} {source} | {' | '.join(cells)} |"


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, help="folder of categories in MVTec AD's layout")
    parser.add_argument("--category", nargs="+", default=list(CATEGORIES))
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3], help="of the draws of the shots")
    parser.add_argument("--odd", type=float, default=0.0, help="share of the good images that are odd")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--scores", type=Path, help="file of JSON lines that keeps the scores")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    kept = arguments.scores.read_text().splitlines() if arguments.scores and arguments.scores.is_file() else []
    known = {(*each[:3], each.odd): each for each in (Scores(**json.loads(line)) for line in kept)}
    measured = []
    for category, shots, seed in product(arguments.category, arguments.shots, arguments.seeds):
        if (scores := known.get((category, shots, seed, arguments.odd))) is None:
            root = arguments.data_root
            if root is None:
                samples = SampleTextures(category=category)
                samples.prepare_data()
                root = Path(samples.root)
            scores = measure(root, category, shots, seed, arguments.odd, arguments.epochs)
            if arguments.scores:
                with arguments.scores.open("a") as file:
                    file.write(f"{json.dumps(scores._asdict())}\n")
        measured.append(scores)
    sys.stdout.write(f"{' '.join(sys.argv)}\n{chr(10).join(table(measured))}\n")


if __name__ == "__main__":
    main()
