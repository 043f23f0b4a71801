# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Open a page in the browser that takes good parts, learns, and judges others.

Usage:
    anople page
    anople page --model bottle.ckpt --port 8000
"""

import signal
import sys
import tempfile
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from .terminal import FINE

_LOOPBACK = "127.0.0.1"


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument("--model", type=Path | None, default=None, help="checkpoint of a trained model to start from")
    parser.add_argument("--host", type=str, default=_LOOPBACK, help="address to listen at; 0.0.0.0 for the network")
    parser.add_argument("--port", type=int, default=7860, help="port to listen at")
    parser.add_argument("--open_browser", type=bool, default=False, help="whether to open a browser")


def run(options: Namespace) -> int:
    """Open the page, until it is interrupted."""
    if options.model is not None and not options.model.is_file():
        msg = f"There is no model '{options.model}': check --model."
        raise FileNotFoundError(msg)
    from anople_anomalib.app.serving import start

    signal.signal(signal.SIGTERM, _end)
    with tempfile.TemporaryDirectory(prefix="anople-page-") as folder:
        page, sessions = start(Path(folder), options.model, options.host, options.port, options.open_browser)
        if options.host != _LOOPBACK:
            print("Everybody who reaches this address can use the page: there are no passwords.")
        try:
            page.block_thread()
        finally:
            sessions.close_all()
    return FINE


def _end(*_: object) -> None:
    """End as by Ctrl-C on SIGTERM: no upload stays behind."""
    sys.exit(0)
