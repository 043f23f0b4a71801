# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The server of the page: it starts, and returns."""

import os
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

LOOPBACK = "127.0.0.1"
_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'self'; form-action 'self'; base-uri 'self'"
)
_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_App = Callable[[_Message, _Receive, _Send], Awaitable[None]]


class OwnOriginOnly:
    """Middleware whose header keeps the browser from fetching anything from anywhere else.

    Args:
        app: The application.
    """

    def __init__(self, app: _App) -> None:
        self._app = app

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """Add the header to every response."""

        async def send_with_policy(message: _Message) -> None:
            """Send a message, a response's start with more headers."""
            if message["type"] == "http.response.start":
                extra = [
                    (b"content-security-policy", _POLICY.encode()),
                    (b"x-content-type-options", b"nosniff"),
                    (b"referrer-policy", b"no-referrer"),
                ]
                message["headers"] = [*message.get("headers", []), *extra]
            await send(message)

        await self._app(scope, receive, send_with_policy)


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
        msg = 'The page needs Gradio: pip install "anople-anomalib[app]".'
        raise ImportError(msg) from error
    from starlette.middleware import Middleware

    from .actions import Actions
    from .page import CSS, build_page, theme
    from .sessions import Sessions
    from .uploads import MAX_BYTES

    sessions = Sessions(folder, ckpt_path)
    if ckpt_path is not None:
        sessions.of("check")  # a refused checkpoint is an error now
        sessions.close("check")
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
        app_kwargs={"middleware": [Middleware(OwnOriginOnly)]},
        theme=theme(),
        css=CSS,
    )
    return page, sessions
