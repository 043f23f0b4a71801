# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The page in the browser."""

import signal
import sys
import tempfile
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from anople_anomalib.utils.files import require_place

from .judge import LOOPBACK, signal_options
from .models import require_model
from .terminal import FINE


def page_options(parser: ArgumentParser) -> None:
    """Add the options of ``page``."""
    parser.add_argument("--model", type=Path | None, default=None, help="checkpoint of a trained model to start from")
    parser.add_argument("--host", type=str, default=LOOPBACK, help="address to listen at; 0.0.0.0 for the network")
    parser.add_argument("--port", type=int, default=7860, help="port to listen at")
    parser.add_argument("--open_browser", type=bool, default=False, help="whether to open a browser")
    parser.add_argument(
        "--journal", type=Path, default=Path("journal.jsonl"), help="journal of all that changes a model"
    )
    signal_options(parser)


def page(options: Namespace) -> int:
    """Open a page in the browser that takes good parts, learns, and judges others."""
    if options.model is not None:
        require_model(options.model)
    require_place(options.journal)
    from anople_anomalib.app.page import start
    from anople_anomalib.deployment.outbox import delivered

    # ends as by Ctrl-C: no upload stays behind
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with (
        delivered(options.output, options.signal) as deliver,
        tempfile.TemporaryDirectory(prefix="anople-page-") as folder,
    ):
        place, send = (options.host, options.port, options.open_browser), deliver if options.signal else None
        page, sessions = start(Path(folder), options.model, *place, options.journal, send)
        if options.host != LOOPBACK:
            print("Everybody who reaches this address can use the page: there are no passwords.")
        try:
            page.block_thread()
        finally:
            sessions.close_all()
    return FINE
