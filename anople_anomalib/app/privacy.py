# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""What the browser may fetch, and what it may not know: middleware around Gradio's application."""

import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from pathlib import Path
from typing import Any

ALIAS = "/anople-files"
"""What the page's folder is called outside."""
_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'self'; form-action 'self'; base-uri 'self'"
)
_JSON, _EVENTS = b"application/json", b"text/event-stream"
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


class HiddenFolder:
    """Middleware that calls a folder by another name in all that is sent, and understands that name.

    Gradio tells the browser where on the machine an uploaded file is, and takes that for the file's name.

    Args:
        app: The application.
        folder: The folder that nobody has to know.
    """

    def __init__(self, app: _App, folder: Path) -> None:
        self._app = app
        self._folder = str(folder)
        written = json.dumps(self._folder)[1:-1]  # where a backslash is written twice
        self._inside = tuple(dict.fromkeys(name.encode() for name in (written, self._folder)))

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """Translate the address and the JSON of a request, and the text of the response."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope = {**scope, "path": scope["path"].replace(ALIAS, self._folder)}
        if _header(scope, b"content-type").startswith(_JSON):
            body = (await _whole(receive)).replace(ALIAS.encode(), self._inside[0])
            scope["headers"] = _with_length(scope["headers"], len(body))
            receive = _once(body, receive)
        await self._app(scope, receive, self._translating(send))

    def _translating(self, send: _Send) -> _Send:
        """Return a function that sends messages with the folder's other name in their JSON and in their events."""
        starts: list[_Message] = []  # of a response in JSON; waits for the body, whose length it states
        parts: list[bytes] = []
        kind = b""

        async def translated(message: _Message) -> None:
            """Send a message: JSON when it is whole, events one by one, all else as it is."""
            nonlocal kind
            if message["type"] == "http.response.start":
                kind = _header(message, b"content-type")
                if kind.startswith(_JSON):
                    starts.append(message)
                    return
            elif message["type"] == "http.response.body" and kind.startswith(_EVENTS):
                message = {**message, "body": self._hidden(message.get("body", b""))}
            elif message["type"] == "http.response.body" and starts:
                parts.append(message.get("body", b""))
                if message.get("more_body"):
                    return
                body = self._hidden(b"".join(parts))
                await send({**starts[0], "headers": _with_length(starts.pop()["headers"], len(body))})
                message = {**message, "body": body}
            await send(message)

        return translated

    def _hidden(self, content: bytes) -> bytes:
        """Return text with the folder's other name."""
        for name in self._inside:
            content = content.replace(name, ALIAS.encode())
        return content


def _header(message: _Message, name: bytes) -> bytes:
    """Return a header of a request or a response; nothing where there is none."""
    return next((value for key, value in message.get("headers", []) if key.lower() == name), b"")


def _with_length(headers: Iterable[tuple[bytes, bytes]], length: int) -> list[tuple[bytes, bytes]]:
    """Return headers that state another length."""
    others = [(key, value) for key, value in headers if key.lower() != b"content-length"]
    return [*others, (b"content-length", str(length).encode())]


async def _whole(receive: _Receive) -> bytes:
    """Return the body of a request."""
    parts, is_more = [], True
    while is_more:
        message = await receive()
        parts.append(message.get("body", b""))
        is_more = message.get("more_body", False)
    return b"".join(parts)


def _once(body: bytes, receive: _Receive) -> _Receive:
    """Return a function that hands a body over, and afterwards what else comes, as the end of the connection."""
    bodies = [body]

    async def received() -> _Message:
        """Return the body, or what else comes."""
        return {"type": "http.request", "body": bodies.pop()} if bodies else await receive()

    return received
