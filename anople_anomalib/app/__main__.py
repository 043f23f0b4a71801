# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The command ``anople-app``, or ``python -m anople_anomalib.app``.

Usage:
    anople-app
    anople-app --model.ckpt_path model.ckpt --port 8000
"""

import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

LOOPBACK = "127.0.0.1"


def main(arguments: Sequence[str] | None = None) -> None:
    """Open the page, until it is interrupted."""
    parser = ArgumentParser(prog="anople-app", description="Show it good parts, then ask: a page in the browser.")
    parser.add_argument("--model.ckpt_path", type=Path, help="checkpoint of a trained model to start from")
    parser.add_argument("--host", type=str, default=LOOPBACK, help="address to listen at; 0.0.0.0 for the network")
    parser.add_argument("--port", type=int, default=7860, help="port to listen at")
    parser.add_argument("--open_browser", type=bool, default=False, help="whether to open a browser")
    parsed = parser.parse_args(arguments)
    ckpt_path = parsed.model.ckpt_path
    if ckpt_path is not None and not ckpt_path.is_file():
        sys.exit(f"error: there is no checkpoint '{ckpt_path}'.")
    signal.signal(signal.SIGTERM, _end)
    with tempfile.TemporaryDirectory(prefix="anople-app-") as folder:
        try:
            page, sessions = start(Path(folder), ckpt_path, parsed.host, parsed.port, parsed.open_browser)
        except (ImportError, OSError, ValueError, RuntimeError) as error:
            sys.exit(f"error: {error}")
        if parsed.host != LOOPBACK:
            print("Everybody who reaches this address can use the page: there are no passwords.")
        try:
            page.block_thread()
        finally:
            sessions.close_all()


def start(
    folder: Path, ckpt_path: Path | None = None, host: str = LOOPBACK, port: int | None = None, browser: bool = False
) -> tuple[Any, Any]:
    """Start the page, and return.

    Args:
        folder: Folder for everything that is uploaded.
        ckpt_path: Checkpoint of a trained model to start from.
        host: Address to listen at.
        port: Port; ``None`` for a free one.
        browser: Whether to open a browser.

    Returns:
        The page and its sessions.

    Raises:
        ImportError: If Gradio is not installed.
        ValueError: If the checkpoint is refused.
    """
    folder = folder.resolve()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before Gradio is imported: nothing is sent anywhere
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "uploads")
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        msg = 'anople-app needs Gradio: pip install "anople-anomalib[app]".'
        raise ImportError(msg) from error
    from starlette.middleware import Middleware

    from .actions import Actions
    from .page import CSS, build_page, theme
    from .privacy import HiddenFolder, OwnOriginOnly
    from .sessions import Sessions
    from .uploads import MAX_BYTES

    sessions = Sessions(folder, ckpt_path)
    if ckpt_path is not None:
        sessions.close(str(sessions.of("check").folder) and "check")  # a refused checkpoint is an error now
    page = build_page(Actions(sessions, folder / "uploads"))
    page.launch(
        server_name=host,
        server_port=port,
        inbrowser=browser,
        share=False,
        quiet=False,
        prevent_thread_lock=True,
        show_error=False,
        ssr_mode=False,
        footer_links=[],
        max_file_size=MAX_BYTES,
        app_kwargs={"middleware": [Middleware(OwnOriginOnly), Middleware(HiddenFolder, folder=folder)]},
        theme=theme(),
        css=CSS,
    )
    return page, sessions


def _end(*_: object) -> None:
    """End as by Ctrl-C what is asked to end: nothing that was uploaded stays behind."""
    sys.exit(0)


if __name__ == "__main__":
    main()
