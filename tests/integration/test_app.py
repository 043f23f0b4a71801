# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The page in a real browser, and through Gradio's client. ``ANOPLE_SCREENSHOTS=docs/images`` keeps its images."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anople_anomalib.app import session
from anople_anomalib.app.__main__ import main, start
from helpers.miniature import MINIATURE

gradio_client = pytest.importorskip("gradio_client", reason="Gradio is not installed: pip install '.[app]'")
pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SECONDS = 300  # for a training run, at most; machines that test are busy


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A page whose offline preset is the miniature CLIP and four steps, for screenshots the real one."""
    folder = tmp_path_factory.mktemp("app")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", "")  # set by start(), and restored here
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        if "ANOPLE_SCREENSHOTS" not in os.environ:
            patch.setattr(session, "arguments_of", lambda _: {"backbone": MINIATURE, "pretrained": "random"})
            patch.setattr(session, "SHORT_STEPS", 8)
        page, sessions = start(folder)
        yield page.local_url.rstrip("/")
        sessions.close_all()
        page.close(verbose=False)
    assert not list(folder.glob("session-*")), "uploads are removed at the end"


def test_client_teaches_and_asks_and_two_do_not_mix(address: str, tmp_path: Path) -> None:
    one, two = (gradio_client.Client(address, verbose=False, download_files=tmp_path) for _ in range(2))
    assert 'role="alert"' in two.predict(api_name="/undo")[0]
    assert "4 good images" in one.predict("brick", api_name="/use_samples")[1]
    steps = one.submit("brick", "offline", "Short: 60 steps", api_name="/teach")
    final = steps.result(timeout=SECONDS)
    assert "Done: " in final[0]
    assert len(steps.outputs()) > 2, "it tells its steps"
    gallery = one.predict("brick", api_name="/ask_samples")[2]
    assert "10 images:" in gallery
    assert "No good image" in two.predict(api_name="/clear_good")[1]
    assert "teach it good parts first" in two.predict("brick", api_name="/ask_samples")[0]
    low = one.predict(1e-6, api_name="/set_threshold")[2]
    assert "10 images: 10 not OK, 0 OK" in low
    assert "anomalib train --model AnoPLe" in final[-1]
    assert str(Path(sys.prefix)) not in gallery + final[-1]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install '.[test]'")
    with sync.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def keep(page: Any, name: str, folder: Path) -> None:  # noqa: ANN401
    """Keep a screenshot as a small JPEG file."""
    folder = Path(os.environ.get("ANOPLE_SCREENSHOTS", folder))
    page.screenshot(path=folder / name, type="jpeg", quality=72)
    assert (folder / name).stat().st_size < 150_000


def test_browser_teaches_asks_and_downloads(address: str, browser: Any, tmp_path: Path) -> None:  # noqa: ANN401
    page = browser.new_page(viewport={"width": 1100, "height": 850})
    foreign: list[str] = []
    page.on(
        "request",
        lambda request: None if request.url.startswith((address, "data:", "blob:")) else foreign.append(request.url),
    )
    page.goto(address)
    page.get_by_role("button", name="Use sample parts").click()
    page.get_by_text("4 good images.").wait_for()
    page.get_by_role("button", name="Train", exact=True).focus()
    page.keyboard.press("Enter")
    page.get_by_text("Done: ").wait_for(timeout=1000 * SECONDS)
    keep(page, "app_teach.jpg", tmp_path)
    page.get_by_role("tab", name="2 Ask and correct").click()
    page.get_by_role("button", name="Judge sample parts").click()
    summary = page.locator("#anople-summary")
    summary.wait_for(timeout=60_000)
    page.get_by_label("number input for Threshold").scroll_into_view_if_needed()
    page.mouse.wheel(0, 360)
    page.wait_for_timeout(500)
    keep(page, "app_ask.jpg", tmp_path)
    box = page.get_by_label("number input for Threshold")
    box.fill("0.00001")
    box.press("Enter")
    page.get_by_text("10 images: 10 not OK, 0 OK.").wait_for(timeout=60_000)
    page.get_by_role("button", name="Why?").click()
    page.locator(".anople-why").wait_for(timeout=60_000)
    page.get_by_role("button", name="This is good").click()
    page.get_by_text("is in the memory now").wait_for(timeout=60_000)
    page.get_by_role("button", name="Undo").click()
    page.get_by_text("10 images: 10 not OK, 0 OK.").wait_for(timeout=60_000)
    page.get_by_role("tab", name="3 Take away").click()
    page.get_by_role("button", name="Table of verdicts (CSV)").click()
    link = page.locator("a[download$='.csv']").first
    with page.expect_download(timeout=60_000) as download:
        link.click()
    assert "verdict" in Path(download.value.path()).read_text().splitlines()[0]
    assert foreign == [], "nothing is fetched from elsewhere"
    assert page.locator("img:not([alt])").count() == 0


def test_phone_in_dark_mode_is_not_wider_than_its_screen(address: str, browser: Any) -> None:  # noqa: ANN401
    page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark")
    page.goto(address)
    page.get_by_role("button", name="Use sample parts").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("document.body.classList.contains('dark')")


def test_missing_checkpoint_is_one_message() -> None:
    with pytest.raises(SystemExit, match="there is no checkpoint"):
        main(["--model.ckpt_path", "missing.ckpt"])
