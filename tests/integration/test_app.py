# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The page in a real browser, and through Gradio's client. ``ANOPLE_SCREENSHOTS=docs/images`` keeps its images."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="Gradio is not installed: pip install '.[app]'")

import gradio_client
from gradio_client.utils import Status

from anople_anomalib.app import session, training
from anople_anomalib.app.page import start
from anople_anomalib.commands.main import main
from helpers.training import make_model

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SECONDS = 300  # for a training run, at most; machines that test are busy


@pytest.fixture(scope="module")
def uploads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the sessions and of what they take in."""
    return tmp_path_factory.mktemp("app")


@pytest.fixture(scope="module")
def address(uploads: Path) -> Iterator[str]:
    """A page whose offline preset is the miniature CLIP and 20 steps, for screenshots the real one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", "")  # set by start(), and restored here
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        if "ANOPLE_SCREENSHOTS" not in os.environ:
            patch.setattr(training, "AnoPLe", lambda _preset, **arguments: make_model(**arguments))
            patch.setattr(session, "SHORT_STEPS", 20)
            patch.setattr(session, "FULL_EPOCHS", 600)  # there is time to stop it
        page, sessions = start(uploads)
        yield page.local_url.rstrip("/")
        sessions.close_all()
        page.close(verbose=False)
    assert not list(uploads.glob("session-*")), "uploads are removed at the end"


def test_client_teaches_and_asks_and_two_do_not_mix(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", os.environ["GRADIO_TEMP_DIR"])  # the second page below has another
    one, two = (gradio_client.Client(address, verbose=False, download_files=tmp_path) for _ in range(2))
    assert 'role="alert"' in two.predict("", api_name="/undo")[0]
    assert "4 good images" in one.predict("brick", api_name="/use_samples")[1]
    steps = one.submit("brick", "offline", "Short: 60 steps", "", api_name="/teach")
    told = list(progress_of(steps))
    final = steps.result(timeout=SECONDS)
    assert "Done: 20 of 20 steps." in final[0]
    assert any(re.match(r"Step \d+ of 20, ", text) for text in told)
    gallery = one.predict("brick", api_name="/ask_samples")[2]
    assert "10 images:" in gallery
    assert "No good image" in two.predict(api_name="/clear_good")[1]
    assert "teach it good parts first" in two.predict("brick", api_name="/ask_samples")[0]
    low = one.predict(1e-5, api_name="/set_threshold")[2]
    assert "10 images: 10 not OK, 0 OK" in low
    assert "anomalib train --model AnoPLe" in final[5]
    with zipfile.ZipFile(one.predict("", api_name="/openvino")[1]) as export:
        assert {Path(name).suffix for name in export.namelist()} >= {".xml", ".bin"}
    starts_from(Path(one.predict("", api_name="/checkpoint")[1]), tmp_path)
    assert str(Path(sys.prefix)) not in gallery + final[5]


def progress_of(run: Any) -> Iterator[str]:
    """What Gradio tells of a run until it is done."""
    while not run.done():
        for unit in run.status().progress_data or []:
            yield unit.desc
        time.sleep(0.05)


def starts_from(ckpt_path: Path, folder: Path) -> None:
    """A page that starts from a checkpoint judges at once, by the checkpoint's threshold, which was moved."""
    rows: list[dict[str, Any]] = []
    page, sessions = start(folder, ckpt_path, deliver=rows.append)
    client = gradio_client.Client(page.local_url, verbose=False, download_files=folder)
    shown = client.predict("brick", api_name="/ask_samples")
    assert "10 images: 10 not OK, 0 OK" in shown[2]
    assert [row["verdict"] for row in rows] == ["NOT OK"] * 10
    assert shown[3]["value"] == pytest.approx(1e-5)
    assert "A checkpoint holds no images" in client.predict(shown[4]["value"], api_name="/why")[0]
    sessions.close_all()
    page.close(verbose=False)


def test_an_uploaded_file_is_served_and_learned(address: str, tmp_path: Path) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    with (tmp_path / "a.png").open("rb") as file:
        (path,) = httpx.post(f"{address}/gradio_api/upload", files={"files": file}).json()
    assert httpx.get(f"{address}/gradio_api/file={path}").content == (tmp_path / "a.png").read_bytes()
    (tmp_path / "large.png").write_bytes(bytes(20 * 2**20 + 1))
    with (tmp_path / "large.png").open("rb") as file:
        assert httpx.post(f"{address}/gradio_api/upload", files={"files": file}).is_client_error
    client = gradio_client.Client(address, verbose=False, download_files=False)
    assert "1 good image" in client.predict([gradio_client.handle_file(tmp_path / "a.png")], api_name="/add_good")[1]


def test_two_who_train_at_once_wait_for_each_other(address: str, tmp_path: Path) -> None:
    clients = [gradio_client.Client(address, verbose=False, download_files=tmp_path) for _ in range(2)]
    for client in clients:
        client.predict("grass", api_name="/use_samples")
    runs = [client.submit("grass", "offline", "Short: 60 steps", "", api_name="/teach") for client in clients]
    seen, both, longest = set(), 0, 0
    while not all(run.done() for run in runs):
        codes = {run.status().code for run in runs}
        seen |= codes
        # each client hears of its own run alone: at the moment of the change both may seem to be at work
        both = both + 1 if codes <= {Status.PROCESSING, Status.PROGRESS} and not any(run.done() for run in runs) else 0
        longest = max(longest, both)
        time.sleep(0.05)
    assert all("Done: " in run.result(timeout=SECONDS)[0] for run in runs)
    assert Status.IN_QUEUE in seen, "one waits"
    assert longest < 10, "never both at once"


@pytest.mark.skipif(not hasattr(signal, "SIGTERM") or os.name == "nt", reason="Windows has no such signal")
def test_the_command_opens_the_page_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "anople_anomalib.commands.main", "page", "--port", str(port)]
    with subprocess.Popen(command, env={**os.environ, "TMPDIR": str(tmp_path)}, start_new_session=True) as process:
        try:
            client = wait_for_page(port, process, tmp_path)
            assert "4 good images" in client.predict("brick", api_name="/use_samples")[1]
            assert list(tmp_path.glob("anople-page-*/session-*/good/*.png"))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
    assert not list(tmp_path.glob("anople-page-*"))


def wait_for_page(port: int, process: subprocess.Popen[bytes], folder: Path) -> Any:
    """Return a client of a page that a process opens."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as knock:
            if knock.connect_ex(("127.0.0.1", port)) == 0:
                return gradio_client.Client(f"http://127.0.0.1:{port}", verbose=False, download_files=folder)
        time.sleep(0.1)
    pytest.fail("the command has not opened its page")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium, with a camera that shows a test image."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install '.[test]'")
    camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *camera])
        yield chromium
        chromium.close()


@pytest.fixture
def page(address: str, browser: Any) -> Iterator[Any]:
    """The page in a window of its own, which fetches nothing from elsewhere."""
    page = browser.new_page(viewport={"width": 1100, "height": 1000})
    page.set_default_timeout(60_000)
    asked_for: list[str] = []
    page.on("request", lambda request: asked_for.append(request.url))
    page.goto(address)
    page.get_by_role("button", name="Use sample parts").wait_for()
    yield page
    page.close()
    assert [url for url in asked_for if not url.startswith((address, "data:", "blob:"))] == []


def keep(page: Any, name: str, folder: Path) -> None:
    """Keep a screenshot as a small JPEG file."""
    folder = Path(os.environ.get("ANOPLE_SCREENSHOTS", folder))
    page.mouse.move(0, 0)
    page.wait_for_timeout(500)  # whatever moves comes to rest
    page.screenshot(path=folder / name, type="jpeg", quality=50)
    assert (folder / name).stat().st_size < 200_000


def accessible(page: Any) -> None:
    """Let axe look for unlabeled controls, weak contrast and the like."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe: pip install '.[test]'")
    page.mouse.move(0, 0)
    page.wait_for_timeout(300)  # a button's color fades in
    found = axe.Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def judge_samples(page: Any) -> None:
    """Teach on sample parts and judge others, by the keyboard where it starts the training run."""
    page.get_by_role("button", name="Use sample parts").click()
    page.get_by_text("4 good images.").wait_for()
    accessible(page)
    page.get_by_role("button", name="Train", exact=True).focus()
    page.keyboard.press("Enter")
    page.get_by_text("Done: ").wait_for(timeout=1000 * SECONDS)
    page.get_by_role("tab", name="2 Ask").click()
    page.get_by_role("button", name="Judge sample parts").click()
    page.locator("#anople-summary").wait_for()
    accessible(page)


def prove_samples(page: Any, tmp_path: Path) -> None:
    """Known parts against the threshold: the rates follow the slider, and the study is a page to keep."""
    page.get_by_role("tab", name="3 Prove").click()
    page.get_by_role("button", name="Use known sample parts").click()
    rates = page.locator("#anople-rates")
    rates.get_by_text("good, called wrongly").wait_for()
    limit, threshold = (
        page.get_by_label(f"number input for {name}").input_value()
        for name in ("Raw score above which a part is not OK", "Threshold")
    )
    assert limit == threshold, "the slider of the study follows the other one"
    keep(page, "app_prove.jpg", tmp_path)
    page.get_by_label("range slider for Raw score above which a part is not OK").press("Home")
    rates.get_by_text("Escapes: at most 2 % with 95 % confidence: not proven. 0 of").wait_for()
    rates.get_by_text("good, called wrongly: 15 of 15").wait_for()
    page.get_by_label("Reason, for the journal").fill("a study")
    page.get_by_role("button", name="Study (HTML)").click()
    with page.expect_download() as download:
        page.locator("a[download$='.html']").first.click()
    assert "Acceptance study" in Path(download.value.path()).read_text(encoding="utf-8")
    accessible(page)


def test_browser_teaches_asks_and_downloads(page: Any, tmp_path: Path) -> None:
    judge_samples(page)
    keep(page, "app_ask.jpg", tmp_path)
    page.get_by_label("number input for Opacity of the heat map").fill("0.9")
    assert page.wait_for_function("getComputedStyle(document.querySelector('.anople-heat')).opacity == '0.9'")
    page.get_by_label("range slider for Threshold").press("Home")
    page.get_by_text("10 images: 10 not OK, 0 OK.").wait_for()
    page.get_by_role("button", name="Why?").click()
    page.locator(".anople-why").wait_for()
    page.get_by_role("button", name="This is good").click()
    page.get_by_text("is in the memory now").wait_for()
    page.get_by_role("button", name="Undo").click()
    page.get_by_text("10 images: 10 not OK, 0 OK.").wait_for()
    page.get_by_label("Threshold by allowed false alarms").click()
    page.get_by_role("option", name="20 %").click()
    page.get_by_role("alert").get_by_text("more are missing").wait_for()  # four good images promise no such rate
    page.get_by_text("10 images: 10 not OK, 0 OK.").wait_for()
    page.get_by_label("range slider for Threshold").press("End")
    page.locator("#anople-summary", has_not_text="10 not OK, 0 OK").wait_for()
    page.get_by_label("Threshold by allowed false alarms").click()
    page.get_by_role("option", name="by the good images").click()
    prove_samples(page, tmp_path)
    page.get_by_role("tab", name="4 Take away").click()
    page.get_by_role("button", name="Table of verdicts (CSV)").click()
    with page.expect_download() as download:
        page.locator("a[download$='.csv']").first.click()
    rows = Path(download.value.path()).read_text().splitlines()
    assert len(rows) == 11
    assert len({row.split(",")[0] for row in rows}) == 11, "every image has a name of its own"
    accessible(page)
    assert page.locator("img:not([alt])").count() == 0


def test_a_page_that_is_closed_takes_its_images_with_it(address: str, browser: Any, uploads: Path) -> None:
    page = browser.new_page()
    page.goto(address)
    page.get_by_role("button", name="Use sample parts").click()
    page.get_by_text("4 good images.").wait_for()
    before = {path.parent for path in uploads.glob("session-*/good")}
    page.close()
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and all(folder.exists() for folder in before):
        time.sleep(0.2)
    assert not all(folder.exists() for folder in before)


def test_phone_in_dark_mode(page: Any, tmp_path: Path) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.emulate_media(color_scheme="dark")
    page.reload()
    page.get_by_role("button", name="Use sample parts").wait_for()
    assert page.evaluate("document.body.classList.contains('dark')")
    judge_samples(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator("#anople-summary").scroll_into_view_if_needed()
    page.evaluate("document.querySelector('#anople-summary').scrollIntoView()")
    keep(page, "app_phone.jpg", tmp_path)


def test_camera_files_folder_and_stop(page: Any, tmp_path: Path) -> None:
    page.get_by_role("button", name="Camera").click()
    page.get_by_role("button", name="Click to Access Webcam").click()
    page.wait_for_function("document.querySelector('video')?.videoWidth > 0")
    page.get_by_role("button", name="capture photo").click()
    page.locator("img[src*='/uploads/']").wait_for()  # it is uploaded
    page.get_by_role("button", name="Add this image").click()
    page.get_by_text("1 good image.").wait_for()
    drop = page.get_by_role("tabpanel").locator("input[type=file][multiple]")
    folder = tmp_path / "parts"
    folder.mkdir()
    for number in range(2):
        Image.new("RGB", (40, 40), (90 * number, 80, 70)).save(folder / f"{number}.png")
    drop.set_input_files(folder / "0.png")
    page.get_by_text("2 good images.").wait_for()
    drop.set_input_files(folder / "1.png")  # at once, while the page still holds the first one
    page.get_by_text("3 good images.").wait_for()
    drop.set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": b"no image"})
    page.get_by_role("alert").get_by_text("'a.png' is no image").wait_for()
    page.get_by_label("Full: 60 epochs").check()
    page.get_by_role("button", name="Train", exact=True).click()
    page.get_by_text(re.compile(r"Step \d+ of")).wait_for()  # "Step " alone is in "60 steps", too
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Stopped early: ").wait_for(timeout=1000 * SECONDS)
    page.get_by_role("tab", name="2 Ask").click()
    page.locator("input[type=file][webkitdirectory]").set_input_files(folder)
    page.locator("#anople-summary", has_text="2 images:").wait_for()


def test_missing_checkpoint_is_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["page", "--model", "missing.ckpt"]) == 1
    sentence = "There is no model 'missing.ckpt': give the checkpoint that anople teach wrote (--model)."
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {sentence}"
