# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Judge images that are posted to a local service, by an exported model.

Usage:
    anople serve --model exported/weights/onnx/model.onnx
    curl --data-binary @part.png http://127.0.0.1:8000/judge
"""

import os
import signal
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from .terminal import FINE, MEGAPIXELS, UsageError, allow_pixels

_LOOPBACK = {"127.0.0.1", "localhost", "::1"}
_SECONDS_TO_END = 30


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument("--model", type=Path, required=True, help="exported model, a file .onnx or .xml")
    parser.add_argument("--host", type=str, default="127.0.0.1", help="address to listen at; beyond this machine "
                        "only with a token in ANOPLE_TOKEN")  # fmt: skip
    parser.add_argument("--port", type=int, default=8000, help="port to listen at")
    parser.add_argument("--waiting", type=int, default=16, help="images that may wait; more are answered by 429")
    parser.add_argument("--megabytes", type=float, default=32, help="largest file of an image")
    parser.add_argument("--megapixels", type=float, default=100, help="largest image")
    parser.add_argument("--signal", type=str, nargs="+", default=[], help="addresses that get every row")
    parser.add_argument("--output", type=Path, default=Path("verdicts"), help="folder of rows that wait for them")


def run(options: Namespace) -> int:
    """Serve until SIGINT or SIGTERM; images that wait are judged before."""
    token = os.environ.get("ANOPLE_TOKEN", "")
    if options.host not in _LOOPBACK and not token:
        msg = f"--host {options.host} is open to others: set a token in the environment variable ANOPLE_TOKEN first."
        raise UsageError(msg)
    try:
        import uvicorn

        from anople_anomalib.deployment.service import make_service
    except ImportError as error:
        msg = f"anople serve needs libraries ({error.name} is missing): pip install 'anople-anomalib[serve]'."
        raise ImportError(msg) from error
    from anople_anomalib.deployment.outbox import delivered
    from anople_anomalib.deployment.runtime import ExportedModel

    allow_pixels(max(options.megapixels, MEGAPIXELS))
    model = ExportedModel(options.model)
    with delivered(options.output, options.signal) as deliver:
        service = make_service(
            model,
            token=token,
            waiting=options.waiting,
            megabytes=options.megabytes,
            megapixels=options.megapixels,
            deliver=deliver,
        )
        print(f"Judging at http://{options.host}:{options.port}/judge; Ctrl-C ends it.", flush=True)
        for number in (signal.SIGINT, signal.SIGTERM):  # which uvicorn raises once more after its graceful end
            signal.signal(number, lambda *_: None)
        uvicorn.run(
            service,
            host=options.host,
            port=options.port,
            log_level="warning",
            timeout_graceful_shutdown=_SECONDS_TO_END,
        )
    return FINE
