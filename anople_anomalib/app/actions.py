# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The actions of the page's controls, each in the session of whoever has the page open: nobody sees another's."""

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from html import escape
from pathlib import Path
from threading import Lock
from typing import Any

import gradio as gr

from anople_anomalib.deployment import table
from anople_anomalib.metrics.bounds import Rate
from anople_anomalib.metrics.study import Criteria

from . import drawing, proving, taking
from .session import Session
from .training import Answer
from .uploads import AppError, sample_shots, samples_to_ask, samples_to_prove, without_paths

logger = logging.getLogger(__name__)

RATES = {"by the good images": None, "1 %": 0.01, "5 %": 0.05, "10 %": 0.1, "20 %": 0.2, "30 %": 0.3}
"""Choices of allowed false alarms, which are kept with 95 % confidence."""
SHORT, FULL = "Short: 60 steps", "Full: 60 epochs"
USER_ERRORS = (ValueError, TypeError, RuntimeError, OSError, ImportError)
"""Errors of the package with a message for its user."""

View = tuple[Any, ...]
"""Message, good images, answers, threshold, choice of an answer, commands, threshold of the study, its rates."""
_Show = Callable[[Session, Any], View]


def view(session: Session, note: str | None) -> View:
    """Return all that the page shows of a session."""
    text = f'<p role="status" class="anople-message">{escape(note)}</p>' if note else ""
    choices = [f"{number}. {answer.photo.name}" for number, answer in enumerate(session.answers, 1)]
    threshold, commands = {}, ""
    if session.is_trained:
        limit, scores = session.thresholds.image, [answer.score for answer in session.answers[:1]]
        highest = 1.05 * max([2 * limit, *scores, *(each.score for each in session.good)])
        value, maximum = (float(f"{number:.4g}") for number in (limit, highest))  # for the eye alone
        threshold = {"value": value, "maximum": maximum, "interactive": True}
        commands = taking.commands(session)
    choice = gr.update(choices=choices, value=choices[0] if choices else None)
    good, answers = drawing.thumbnails(session), drawing.gallery(session)
    sliders = [gr.update(**threshold) for _ in range(2)]  # Gradio takes the value out of an update that it has read
    return text, good, answers, sliders[0], choice, commands, sliders[1], proving.shown(session)


def view_while_moved(place: int) -> _Show:
    """Return :func:`view` without a value for the slider at this place, which the hand is on."""

    def show(session: Session, note: str | None) -> View:
        """Return the other values."""
        values = view(session, note)
        return (*values[:place], gr.skip(), *values[place + 1 :])

    return show


def view_of_one(_session: Session, value: object) -> View:
    """Return an empty message, and a value that is shown beside it."""
    return "", str(value)


class Sessions:
    """Sessions by the random name that Gradio gives to an open page.

    Args:
        root: Folder of all sessions' folders.
        ckpt_path: Checkpoint of a trained model that every session starts from.
        journal: Journal of all sessions.
        deliver: Called with the row of every image that is asked about; ``None`` for nobody.
    """

    def __init__(
        self,
        root: Path,
        ckpt_path: Path | None = None,
        journal: Path | None = None,
        deliver: Callable[[dict[str, Any]], object] | None = None,
    ) -> None:
        self._root, self._ckpt_path, self._journal, self._deliver = root, ckpt_path, journal, deliver
        self._sessions: dict[str, Session] = {}
        self._lock = Lock()

    def of(self, request: gr.Request) -> Session:
        """Return the session of a page; a new one where there is none yet."""
        name = str(request.session_hash)
        with self._lock:
            if name not in self._sessions:
                self._sessions[name] = Session(self._ckpt_path, self._root, self._journal)
            return self._sessions[name]

    def ask(self, session: Session, files: Sequence[str | Path], names: Sequence[str] = ()) -> None:
        """Judge images in a session, see :meth:`.Session.ask`, and send their rows on."""
        answers = session.ask(files, names)
        if self._deliver is not None:
            for row in taking.rows_of(session, answers):
                self._deliver(table.message_of(row))

    def ask_samples(self, session: Session, part: str) -> None:
        """Judge images of a sample part."""
        _ = session.model
        files = samples_to_ask(part)
        self.ask(session, [*files.values()], [*files])

    def stop(self, request: gr.Request) -> None:
        """Stop the training run of a page after its present step, or before it begins."""
        self.of(request).stop.set()

    def close(self, request: gr.Request) -> None:
        """End the session of a page that was closed, and remove its images."""
        with self._lock:
            session = self._sessions.pop(str(request.session_hash), None)
        if session is not None:
            session.close()

    def close_all(self) -> None:
        """End all sessions."""
        with self._lock:
            while self._sessions:
                self._sessions.popitem()[1].close()

    def handler(
        self, work: Callable[..., Any], show: _Show = view, others: int = 7, locked: bool = True
    ) -> Callable[..., View]:
        """Make a handler of a function of a session and values of controls; an error becomes the page's one message.

        Args:
            work: The function.
            show: Makes the page's message and other values of the session and the function's result.
            others: Number of the other values, which an error leaves as they are.
            locked: Whether the session waits for it.
        """

        def handle(request: gr.Request, *values: Any) -> View:
            """Do the work in the session of the request."""
            try:
                session = self.of(request)
                with session.lock if locked else nullcontext():
                    return show(session, work(session, *values))
            except AppError as error:
                text = str(error)
            except Exception as error:  # of any library below: the page goes on
                logger.exception("An action of the page failed.")
                text = message_of(error)
            alert = f'<p role="alert" class="anople-message anople-error">{escape(without_paths(text))}</p>'
            return (alert, *(gr.skip() for _ in range(others)))

        # Gradio looks at the signature to see how many values it may pass
        return handle


def message_of(error: BaseException) -> str:
    """Turn an exception into one short message; that of a programmer's mistake is in the log alone."""
    if isinstance(error, USER_ERRORS) and str(error):
        return " ".join(str(error).split())
    return f"Something went wrong inside ({type(error).__name__}): the log of anople page says more."


def teach(session: Session, part: str, preset: str, length: str, reason: str, progress: gr.Progress) -> str:
    """Train, and show every step."""
    session.teach(part, preset, length == FULL, progress, reason)
    done = session.progress
    words = f"{'Stopped early' if done.stopped else 'Done'}: {done.step} of {done.steps} steps."
    return " ".join([words, *filter(None, [session.model.teaching]), "Ask it now."])


def add_samples(session: Session, part: str) -> None:
    """Take a sample part's good images instead of those there are."""
    files = sample_shots(part)
    session.clear_good()
    session.add_good([*files.values()], [*files])


def prove(session: Session, files: Sequence[str] | str | None, kind: str, uploads: Path) -> None:
    """Judge known parts of a kind for a study."""
    with_uploads(lambda paths: session.prove(paths, kind), files, uploads)


def prove_samples(session: Session, part: str) -> None:
    """Judge all test images of a sample part for a study."""
    _ = session.model
    for kind, files in samples_to_prove(part).items():
        session.prove(files, kind, [f"{kind}_{file.name}" for file in files])


def set_criteria(session: Session, escapes: float | None, false_alarms: float | None) -> None:
    """State the limits of a study, in percent."""
    if not escapes or not false_alarms or not (0 < escapes < 100 and 0 < false_alarms < 100):
        msg = f"Limits are above 0 and below 100 percent, got {escapes} and {false_alarms}."
        raise AppError(msg)
    session.criteria = Criteria(escapes / 100, false_alarms / 100)


def allow(session: Session, rate: str) -> str:
    """Move the threshold by a share of false alarms, and say how many good images are above it."""
    session.allow_false_alarms(RATES[rate])
    above = Rate(sum(each.score > session.thresholds.image for each in session.good), len(session.good))
    return f"Good images above the threshold: {above}. {above.wishes()}"


def correct(session: Session, choice: str | None, reason: str) -> str:
    """Say that an image is good."""
    answer = chosen(session, choice)
    session.this_is_good(answer, reason)
    return f"'{answer.photo.name}' is in the memory now; the threshold was updated."


def chosen(session: Session, choice: str | None) -> Answer:
    """Return the answer of a choice; without one, it is an :class:`AppError`."""
    number = (choice or "").partition(".")[0]
    if not number.isdigit() or not 0 < int(number) <= len(session.answers):
        msg = "Choose an image first."
        raise AppError(msg)
    return session.answers[int(number) - 1]


def explain(session: Session, choice: str | None) -> str:
    """Draw the reason of an answer."""
    return drawing.reason(session, chosen(session, choice))


def with_uploads(take: Callable[[Sequence[Path]], None], files: Sequence[str] | str | None, uploads: Path) -> None:
    """Take uploaded files in, and remove them from the folder that Gradio has put them in.

    Files dropped while the page still holds earlier ones come with them: those that are gone have been taken in.
    """
    paths = [Path(file) for file in dict.fromkeys([files] if isinstance(files, str) else files or [])]
    uploaded = [path for path in paths if path.resolve().is_relative_to(uploads.resolve())]
    left = [path for path in paths if path not in uploaded or path.exists()]
    if paths and not left:
        return
    try:
        take(left)
    finally:
        for path in uploaded:
            path.unlink(missing_ok=True)
