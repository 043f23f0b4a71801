# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""How many images are called rightly where all good images are shots: thresholds from the shots alone.

AnoPLe over anople-tiny learns from k shots that are all there is, as from a folder of good parts. Shown is the share of
the test set's good images below the threshold, and of its defective ones above, in percent. The factors show what a
threshold that is larger or smaller by so much would do.

Usage:
    python benchmarks/thresholds.py                                       # SampleTextures
    python benchmarks/thresholds.py --data-root DIR --category A B        # folders in MVTec AD's layout
"""

import argparse
import logging
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from anomalib.data import Folder
from anomalib.engine import Engine

from anople_anomalib import AnoPLe
from anople_anomalib.data import SampleTextures
from anople_anomalib.data.image_inputs import each_image
from anople_anomalib.data.sample_textures.datamodule import CATEGORIES
from anople_anomalib.data.sampling import draw_shots


def train_on(files: list[str], epochs: int) -> AnoPLe:
    """Train on a folder of good images and nothing else, and return the model with its thresholds."""
    with tempfile.TemporaryDirectory() as folder:
        good = Path(folder) / "good"
        good.mkdir()
        for file in files:
            shutil.copy(file, good)
        model = AnoPLe(backbone="anople-tiny", k_shot=len(files), epochs=epochs, visualizer=False)
        datamodule = Folder(
            name="part", root=folder, normal_dir="good", val_split_mode="none", test_split_mode="none", num_workers=0
        )
        quiet = {"enable_progress_bar": False, "enable_model_summary": False}
        Engine(default_root_dir=folder, logger=False, accelerator="cpu", **quiet).fit(model, datamodule=datamodule)
        return model.eval()


@torch.no_grad()
def scores_of(model: AnoPLe, folder: Path) -> torch.Tensor:
    """Return the raw scores of all images of a folder, shape ``(N,)``."""
    transform = model.pre_processor.transform
    return torch.cat([model.model(transform(image)).pred_score.flatten() for image in each_image(folder)])


def measure(arguments: argparse.Namespace) -> Iterator[str]:
    """Yield a line of the table for every category, number of shots and factor."""
    root = arguments.data_root
    if root is None:
        for category in arguments.category:
            SampleTextures(category=category).prepare_data()
        root = SampleTextures(category=arguments.category[0]).root
    for category in arguments.category:
        test = root / category / "test"
        files = sorted(str(path) for path in (root / category / "train" / "good").iterdir())
        for shots in arguments.shots:
            model = train_on(
                [files[index] for index in draw_shots(files, shots, arguments.seed, category)], arguments.epochs
            )
            threshold = float(model.post_processor.image_threshold)
            good = scores_of(model, test / "good")
            bad = torch.cat([scores_of(model, folder) for folder in sorted(test.iterdir()) if folder.name != "good"])
            for factor in arguments.factors:
                passed = 100 * (good <= factor * threshold).float().mean()
                found = 100 * (bad > factor * threshold).float().mean()
                yield f"| {category} | {shots} | {factor:g} | {threshold:.3f} | {passed:.0f} / {found:.0f} |"


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, help="folder of categories in MVTec AD's layout")
    parser.add_argument("--category", nargs="+", default=list(CATEGORIES))
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--factors", type=float, nargs="+", default=[1.0])
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="of the draw of the shots")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger().setLevel(logging.ERROR)
    sys.stdout.write(f"{' '.join(sys.argv)}\n| category | shots | factor | threshold | good OK / defective NOT OK |\n")
    sys.stdout.write("| --- | ---: | ---: | ---: | ---: |\n")
    for line in measure(arguments):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
