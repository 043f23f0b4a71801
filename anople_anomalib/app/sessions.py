# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The sessions of all people who have the page open: one each, and nobody sees another's."""

import threading
from pathlib import Path

from .session import Session


class Sessions:
    """Sessions by the random name that Gradio gives to an open page.

    Args:
        root: Folder of all sessions' folders.
        ckpt_path: Checkpoint of a trained model that every session starts from.
    """

    def __init__(self, root: Path, ckpt_path: Path | None = None) -> None:
        self._root, self._ckpt_path = root, ckpt_path
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    def of(self, name: str) -> Session:
        """Return the session of a page; a new one where there is none yet."""
        with self._lock:
            if name not in self._sessions:
                self._sessions[name] = Session(self._ckpt_path, self._root)
            return self._sessions[name]

    def close(self, name: str) -> None:
        """End the session of a page that was closed, and remove what it holds."""
        with self._lock:
            session = self._sessions.pop(name, None)
        if session is not None:
            session.close()

    def close_all(self) -> None:
        """End all sessions."""
        for name in list(self._sessions):
            self.close(name)
