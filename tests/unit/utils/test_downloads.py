# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Downloads where the Hub answers, and where it does not."""

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import get_session

from anople_anomalib.utils.downloads import impatient_downloads


class Refusing(BaseHTTPRequestHandler):
    """A server that has nothing, but answers."""

    def do_HEAD(self) -> None:  # the name that the standard library looks for
        """Answer that nothing is there."""
        self.send_error(404)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    """Address of a server on this machine."""
    with HTTPServer(("127.0.0.1", 0), Refusing) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy, and no wish to be offline, of the machine that runs the tests."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def test_a_hub_that_answers_is_asked(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", server)
    with impatient_downloads():
        assert not constants.HF_HUB_OFFLINE
        assert get_session().head(server).status_code == 404


def test_a_hub_out_of_reach_is_not_asked_again(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and does not listen
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
        with impatient_downloads(), pytest.raises(Exception, match="offline mode is enabled"):
            get_session().head(server)
    assert not constants.HF_HUB_OFFLINE
    assert get_session().head(server).status_code == 404
