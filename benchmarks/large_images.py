# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""What tiles are worth where a defect is small in a large image.

A large image is a panel of photographs of SampleTextures, side by side, of which at most one has a defect: seen whole,
the defect is shrunk with the panel; in tiles, it keeps its size. AnoPLe over anople-tiny is trained on one good panel,
with and without tiles. Shown are image and pixel AUROC in percent, and the seconds for an image, of CPU time.

Usage:
    python benchmarks/large_images.py --category brick --panel 3 --number 10
"""

import argparse
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from anomalib.data import MVTecAD
from anomalib.engine import Engine
from PIL import Image

from anople_anomalib import AnoPLe, TrainingConfig
from anople_anomalib.data import SampleTextures
from anople_anomalib.data.sample_textures import CATEGORIES


def panel_of(files: Sequence[Path | None], side: int) -> Image.Image:
    """Put photographs side by side, row by row; a missing one is black."""
    images = [None if file is None else Image.open(file).convert("RGB") for file in files]
    width, height = next(image.size for image in images if image is not None)
    panel = Image.new("RGB", (side * width, side * height))
    for number, image in enumerate(images):
        if image is not None:
            panel.paste(image, (number % side * width, number // side * height))
    return panel


def write_panels(root: Path, category: str, folder: Path, side: int, number: int) -> None:
    """Write panels in MVTec AD's layout: one to train on, as many good ones to test as defective ones."""
    rng = np.random.default_rng(0)
    source = root / category
    trained, good = (sorted((source / name).iterdir()) for name in ("train/good", "test/good"))
    bad = sorted(path for path in (source / "test").glob("*/*.png") if path.parent.name != "good")

    def drawn(files: Sequence[Path]) -> list[Path]:
        """Draw photographs for a panel, with repeats where there are too few."""
        return [files[index] for index in rng.choice(len(files), side * side, replace=len(files) < side * side)]

    def save(image: Image.Image, name: str) -> None:
        """Write an image below the category's folder."""
        path = folder / category / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)

    save(panel_of(drawn(trained), side), "train/good/000.png")
    for index, defective in enumerate(bad[i] for i in rng.choice(len(bad), number, replace=False)):
        save(panel_of(drawn(good), side), f"test/good/{index:03}.png")
        files, place = drawn(good), int(rng.integers(side * side))
        files[place] = defective
        save(panel_of(files, side), f"test/bad/{index:03}.png")
        mask = source / "ground_truth" / defective.parent.name / f"{defective.stem}_mask.png"
        masks = [mask if at == place else None for at in range(side * side)]
        save(panel_of(masks, side).convert("L"), f"ground_truth/bad/{index:03}_mask.png")


def measure(folder: Path, category: str, tiles: str | list[int] | None, epochs: int) -> str:
    """Train and test on panels; return a line of the table."""
    data = {"root": folder, "category": category, "num_workers": 0, "eval_batch_size": 1, "val_split_mode": "none"}
    datamodule = MVTecAD(**data)
    model = AnoPLe("offline", training=TrainingConfig(epochs=epochs), tiles=tiles, visualizer=False)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    with tempfile.TemporaryDirectory() as results:
        engine = Engine(default_root_dir=results, accelerator="cpu", devices=1, **quiet)
        engine.fit(model, datamodule=datamodule)
        start = time.process_time()
        (metrics,) = engine.test(model, datamodule=datamodule, verbose=False)
    seconds = (time.process_time() - start) / len(datamodule.test_data)
    image, pixel = (100 * metrics[f"{level}_AUROC"] for level in ("image", "pixel"))
    tiling = model.model.tiling
    return f"| {category} | {tiling.rows} x {tiling.columns} | {image:.1f} | {pixel:.1f} | {seconds:.2f} |"


def main() -> None:
    """Write panels, measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--category", nargs="+", choices=CATEGORIES, default=list(CATEGORIES))
    parser.add_argument("--panel", type=int, default=3, help="photographs along a side")
    parser.add_argument("--number", type=int, default=10, help="good and defective panels each")
    parser.add_argument("--epochs", type=int, default=60)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    sys.stdout.write(f"{' '.join(sys.argv)}\n| category | tiles | image AUROC | pixel AUROC | s |\n")
    sys.stdout.write("| --- | ---: | ---: | ---: | ---: |\n")
    for category in arguments.category:
        samples = SampleTextures(category=category)
        samples.prepare_data()
        with tempfile.TemporaryDirectory() as folder:
            write_panels(Path(samples.root), category, Path(folder), arguments.panel, arguments.number)
            for tiles in (None, "auto"):
                sys.stdout.write(f"{measure(Path(folder), category, tiles, arguments.epochs)}\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
