# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Verdicts on images: in folders, or by a service."""

import logging
import os
import signal
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jsonargparse import ArgumentParser, Namespace

from anople_anomalib.utils.files import EXPORTED, one_line

from .terminal import FINE, MEGAPIXELS, UsageError, add_shared, allow_pixels, quiet_trainer

if TYPE_CHECKING:
    from anople_anomalib.anople import AnoPLe
    from anople_anomalib.data.image_series import ImageSeries
    from anople_anomalib.deployment.runtime import Frame
    from anople_anomalib.deployment.sources import Camera

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
"""Address that this machine alone reaches."""
_SECONDS_TO_END = 30  # of a service


def add_judging(parser: ArgumentParser) -> None:
    """Add the options that ``judge`` and ``watch`` have."""
    parser.add_argument("--output", type=Path, default=Path("verdicts"), help="folder of the rows and pictures")
    parser.add_argument("--pictures", type=bool, default=True, help="whether heat maps are drawn")
    parser.add_argument("--signal", type=str, nargs="+", default=[], help="addresses that get every row")
    add_shared(parser, "model", "look", "white", "megapixels", "accelerator")


def is_exported(options: Namespace) -> bool:
    """Return whether ``--model`` is an exported model, and refuse options that it cannot have."""
    if options.model.suffix not in EXPORTED:
        if find_spec("anople_anomalib.anople") is None:
            msg = f"anople-runtime judges by exported models alone, .onnx or .xml, got --model {options.model}."
            raise UsageError(msg)
        return False
    if options.look is not None or options.white is not None:
        msg = "--look is in an exported model already, and it takes 8 bits alone, without --white: leave both out."
        raise UsageError(msg)
    if options.accelerator not in ("auto", "cpu"):
        msg = f"--accelerator {options.accelerator} is for checkpoints: leave it out, exported models run on the CPU."
        raise UsageError(msg)
    return True


def judge_options(parser: ArgumentParser) -> None:
    """Add the options of ``judge``."""
    parser.add_argument("images", type=Path, nargs="*", help="folders, with everything below them, or files")
    video = "in their place a video file, for an exported model"
    parser.add_argument("--source", type=Path | None, default=None, help=video)
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between two frames of it; 0 for all")
    parser.add_argument("--fail-on-flag", action="store_true", help="end with 1 where a part is not OK")
    engines = "where an exported model judges: here, or on a cluster of Ray, which goes on where a run before ended"
    parser.add_argument("--engine", type=Literal["local", "ray"], default="local", help=engines)
    add_judging(parser)


def judge(options: Namespace) -> int:
    """Judge images: a row of predictions.csv and a heat map each."""
    from anople_anomalib.deployment.runtime import ExportedModel, cores, exit_code, frames_in, write_verdicts

    if bool(options.images) == (options.source is not None):
        msg = "Give folders or files of images, or a video by --source."
        raise UsageError(msg)
    exported = is_exported(options)
    if options.source is not None and not (exported and options.source.is_file()):
        msg = f"--source takes the file of a video, and an exported model, got '{options.source}', '{options.model}'."
        raise UsageError(msg)
    if options.engine == "ray" and (options.source is not None or not exported):
        msg = "--engine ray takes folders or files of images, and an exported model: write one by anople export."
        raise UsageError(msg)
    allow_pixels(options.megapixels)
    if options.engine == "ray":
        return exit_code(_judge_on_ray(frames_in(options.images), options), fail_on_flag=options.fail_on_flag)
    if exported:  # without torch
        if options.source is None:
            frames: Iterable[Frame] = (listed := frames_in(options.images))
            at_once = min(cores(), len(listed))
        else:
            from anople_anomalib.deployment.sources import Camera

            frames, at_once = Camera(str(options.source), options.interval).frames(), cores()
        model = ExportedModel(options.model, at_once)
        found = write_verdicts(frames, model, options.output, options.signal, pictures=options.pictures)
        return exit_code(found, fail_on_flag=options.fail_on_flag)
    from anople_anomalib.data.image_series import ImageList

    images = ImageList(options.images, options.white)
    counts = judge_series(load_judge(options, pictures=options.pictures), images, options, options.signal)
    return exit_code(counts, fail_on_flag=options.fail_on_flag)


def _judge_on_ray(frames: "Sequence[Frame]", options: Namespace) -> dict[str, int]:
    """Judge the images on a cluster that this model has no row of yet, as their files are, and count the verdicts."""
    from anople_anomalib.deployment.on_ray import rows_on_ray
    from anople_anomalib.deployment.runtime import ExportedModel, write_verdicts
    from anople_anomalib.deployment.table import rows_of
    from anople_anomalib.utils.lines import sole_writer

    model, columns = ExportedModel(options.model), ("path", "modified", "bytes", "model")
    with sole_writer(options.output / "predictions"):  # before the rows of an earlier run are read
        known = {tuple(map(row.get, columns)) for row in rows_of(options.output / "predictions.jsonl")}
        new = [
            frame
            for frame in frames
            if (frame.path, *map(frame.file.get, columns[1:3]), model.metadata.model_id) not in known
        ]
        kinds = {"pictures": options.pictures, "append": True, "rows": rows_on_ray}
        return write_verdicts(new, model, options.output, options.signal, **kinds)


def load_judge(options: Namespace, *, pictures: bool) -> "AnoPLe":
    """Return the model of ``--model``, which draws pictures or not, with ``--look``."""
    from .models import load_model

    model = load_model(options.model, **({} if pictures else {"visualizer": False}))
    if options.look is not None:
        model.require_thresholds().look = options.look
    return model


def judge_series(
    model: "AnoPLe", images: "ImageSeries", options: Namespace, signals: Sequence[str] = ()
) -> dict[str, int]:
    """Judge a series of images into the folder ``--output``, send the rows on, and count the verdicts."""
    from lightning.pytorch import Trainer

    from anople_anomalib.deployment.outbox import delivered
    from anople_anomalib.deployment.predictions import PredictionTable
    from anople_anomalib.deployment.table import message_of

    quiet = quiet_trainer(options.accelerator)
    trainer = Trainer(default_root_dir=options.output, enable_checkpointing=False, **quiet)
    with delivered(options.output, signals) as deliver:
        images.observers.append(send := lambda row, _pixels: deliver(message_of(row)))
        try:
            trainer.predict(model, dataloaders=[images], return_predictions=False)
        finally:
            images.observers.remove(send)
    tables = [each for each in trainer.callbacks if isinstance(each, PredictionTable)]  # type: ignore[attr-defined]
    return tables[0].counts


def serve_options(parser: ArgumentParser) -> None:
    """Add the options of ``serve``."""
    parser.add_argument("--model", type=Path, required=True, help="exported model, a file .onnx or .xml")
    beyond = "address to listen at; beyond this machine only with a token in ANOPLE_TOKEN"
    parser.add_argument("--host", type=str, default=LOOPBACK, help=beyond)
    parser.add_argument("--port", type=int, default=8000, help="port to listen at")
    parser.add_argument("--waiting", type=int, default=16, help="images that may wait; more are answered by 429")
    parser.add_argument("--megabytes", type=float, default=32, help="largest file of an image")
    parser.add_argument("--megapixels", type=float, default=100, help="largest image")
    camera = "camera whose frames are judged at a POST to /trigger, as of anople watch"
    parser.add_argument("--source", type=str | None, default=None, help=camera)
    signal_options(parser)


def signal_options(parser: ArgumentParser) -> None:
    """Add the options of signals where nothing else is written, for ``serve`` and ``page``."""
    parser.add_argument("--signal", type=str, nargs="+", default=[], help="addresses that get every row")
    parser.add_argument("--output", type=Path, default=Path("verdicts"), help="folder of rows that wait for them")


def serve(options: Namespace) -> int:
    """Judge images that are posted to a local service, by an exported model.

    Until SIGINT or SIGTERM; images that wait are judged before.
    """
    token = os.environ.get("ANOPLE_TOKEN", "")
    if options.host not in {LOOPBACK, "localhost", "::1"} and not token:
        msg = f"--host {options.host} is open to others: set a token in the environment variable ANOPLE_TOKEN first."
        raise UsageError(msg)
    try:
        import uvicorn

        from anople_anomalib.deployment.service import make_service
    except ImportError as error:
        msg = f"anople serve needs libraries ({error.name} is missing): pip install fastapi prometheus-client uvicorn."
        raise ImportError(msg) from error
    from anople_anomalib.deployment.outbox import delivered
    from anople_anomalib.deployment.runtime import ExportedModel

    allow_pixels(max(options.megapixels, MEGAPIXELS))
    model = ExportedModel(options.model)
    limits = {"waiting": options.waiting, "megabytes": options.megabytes, "megapixels": options.megapixels}
    with (
        _listening(options.host, options.port) as place,
        delivered(options.output, options.signal) as deliver,
        _camera(options.source) as camera,
    ):
        service = make_service(model, token=token, deliver=deliver, camera=camera, **limits)
        print(f"Judging at http://{options.host}:{options.port}/judge; Ctrl-C ends it.", flush=True)
        for number in (signal.SIGINT, signal.SIGTERM):  # which uvicorn raises once more after its graceful end
            signal.signal(number, lambda *_: None)
        config = uvicorn.Config(service, log_level="warning", timeout_graceful_shutdown=_SECONDS_TO_END)
        uvicorn.Server(config).run(sockets=[place])
    return FINE


def _listening(host: str, port: int) -> socket.socket:
    """Return a socket at an address, before anything is loaded: uvicorn would end the process in words of its own."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        msg = f"Nothing can listen at {host}:{port} ({one_line(error)}): give another --port or --host."
        raise ValueError(msg) from error


@contextmanager
def _camera(address: str | None) -> Iterator["Camera | None"]:
    """Yield the camera of an address, which is closed at the end; ``None`` without one."""
    if address is None:
        yield None
        return
    from anople_anomalib.deployment.sources import Camera

    with closing(Camera(address, 0)) as camera:
        yield camera
