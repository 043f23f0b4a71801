# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Commands that write a checkpoint: of a model that is taught, taught more, or has other thresholds."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from anople_anomalib.config import MemoryConfig, TrainingConfig
from anople_anomalib.presets import preset_names
from anople_anomalib.utils.arguments import did_you_mean
from anople_anomalib.utils.files import require_checkpoint_place

from .terminal import FINE, UsageError, add_shared, allow_pixels, quiet_lightning, quiet_trainer

if TYPE_CHECKING:
    from anople_anomalib.anople import AnoPLe
    from anople_anomalib.data.listing import Listing
    from anople_anomalib.metrics.bounds import Rate
    from anople_anomalib.tiles.smallest_defect import Fineness

_SHOTS = 4
_ENOUGH = 8
"""Good parts from which on some are kept for the threshold unless --shots says otherwise."""


def require_model(path: Path) -> None:
    """Refuse a model that is not there, before libraries are loaded."""
    if not path.is_file():
        msg = f"There is no model '{path}': give the checkpoint that anople teach wrote (--model)."
        raise FileNotFoundError(msg)


def load_model(path: Path, **arguments: Any) -> "AnoPLe":
    """Return the model of a checkpoint, with other arguments than it was saved with where they are given."""
    require_model(path)
    from anople_anomalib.anople import AnoPLe

    quiet_lightning()
    return AnoPLe.load_from_checkpoint(path, **arguments)


def teach_options(parser: ArgumentParser) -> None:
    """Add the options of ``teach``."""
    parser.add_argument("good", type=Path, nargs="+", help="folders or files of good parts")
    parser.add_argument(
        "--shots", type=int | None, default=None, help="number of them to learn from; the others set the threshold"
    )
    parser.add_argument("--preset", type=str, default="offline", help=f"one of {', '.join(preset_names())}")
    parser.add_argument("--output", type=Path | None, default=None, help="checkpoint to write (default: NAME.ckpt)")
    parser.add_argument("--name", type=str | None, default=None, help="name of the parts (default: their folder's)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw of the shots")
    parser.add_argument("--epochs", type=int | None, default=None, help="number of epochs (default: the preset's)")
    tiles, region = str | list[int] | None, str | list[list[float]] | None
    parser.add_argument("--tiles", type=tiles, default=None, help="tiles of large images: auto or [2,3]")
    parser.add_argument("--roi", type=region, default=None, help="region: a mask or a polygon")
    parser.add_argument(
        "--smallest-defect",
        type=int | None,
        default=None,
        help="its length in pixels of the photographs: sets the size",
    )
    add_shared(parser, "white", "megapixels", "accelerator", "reason")


def teach(options: Namespace) -> int:
    """Teach a model from photographs of good parts."""
    if options.preset not in preset_names():
        meant = did_you_mean(options.preset, preset_names())
        msg = f"There is no preset {options.preset!r}{meant}: give one of {', '.join(preset_names())}."
        raise UsageError(msg)
    from anople_anomalib.data.listing import list_images, name_of

    if options.smallest_defect is not None and (options.smallest_defect < 1 or options.tiles is not None):
        msg = f"--smallest-defect must be 1 or more and chooses --tiles itself, got {options.smallest_defect}."
        raise UsageError(msg)
    first = options.good[0].resolve()
    name = options.name or name_of(first if first.is_dir() else first.parent)
    output = options.output or Path(f"{name}.ckpt")
    if output.exists():
        msg = f"'{output}' exists already: give another --output, nothing is overwritten."
        raise FileExistsError(msg)
    require_checkpoint_place(output)
    from anomalib.engine import Engine

    from anople_anomalib.anople import AnoPLe
    from anople_anomalib.data.parts import Parts
    from anople_anomalib.deployment.journal import journal_of

    allow_pixels(options.megapixels)
    quiet = quiet_trainer(options.accelerator)
    listing = list_images(options.good)
    shots, others = divide([file.absolute() for file in listing.images], options.shots, options.seed, name)
    _say_places(shots, others, listing)
    fineness = None if options.smallest_defect is None else _fineness(options, shots)
    size, tiling = (None, None) if fineness is None else (fineness.image_size, fineness.tiling)
    tiles = [tiling.rows, tiling.columns] if tiling is not None and tiling.number > 1 else options.tiles
    memory, training = MemoryConfig(image_size=size), TrainingConfig(epochs=options.epochs)
    model = AnoPLe(options.preset, k_shot=None, training=training, memory=memory, tiles=tiles, roi=options.roi)
    if fineness is not None:
        _say_cost(options.smallest_defect, fineness, model)
    data = Parts("/", name, shots, calibration_dir=others or None, white=options.white)
    with tempfile.TemporaryDirectory(prefix="anople-") as folder:
        engine = Engine(default_root_dir=folder, **quiet)
        engine.fit(model, datamodule=data)
        model.save_checkpoint(output)
    model.note(journal_of(output), "teach", options.reason, output, listing.images, shots=[each.name for each in shots])
    if model.teaching:
        print(model.teaching)
    threshold = float(model.require_thresholds().image_threshold)
    print(f"{output}: image threshold {threshold:.4g}. To judge parts: anople judge FOLDER --model {output}")
    return FINE


def _fineness(options: Namespace, shots: Sequence[Path]) -> "Fineness":
    """Choose how finely images are seen, by the smallest defect."""
    from anople_anomalib.data.image_reading import image_size_of
    from anople_anomalib.presets import resolve
    from anople_anomalib.tiles.smallest_defect import fineness_for

    memory = resolve(options.preset, whole=options.roi is None)["memory"]
    return fineness_for(options.smallest_defect, [image_size_of(shot) for shot in shots], memory, len(shots))


def _say_cost(defect: int, fineness: "Fineness", model: "AnoPLe") -> None:
    """Say how finely images are seen, and its costs."""
    from anople_anomalib.tiles.smallest_defect import seconds_of

    size, tiling, seconds = fineness.image_size, fineness.tiling, seconds_of(model.model, fineness)
    tiles = f" in {tiling.rows} x {tiling.columns} tiles" if tiling.number > 1 else ""
    print(f"Defects of {defect} pixels: images are seen at {size} x {size} pixels{tiles}, at most {seconds:.2g} s and")
    print(f"{fineness.cost.megabytes:.0f} MB an image in the second memory.", flush=True)


def divide(files: Sequence[Path], shots: int | None, seed: int, name: str) -> tuple[list[Path], list[Path]]:
    """Divide good parts by name and seed into shots and images that set the threshold; none is left out.

    Without a number of shots there are 4, or all of fewer than 8: each is then judged by the memory of the others.

    Raises:
        ValueError: If there are fewer parts than shots, or none.
    """
    from anople_anomalib.data.sampling import draw_shots
    from anople_anomalib.utils.files import relative_names

    if not files:
        msg = "There is no image of a good part: give a folder of images such as .png or .jpg."
        raise ValueError(msg)
    if shots is not None and not 0 < shots <= len(files):
        msg = f"--shots must be between 1 and the number of good parts, {len(files)}, got {shots}."
        raise ValueError(msg)
    number = shots or (_SHOTS if len(files) >= _ENOUGH else len(files))
    drawn = {files[place] for place in draw_shots(relative_names(files), number, seed, name)}
    return [file for file in files if file in drawn], [file for file in files if file not in drawn]


def _say_places(shots: Sequence[Path], others: Sequence[Path], listing: "Listing") -> None:
    """Say where each image went."""

    def names(files: Sequence[Path]) -> str:
        """List the names of files."""
        return ", ".join(file.name for file in files)

    print(f"{len(shots)} good parts are learned: {names(shots)}")
    if others:
        print(f"{len(others)} set the threshold: {names(others)}")
    else:
        print("None is left for the threshold: it comes from each of them judged by the memory of the others.")
    unread = "not read by their ending; anople convert makes PNG"
    for reason, files in {"hidden": listing.hidden, unread: listing.others}.items():
        if files:
            print(f"{len(files)} files are left out, {reason}: {names(files)}")


def learn_more_options(parser: ArgumentParser) -> None:
    """Add the options of ``learn-more``."""
    parser.add_argument("images", type=Path, nargs="+", help="files or folders of new good parts")
    add_shared(parser, "model")
    parser.add_argument("--output", type=Path, required=True, help="checkpoint to write")
    parser.add_argument("--category", type=str | None, default=None, help="their category, for a memory per category")
    parser.add_argument("--threshold_images", type=Path, nargs="+", help="good parts for new thresholds")
    add_shared(parser, "reason")


def learn_more(options: Namespace) -> int:
    """Teach a model more good parts, without training."""
    from anople_anomalib.deployment.journal import journal_of

    model = load_model(options.model)
    require_checkpoint_place(options.output)
    before = len(model.model.memory_bank or ())
    model.extend_memory_bank(options.images, options.category)
    if options.threshold_images:
        model.recompute_thresholds(options.threshold_images)
    model.save_checkpoint(options.output)
    images = [*options.images, *(options.threshold_images or ())]
    model.note(journal_of(options.output), "learn-more", options.reason, options.output, images)
    print(f"{options.output}: {before} features became {len(model.model.memory_bank or ())}.")
    if options.threshold_images:
        say_rate(model.require_thresholds().false_alarms())
    return FINE


def say_rate(rate: "Rate") -> None:
    """Say how many good parts are above a new threshold, and how many more would prove lower rates."""
    print(f"Good images above the image threshold: {rate}. {rate.wishes()}")


def threshold_options(parser: ArgumentParser) -> None:
    """Add the options of ``threshold``."""
    add_shared(parser, "model")
    parser.add_argument("--output", type=Path, required=True, help="file to write, which may be the one that is read")
    parser.add_argument("--image_threshold", type=float | None, default=None, help="raw threshold of image scores")
    parser.add_argument("--pixel_threshold", type=float | None, default=None, help="raw threshold of anomaly maps")
    parser.add_argument("--images", type=Path, nargs="+", help="files or folders of good parts, none of them learned")
    parser.add_argument(
        "--false-alarms", type=float | None, default=None, help="largest share of new good parts above the thresholds"
    )
    add_shared(parser, "look", "reason")
    parser.add_argument("--confidence", type=float, default=0.95, help="confidence with which --false-alarms is kept")


def threshold(options: Namespace) -> int:
    """Write a model with other thresholds."""
    thresholds = options.image_threshold, options.pixel_threshold
    changed = options.look is not None or thresholds != (None, None)
    if not options.images and (not changed or options.false_alarms is not None):
        msg = "Give --images, good parts that set the thresholds, or --image_threshold or --pixel_threshold."
        raise UsageError(msg)
    from anople_anomalib.deployment.journal import journal_of

    model = load_model(options.model)
    require_checkpoint_place(options.output)
    processor = model.require_thresholds()
    before = float(processor.image_threshold), float(processor.pixel_threshold)
    if options.images:
        from anople_anomalib.metrics.thresholds import Promise

        promise = None if options.false_alarms is None else Promise(options.false_alarms, options.confidence)
        model.recompute_thresholds(options.images, promise)
    model.set_thresholds(*thresholds)
    processor.look = processor.look if options.look is None else options.look
    model.save_checkpoint(options.output)
    journal = journal_of(options.output)
    model.note(journal, "threshold", options.reason, options.output, options.images or (), before=before)
    print(
        f"{options.output}: image threshold {before[0]:.4g} -> {float(processor.image_threshold):.4g}, "
        f"pixel threshold {before[1]:.4g} -> {float(processor.pixel_threshold):.4g}."
    )
    if processor.normal_scores:
        say_rate(processor.false_alarms(options.confidence))
    if doubt := processor.doubt():
        print(doubt)
    return FINE
