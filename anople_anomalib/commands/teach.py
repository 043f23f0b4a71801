# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Teach a model from photographs of good parts.

Usage:
    anople teach DIR/good
    anople teach DIR/good --shots 4 --preset offline --output bottle.ckpt
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jsonargparse import ArgumentParser, Namespace

from anople_anomalib.config import TrainingConfig
from anople_anomalib.presets import preset_names
from anople_anomalib.utils.arguments import did_you_mean

from .terminal import FINE, MEGAPIXELS, UsageError, allow_pixels, quiet_trainer

_SHOTS = 4
_ENOUGH = 8
"""Good parts from which on some are kept for the threshold unless --shots says otherwise."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument("good", type=Path, nargs="+", help="folders or files of good parts")
    parser.add_argument(
        "--shots", type=int | None, default=None, help="number of them to learn from; the others set the threshold"
    )
    parser.add_argument("--preset", type=str, default="offline", help=f"one of {', '.join(preset_names())}")
    parser.add_argument("--output", type=Path | None, default=None, help="checkpoint to write (default: NAME.ckpt)")
    parser.add_argument("--name", type=str | None, default=None, help="name of the parts (default: their folder's)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw of the shots")
    parser.add_argument("--epochs", type=int | None, default=None, help="number of epochs (default: the preset's)")
    parser.add_argument(
        "--tiles", type=str | list[int] | None, default=None, help="tiles of large images: auto or [2,3]"
    )
    parser.add_argument(
        "--roi",
        type=str | list[list[float]] | None,
        default=None,
        help="region: a mask or a polygon",
    )
    parser.add_argument("--white", type=float | None, default=None, help="white of images of 16 bits, 4095 for 12")
    parser.add_argument("--megapixels", type=float, default=MEGAPIXELS, help="largest image that is opened")
    parser.add_argument("--accelerator", type=str, default="auto", help="as in Lightning's Trainer")


class Places(NamedTuple):
    """Good parts by their use.

    Attributes:
        shots: Files that the model learns from.
        calibration: Files that set the threshold.
    """

    shots: list[Path]
    calibration: list[Path]


def divide(files: Sequence[Path], shots: int | None, seed: int, name: str) -> Places:
    """Divide good parts into shots and images for the threshold; none is left out.

    Args:
        files: The good parts.
        shots: Number of shots; ``None`` for 4, or all of fewer than 8: each is then judged by the memory of the others.
        seed: Seed of the draw.
        name: Name of the parts.

    Raises:
        ValueError: If there are fewer parts than shots, or none.
    """
    from anople_anomalib.data.sampling import draw_shots, relative_names

    if not files:
        msg = "There is no image of a good part: give a folder of images such as .png or .jpg."
        raise ValueError(msg)
    if shots is not None and not 0 < shots <= len(files):
        msg = f"--shots must be between 1 and the number of good parts, {len(files)}, got {shots}."
        raise ValueError(msg)
    number = shots or (_SHOTS if len(files) >= _ENOUGH else len(files))
    drawn = set(draw_shots(relative_names(files), number, seed, name))
    return Places(
        [file for place, file in enumerate(files) if place in drawn],
        [file for place, file in enumerate(files) if place not in drawn],
    )


def run(options: Namespace) -> int:
    """Teach a model and write its checkpoint."""
    if options.preset not in preset_names():
        meant = did_you_mean(options.preset, preset_names())
        msg = f"There is no preset {options.preset!r}{meant}: give one of {', '.join(preset_names())}."
        raise UsageError(msg)
    first = options.good[0].resolve()
    folder = first if first.is_dir() else first.parent
    from anople_anomalib.data.listing import name_of

    name = options.name or name_of(folder)
    output = options.output or Path(f"{name}.ckpt")
    if output.exists():
        msg = f"'{output}' exists already: give another --output, nothing is overwritten."
        raise FileExistsError(msg)
    _teach(options, name, output)
    return FINE


def _teach(options: Namespace, name: str, output: Path) -> None:
    from anomalib.engine import Engine

    from anople_anomalib.anople import AnoPLe
    from anople_anomalib.data.listing import list_images
    from anople_anomalib.data.parts import Parts

    allow_pixels(options.megapixels)
    listing = list_images(options.good)
    places = divide([file.absolute() for file in listing.images], options.shots, options.seed, name)
    _say_places(places, listing.hidden, listing.others)
    training = TrainingConfig(epochs=options.epochs)
    model = AnoPLe(options.preset, k_shot=None, training=training, tiles=options.tiles, roi=options.roi)
    data = Parts("/", name, places.shots, calibration_dir=places.calibration or None, white=options.white)
    with tempfile.TemporaryDirectory(prefix="anople-") as folder:
        engine = Engine(accelerator=options.accelerator, default_root_dir=folder, **quiet_trainer())
        engine.fit(model, datamodule=data)
        model.save_checkpoint(output)
    if model.teaching:
        print(model.teaching)
    threshold = float(model.require_thresholds().image_threshold)
    print(f"{output}: image threshold {threshold:.4g}. To judge parts: anople judge FOLDER --model {output}")


def _say_places(places: Places, hidden: Sequence[Path], others: Sequence[Path]) -> None:
    """Say where every image went."""

    def names(files: Sequence[Path]) -> str:
        """Return the names of files."""
        return ", ".join(file.name for file in files)

    print(f"{len(places.shots)} good parts are learned: {names(places.shots)}")
    if places.calibration:
        print(f"{len(places.calibration)} set the threshold: {names(places.calibration)}")
    else:
        print("None is left for the threshold: it comes from each of them judged by the memory of the others.")
    for files, reason in (
        (hidden, "hidden"),
        (others, "not read by their ending; anople convert makes PNG"),
    ):
        if files:
            print(f"{len(files)} files are left out, {reason}: {names(files)}")
