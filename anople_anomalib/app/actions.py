# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""What the page's controls do: each takes the session and returns what the page shows."""

from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from . import drawing, samples
from . import intake as taking
from .judging import note_on
from .messages import AppError, message_of
from .session import Session
from .sessions import Sessions
from .training import in_background

RATES = {"by the good images": None, "1 %": 0.01, "5 %": 0.05, "10 %": 0.1, "20 %": 0.2, "30 %": 0.3}
"""Choices of allowed false alarms, which are kept with 95 % confidence."""
SHORT, FULL = "Short: 60 steps", "Full: 60 epochs"

View = tuple[Any, ...]
"""Message, good images, answers, threshold, choice of an answer, commands."""


class Actions:
    """Handlers of the page.

    Args:
        sessions: The sessions of all pages.
        uploads: Folder that Gradio puts uploaded files in; they are removed as soon as they are taken in.
    """

    def __init__(self, sessions: Sessions, uploads: Path) -> None:
        self._sessions, self._uploads = sessions, uploads.resolve()

    def handler(self, work: Callable[..., str | None]) -> Callable[..., View]:
        """Make a handler of a function of a session; what it raises becomes the page's one message."""

        def handle(request: gr.Request, *values: Any) -> View:
            """Do the work in the session of the request."""
            try:
                session = self.session(request)
                with session.lock:
                    return view(session, work(session, *values) or "")
            except Exception as error:  # noqa: BLE001  # one message, whatever it is
                return (alert(message_of(error)), *(gr.skip() for _ in range(5)))

        # Gradio looks at the signature to see how many values it may pass
        return handle

    def session(self, request: gr.Request) -> Session:
        """Return the session of a request."""
        return self._sessions.of(str(request.session_hash))

    def close(self, request: gr.Request) -> None:
        """End the session of a page that was closed."""
        self._sessions.close(str(request.session_hash))

    # -------------------------------------------------------------------------------------------------- teach

    def add_good(self, session: Session, files: Sequence[str] | str | None) -> None:
        """Add uploaded good images."""
        with_uploads(session.add_good, files, self._uploads)

    def teach(self, request: gr.Request, part: str, preset: str, length: str) -> Iterator[View]:
        """Train, and tell every step."""
        try:
            session = self.session(request)
            is_done = in_background(lambda: session.teach(part, preset, full=length == FULL))
            while not is_done():
                progress = session.progress
                yield (drawing.bar(str(progress), progress.step, progress.steps), *(gr.skip() for _ in range(6)))
            progress = session.progress
            ended = "Stopped early" if progress.stopped else "Done"
            text = f"{ended}: {progress.step} of {progress.steps} steps. Ask it now."
            yield (drawing.bar(text, progress.step, progress.steps), *view(session, ""))
        except Exception as error:  # noqa: BLE001  # one message, whatever it is
            yield (drawing.bar("Not trained.", 0, 0), alert(message_of(error)), *(gr.skip() for _ in range(5)))

    def stop(self, request: gr.Request) -> None:
        """Stop the training run after the present step."""
        self.session(request).progress.stop()

    # -------------------------------------------------------------------------------------------------- ask

    def ask(self, session: Session, files: Sequence[str] | str | None) -> None:
        """Judge uploaded images."""
        with_uploads(session.ask, files, self._uploads)

    def take(self, make: Callable[[Session], Path]) -> Callable[[gr.Request], tuple[Any, Any]]:
        """Make a handler that prepares a file to take away."""

        def handle(request: gr.Request) -> tuple[Any, Any]:
            """Make the file in the session of the request."""
            try:
                session = self.session(request)
                with session.lock:
                    return "", str(make(session))
            except Exception as error:  # noqa: BLE001  # one message, whatever it is
                return alert(message_of(error)), gr.skip()

        return handle


def add_samples(session: Session, category: str) -> None:
    """Take a sample part's good images instead of those there are."""
    files = samples.good_files(category)
    session.clear_good()
    session.add_good(files, [samples.name_of(path) for path in files])


def ask_samples(session: Session, category: str) -> None:
    """Judge images of a sample part."""
    _ = session.model
    files = samples.files_to_ask(category)
    session.ask(files, [samples.name_of(path) for path in files])


def allow(session: Session, rate: str) -> str:
    """Move the threshold by a share of false alarms."""
    session.allow_false_alarms(RATES[rate])
    return note_on(session.good, session.thresholds)


def correct(session: Session, choice: str | None) -> str:
    """Say that an image is good."""
    answer = chosen(session, choice)
    session.this_is_good(answer)
    return f"'{answer.photo.name}' is in the memory now; the threshold was updated."


def chosen(session: Session, choice: str | None) -> Any:
    """Return the answer of a choice.

    Raises:
        AppError: If nothing is chosen.
    """
    number = (choice or "").partition(".")[0]
    if not number.isdigit() or not 0 < int(number) <= len(session.answers):
        msg = "Choose an image first."
        raise AppError(msg)
    return session.sorted_answers[int(number) - 1]


def with_uploads(take: Callable[[Sequence[Path]], None], files: Sequence[str] | str | None, uploads: Path) -> None:
    """Take uploaded files in, and remove them from where Gradio has put them.

    What is dropped while the page still holds earlier files comes with them: those that are gone have been taken in.
    """
    paths = [Path(file) for file in dict.fromkeys([files] if isinstance(files, str) else files or [])]
    uploaded = [path for path in paths if path.resolve().is_relative_to(uploads)]
    left = [path for path in paths if path not in uploaded or path.exists()]
    if paths and not left:
        return
    try:
        take(left)
    finally:
        for path in uploaded:
            path.unlink(missing_ok=True)


def view(session: Session, note: str) -> View:
    """Return all that the page shows of a session."""
    text = f'<p role="status" class="anople-message">{escape(note)}</p>' if note else ""
    choices = [f"{number}. {answer.photo.name}" for number, answer in enumerate(session.sorted_answers, 1)]
    threshold, commands = gr.skip(), ""
    if session.is_trained:
        scores = [answer.score for answer in session.answers] + [score for score, _ in session.good]
        limit = session.thresholds.image
        shown = [float(f"{value:.4g}") for value in (limit, 1.05 * max([2 * limit, *scores]))]  # for the eye alone
        threshold = gr.update(value=shown[0], maximum=shown[1], interactive=True)
        commands = taking.commands(session)
    choice = gr.update(choices=choices, value=choices[0] if choices else None)
    return text, drawing.thumbnails(session), drawing.gallery(session), threshold, choice, commands


def alert(text: str) -> str:
    """Return the one message of an error."""
    return f'<p role="alert" class="anople-message anople-error">{escape(text)}</p>'
