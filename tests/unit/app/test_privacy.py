# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The middleware that calls a folder by another name."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import PureWindowsPath
from typing import Any

import pytest

from anople_anomalib.app.privacy import ALIAS, HiddenFolder, OwnOriginOnly

FOLDER = PureWindowsPath("C:/Users/me/page")  # whose backslashes are written twice in JSON


def ask(kind: bytes, parts: Sequence[bytes], content: object = None) -> tuple[dict[str, Any], bytes, list[Any]]:
    """Send JSON to an application that answers with ``parts``; return what it was asked, and what came back."""
    seen: dict[str, Any] = {}
    sent: list[dict[str, Any]] = []
    body = json.dumps(content).encode()
    requests = [
        {"type": "http.request", "body": body[:3], "more_body": True},
        {"type": "http.request", "body": body[3:]},
    ]

    async def application(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401
        """Keep what is asked, and answer."""
        seen.update(path=scope["path"], headers=dict(scope["headers"]), content=json.loads((await receive())["body"]))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        for number, part in enumerate(parts, start=1):
            await send({"type": "http.response.body", "body": part, "more_body": number < len(parts)})

    async def receive() -> dict[str, Any]:
        """Return the next part of the request."""
        return requests.pop(0)

    async def send(message: dict[str, Any]) -> None:
        """Keep a message."""
        sent.append(message)

    headers = [(b"content-type", b"application/json"), (b"content-length", b"1")]
    scope = {"type": "http", "path": f"/file={ALIAS}/a.png", "headers": headers}
    asyncio.run(OwnOriginOnly(HiddenFolder(application, FOLDER))(scope, receive, send))  # type: ignore[arg-type]
    return seen, b"".join(message.get("body", b"") for message in sent), sent


def test_requests_name_the_folder_inside() -> None:
    seen, _, _ = ask(b"text/plain", [b""], {"path": f"{ALIAS}/a.png"})
    assert seen["path"] == rf"/file={FOLDER}/a.png"
    assert seen["content"] == {"path": f"{FOLDER}/a.png"}
    assert int(seen["headers"][b"content-length"]) == len(json.dumps(seen["content"]))


@pytest.mark.parametrize("cut", [1, 12, 30])
def test_json_is_translated_whole_with_its_length(cut: int) -> None:
    answer = json.dumps([f"{FOLDER}/a.png", "b"]).encode()
    _, body, sent = ask(b"application/json", [answer[:cut], answer[cut:]])
    assert json.loads(body) == [f"{ALIAS}/a.png", "b"]
    headers = dict(sent[0]["headers"])
    assert int(headers[b"content-length"]) == len(body)
    assert b"default-src" in headers[b"content-security-policy"]


def test_events_are_translated_one_by_one_and_files_not_at_all() -> None:
    events = [f"data: {json.dumps(str(FOLDER))}\n\n".encode()] * 2
    _, body, sent = ask(b"text/event-stream; charset=utf-8", events)
    assert body == f'data: "{ALIAS}"\n\n'.encode() * 2
    assert len(sent) == 3
    assert ask(b"image/png", [str(FOLDER).encode()])[1] == str(FOLDER).encode()
