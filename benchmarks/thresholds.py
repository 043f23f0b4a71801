# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""How many images are called rightly by thresholds that good images alone are behind, and by which rule.

AnoPLe over anople-tiny learns from k shots. The thresholds come from the shots, each judged by the memory of the
others, or from the other good training images, by three rules: just above the largest score, the fence, and the
default, which for shots looks at their own patches, too. Shown is the share of the test set's good images below the
threshold, and of its defective ones above, in percent: means over the draws of the shots. Scores can be kept in a file;
what it holds is not measured again.

Usage:
    python benchmarks/thresholds.py                                       # SampleTextures
    python benchmarks/thresholds.py --data-root DIR --category A B        # folders in MVTec AD's layout
"""

import argparse
import json
import logging
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

from anople_anomalib import AnoPLe, TrainingConfig
from anople_anomalib.data import SampleTextures
from anople_anomalib.data.listing import each_image
from anople_anomalib.data.sample_textures import CATEGORIES
from anople_anomalib.data.sampling import draw_shots
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
    """

    category: str
    shots: int
    seed: int
    held_out: list[float]
    spreads: list[float]
    others: list[float]
    good: list[float]
    bad: list[float]


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
    return [float(model.model(transform(image)).pred_score) for file in files for image in each_image(file)]


def measure(root: Path, category: str, shots: int, seed: int, epochs: int) -> Scores:
    """Train once and judge everything."""
    files = sorted((root / category / "train" / "good").iterdir())
    drawn = [files[index] for index in draw_shots([str(file) for file in files], shots, seed, category)]
    others = [file for file in files if file not in drawn]
    model, held_out, spreads = train_on(drawn, epochs)
    tests = sorted((root / category / "test").glob("*/*"))
    good = scores_of(model, [file for file in tests if file.parent.name == "good"])
    bad = scores_of(model, [file for file in tests if file.parent.name != "good"])
    return Scores(category, shots, seed, held_out, spreads, scores_of(model, others), good, bad)


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
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--scores", type=Path, help="file of JSON lines that keeps the scores")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    kept = arguments.scores.read_text().splitlines() if arguments.scores and arguments.scores.is_file() else []
    known = {each[:3]: each for each in (Scores(**json.loads(line)) for line in kept)}
    measured = []
    for category, shots, seed in product(arguments.category, arguments.shots, arguments.seeds):
        if (scores := known.get((category, shots, seed))) is None:
            root = arguments.data_root
            if root is None:
                samples = SampleTextures(category=category)
                samples.prepare_data()
                root = Path(samples.root)
            scores = measure(root, category, shots, seed, arguments.epochs)
            if arguments.scores:
                with arguments.scores.open("a") as file:
                    file.write(f"{json.dumps(scores._asdict())}\n")
        measured.append(scores)
    sys.stdout.write(f"{' '.join(sys.argv)}\n{chr(10).join(table(measured))}\n")


if __name__ == "__main__":
    main()
