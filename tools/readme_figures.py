# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Make the images of the README, from the bundled backbone and photographs.

    python tools/readme_figures.py

It trains on one photograph, as ``configs/quickstart.yaml`` does, and writes JPEG files to ``docs/images``.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from anomalib.engine import Engine
from matplotlib.figure import Figure

from anople_anomalib import AnoPLe, TrainingConfig
from anople_anomalib.data import SampleTextures
from anople_anomalib.visualization import draw_gallery, draw_nearest_normal, draw_view_attention, select, shots_of

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "images"
SHOWN = ("crack/003", "moss/004", "hole/001")
"""Test images that the images show; the last one is hard, a hole of a few pixels."""
DPI = 90


def draw(epochs: int) -> dict[str, Figure]:
    """Train and draw.

    Args:
        epochs: Number of epochs.

    Returns:
        The images by the name of their file.
    """
    datamodule = SampleTextures(category="brick")
    model = AnoPLe("offline", k_shot=1, training=TrainingConfig(epochs=epochs), visualizer=False)
    with tempfile.TemporaryDirectory() as results:
        engine = Engine(default_root_dir=results, accelerator="cpu", enable_progress_bar=False)
        engine.fit(model=model, datamodule=datamodule)
        predictions = engine.predict(model=model, datamodule=datamodule)
    shown = select(predictions, SHOWN)
    return {
        "gallery": draw_gallery([shown]),
        "why": draw_nearest_normal(model, shown, shots_of(model, datamodule), max_rows=2),
        "attention": draw_view_attention(model, shown, max_rows=2),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the images.

    Args:
        arguments: Arguments of the command line; ``None`` for the process's own.

    Returns:
        0.
    """
    parser = argparse.ArgumentParser(description="Make the images of the README.")
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder of the images (default: docs/images)")
    parser.add_argument("--epochs", type=int, default=60, help="epochs of training (default: 60)")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    for name, figure in draw(options.epochs).items():
        path = options.output / f"{name}.jpg"
        figure.savefig(path, dpi=DPI, pil_kwargs={"quality": 80, "optimize": True})
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
