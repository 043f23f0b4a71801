# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The server of the page: it starts, and returns."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

MAX_FILE_SIZE = "20mb"


def start(
    folder: Path, ckpt_path: Path | None = None, host: str = "127.0.0.1", port: int | None = None, browser: bool = False
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
    if find_spec("gradio") is None:
        msg = 'The page needs Gradio: pip install "anople-anomalib[app]".'
        raise ImportError(msg)
    folder = folder.resolve()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before Gradio is imported: nothing is sent anywhere
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "uploads")
    from .actions import Sessions
    from .page import CSS, build_page, theme
    from .session import Session

    if ckpt_path is not None:
        Session(ckpt_path, folder).close()  # a refused checkpoint is an error now
    sessions = Sessions(folder, ckpt_path)
    page = build_page(sessions, folder / "uploads")
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
        max_file_size=MAX_FILE_SIZE,
        theme=theme(),
        css=CSS,
    )
    return page, sessions
