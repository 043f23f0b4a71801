# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""What the page's controls do, without a page."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("gradio", reason="Gradio is not installed: pip install '.[app]'")

import gradio as gr

from anople_anomalib.app.actions import SHORT, Sessions, allow, teach, with_uploads
from anople_anomalib.app.session import Session
from anople_anomalib.app.training import Good
from anople_anomalib.app.uploads import AppError


def test_uploads_are_taken_once_and_removed(tmp_path: Path) -> None:
    uploads, other = tmp_path / "uploads", tmp_path / "other.png"
    uploads.mkdir()
    first, second = uploads / "first.png", uploads / "second.png"
    for path in (first, second, other):
        path.touch()
    taken: list[str] = []

    def take(paths: Sequence[Path]) -> None:
        taken.extend(path.name for path in paths)

    with_uploads(take, [str(first)], uploads)
    with_uploads(take, [str(first), str(second), str(second), str(other)], uploads)
    with_uploads(take, [str(first), str(second)], uploads)  # the page has sent them once more
    assert taken == ["first.png", "second.png", "other.png"]
    assert not list(uploads.iterdir())
    assert other.exists()


def test_what_is_refused_is_removed_as_well(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()

    def refuse(paths: Sequence[Path]) -> None:
        raise AppError(paths[0].name)

    with pytest.raises(AppError, match=r"a\.png"):
        with_uploads(refuse, str(tmp_path / "a.png"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_no_file_is_said(tmp_path: Path) -> None:
    given: list[Sequence[Path]] = []
    with_uploads(given.append, None, tmp_path)
    assert given == [[]]  # whoever takes them says that there is none


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (AppError("Choose an image first."), "Choose an image first."),
        (RuntimeError("No file '/home/me/secret/a.png'."), "No file &#x27;a.png&#x27;."),
        (KeyError("x"), "Something went wrong inside (KeyError): the log of anople page says more."),
    ],
)
def test_an_error_is_one_message_and_leaves_the_rest_as_it_is(tmp_path: Path, error: Exception, words: str) -> None:
    def fail(session: Session) -> None:
        assert session.folder.parent == tmp_path
        raise error

    sessions = Sessions(tmp_path)
    message, *others = sessions.handler(fail)(gr.Request(session_hash="one"))
    assert message == f'<p role="alert" class="anople-message anople-error">{words}</p>'
    assert others == [gr.skip()] * 7
    sessions.close_all()
    assert not list(tmp_path.iterdir())


def test_the_threshold_comes_with_the_good_images_above_it(tmp_path: Path) -> None:
    session = Session(root=tmp_path)
    session.good = [Good(float(score), float(score)) for score in range(1, 47)]
    assert allow(session, "10 %").startswith("Good images above the threshold: 1 of 46 (2.17 %; at most 9.9")
    session.close()


@pytest.mark.parametrize(
    ("stopped", "teaching", "words"),
    [
        (True, "", "Stopped early: 8 of 60 steps. Ask it now."),
        (False, "", "Done: 8 of 60 steps. Ask it now."),
        (False, "Teaching ended after 8 epochs.", "Done: 8 of 60 steps. Teaching ended after 8 epochs. Ask it now."),
    ],
)
def test_the_end_of_a_training_run_is_told(stopped: bool, teaching: str, words: str) -> None:
    session = SimpleNamespace(
        teach=lambda *_args, **_options: None,
        progress=SimpleNamespace(step=8, steps=60, stopped=stopped),
        model=SimpleNamespace(teaching=teaching),
    )
    assert teach(session, "bottle", "offline", SHORT, "", gr.Progress()) == words
