# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Judge images: a row of predictions.csv and a heat map each.

Usage:
    anople judge FOLDER --model bottle.ckpt
    anople judge 1.png 2.png --model bottle.ckpt --output verdicts
    anople judge FOLDER --model exported/weights/openvino/model.xml
"""

from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from anople_anomalib.utils.files import EXPORTED

from .terminal import FINE, MEGAPIXELS, UNJUDGED, allow_pixels, quiet_trainer

if TYPE_CHECKING:
    from anople_anomalib.anople import AnoPLe
    from anople_anomalib.data.watching import ImageSeries


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument("images", type=Path, nargs="+", help="folders, with everything below them, or files")
    add_shared_arguments(parser)


def add_shared_arguments(parser: ArgumentParser) -> None:
    """Add the arguments that ``judge`` and ``watch`` have."""
    parser.add_argument("--model", type=Path, required=True, help="checkpoint of anople teach or anomalib train")
    parser.add_argument("--output", type=Path, default=Path("verdicts"), help="folder of the rows and pictures")
    parser.add_argument("--pictures", type=bool, default=True, help="whether heat maps are drawn")
    parser.add_argument("--signal", type=str, nargs="+", default=[], help="addresses that get every row")
    parser.add_argument("--look", type=bool | None, default=None, help="whether doubtful parts get the verdict LOOK")
    parser.add_argument("--white", type=float | None, default=None, help="white of images of 16 bits, 4095 for 12")
    parser.add_argument("--megapixels", type=float, default=MEGAPIXELS, help="largest image that is opened")
    parser.add_argument("--accelerator", type=str, default="auto", help="as in Lightning's Trainer")


def run(options: Namespace) -> int:
    """Judge the images."""
    allow_pixels(options.megapixels)
    if options.model.suffix in EXPORTED:  # without torch, and without pictures
        from anople_anomalib.deployment.runtime import write_verdicts

        return write_verdicts(options.images, options.model, options.output, options.signal)
    from anople_anomalib.data.watching import ImageList

    images = ImageList(options.images, options.white)
    return judge(load(options), images, options)


def load(options: Namespace) -> "AnoPLe":
    """Return the model of ``--model``."""
    from anople_anomalib.anople import AnoPLe

    if not options.model.is_file():
        msg = f"There is no model '{options.model}': give the checkpoint that anople teach wrote (--model)."
        raise FileNotFoundError(msg)
    model = AnoPLe.load_from_checkpoint(options.model, **({} if options.pictures else {"visualizer": False}))
    if options.look is not None:
        model.require_thresholds().look = options.look
    return model


def judge(model: "AnoPLe", images: "ImageSeries", options: Namespace) -> int:
    """Judge a series of images.

    Args:
        model: The trained model.
        images: The images.
        options: Those of :func:`add_shared_arguments`.

    Returns:
        An exit code: 0, or 3 where images could not be judged.
    """
    from lightning.pytorch import Trainer

    from anople_anomalib.deployment.predictions import PredictionTable

    trainer = Trainer(
        default_root_dir=options.output,
        accelerator=options.accelerator,
        enable_checkpointing=False,
        **quiet_trainer(),
    )
    trainer.predict(model, dataloaders=[images], return_predictions=False)
    tables = [each for each in trainer.callbacks if isinstance(each, PredictionTable)]  # type: ignore[attr-defined]
    return UNJUDGED if any(table.errors for table in tables) else FINE
