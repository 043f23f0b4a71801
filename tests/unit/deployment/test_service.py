# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The service in the plant's network: verdicts as on the command line, bounded, guarded, nothing lost at its end."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from anople_anomalib.commands.main import main
from anople_anomalib.deployment.runtime import ExportedModel, judge
from helpers.graphs import brightness_model
from helpers.services import free_port, is_up, wait_for

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
pytest.importorskip("httpx")

import uvicorn
from fastapi.testclient import TestClient

from anople_anomalib.deployment import service as service_module
from anople_anomalib.deployment.service import make_service
from anople_anomalib.deployment.sources import Camera


def picture(brightness: int, size: tuple[int, int] = (12, 10)) -> bytes:
    """A PNG of one brightness."""
    stream = io.BytesIO()
    Image.fromarray(np.full((size[1], size[0], 3), brightness, dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def noise() -> bytes:
    """A PNG of 12 x 10 random pixels."""
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (10, 12, 3), dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported model."""
    return brightness_model(tmp_path_factory.mktemp("graph"))


@pytest.fixture
def client(graph: Path) -> TestClient:
    """A client of a service without a token."""
    return TestClient(make_service(ExportedModel(graph), megabytes=0.01, megapixels=0.01))


def test_a_posted_image_gets_the_verdict_of_its_file(client: TestClient, graph: Path, tmp_path: Path) -> None:
    for brightness in (10, 250):
        (tmp_path / "part.png").write_bytes(picture(brightness))
        (expected,) = judge([tmp_path / "part.png"], graph)
        answer = client.post("/judge?name=part.png", content=picture(brightness))
        row = answer.json()
        assert answer.status_code == 200
        for key in ("verdict", "score", "threshold", "category", "error", "versions", "rank", "place"):
            assert row[key] == expected[key]
        assert [region["box"] for region in row["regions"]] == [list(region.box) for region in expected["regions"]]
        assert (row["path"], row["model"]) == ("part.png", "brightness")
        assert row["verdict"] == ("NOT OK" if brightness > 127 else "OK")
        assert row["rank"] == f"{2 if brightness < 51 else 0} of 2 good parts scored higher"


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (b"no image", 422, "The 8 bytes that were posted are no image"),
        (b"", 422, "The 0 bytes that were posted are no image"),
        (noise()[:300], 422, "truncated"),
        (picture(9, (120, 100)), 422, "more than the 0.01 million"),
        (os.urandom(20_000), 413, "more than 0.01 megabytes"),
    ],
    ids=["text", "nothing", "half", "large", "long"],
)
def test_a_bad_image_is_one_sentence_and_the_service_goes_on(
    client: TestClient, content: bytes, code: int, words: str
) -> None:
    answer = client.post("/judge", content=content)
    assert answer.status_code == code
    assert words in (answer.json().get("error") or answer.json()["detail"])
    assert client.post("/judge", content=picture(10)).json()["verdict"] == "OK"


def test_nothing_but_health_is_told_without_the_token(graph: Path) -> None:
    client = TestClient(make_service(ExportedModel(graph), token="a secret"))
    assert client.get("/health").status_code == 200
    for given in ({}, {"Authorization": "Bearer another"}):
        for call in (client.get("/model", headers=given), client.get("/metrics", headers=given)):
            assert call.status_code == 401
        assert client.post("/judge", content=picture(10), headers=given).status_code == 401
    known = {"Authorization": "Bearer a secret"}
    assert client.get("/model", headers=known).json()["thresholds"] == {"image": 0.5, "pixel": 0.5}
    assert client.post("/judge", content=picture(10), headers=known).json()["verdict"] == "OK"


def test_metrics_count_verdicts(client: TestClient) -> None:
    for brightness in (10, 10, 250):
        client.post("/judge", content=picture(brightness))
    text = client.get("/metrics").text
    assert 'anople_verdicts_total{verdict="OK"} 2.0' in text
    assert 'anople_verdicts_total{verdict="NOT OK"} 1.0' in text
    assert "anople_seconds_count 3.0" in text
    assert "anople_waiting 0.0" in text


def test_the_page_of_the_interface_names_every_call(client: TestClient) -> None:
    assert set(client.get("/openapi.json").json()["paths"]) == {"/judge", "/health", "/model", "/metrics"}


@pytest.fixture
def video(tmp_path: Path) -> str:
    """A dark, a bright and a dark frame."""
    path = str(tmp_path / "part.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for brightness in (10, 250, 10):
        writer.write(np.full((48, 64, 3), brightness, np.uint8))
    writer.release()
    return path


def test_a_trigger_judges_the_frame_of_the_moment(graph: Path, video: str) -> None:
    camera, rows = Camera(video, 0), []
    client = TestClient(make_service(ExportedModel(graph), token="secret", deliver=rows.append, camera=camera))
    assert client.post("/trigger").status_code == 401
    known = {"Authorization": "Bearer secret"}
    answers = [client.post("/trigger", headers=known) for _ in range(2)]
    assert [answer.json()["verdict"] for answer in answers] == ["OK", "NOT OK"]
    camera.live = True  # a frame that has waited in a camera is of an earlier part, and left out: no other comes here
    failed, opened_again = (client.post("/trigger", headers=known) for _ in range(2))
    assert (failed.status_code, failed.json()["verdict"]) == (503, "ERROR")
    assert "gives no image" in failed.json()["error"]
    assert opened_again.json()["verdict"] == "NOT OK"
    assert [row["verdict"] for row in rows] == ["OK", "NOT OK", "ERROR", "NOT OK"]
    camera.close()


class SlowModel(ExportedModel):
    """Judges when it is told to."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.go = threading.Event()

    def judge(self, pixels: Any, picture: Path | None = None) -> dict[str, Any]:
        assert self.go.wait(60)
        return super().judge(pixels, picture)


def test_too_many_images_are_refused_and_no_accepted_one_is_lost(graph: Path) -> None:
    model, delivered = SlowModel(graph), []
    with (
        TestClient(make_service(model, waiting=2, deliver=delivered.append)) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        calls = [pool.submit(client.post, f"/judge?name={number}", content=picture(10)) for number in range(8)]
        wait_for(lambda: sum(call.done() for call in calls) == 5)
        model.go.set()
        answers = [call.result() for call in calls]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(refused) == 5
    assert all(answer.headers["Retry-After"] == "1" for answer in refused)
    accepted = {answer.json()["path"] for answer in answers if answer.status_code == 200}
    assert len(accepted) == 3
    assert {row["path"] for row in delivered} == accepted


def test_the_command_serves_without_torch_and_ends_gracefully(graph: Path, video: str, tmp_path: Path) -> None:
    port, flag = free_port(), tmp_path / "flag"
    code = (
        "import sys; from anople_anomalib.commands.main import main; code = main(); "
        "print(sorted({'torch', 'lightning', 'anomalib', 'pandas', 'matplotlib'} & set(sys.modules)), code)"
    )
    command = ["serve", "--model", str(graph), "--port", str(port), "--signal", f"file:{flag}", "--source", video]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *command, "--output", str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        wait_for(lambda: is_up(port))
        for place, content, verdict in (("judge?name=part", picture(250), "NOT OK"), ("trigger", b"", "OK")):
            request = urllib.request.Request(f"http://127.0.0.1:{port}/{place}", content, method="POST")
            with urllib.request.urlopen(request, timeout=30) as answer:
                assert json.load(answer)["verdict"] == verdict
    finally:
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    assert output.splitlines()[-1] == "[] 0"
    assert flag.read_text() == "OK\n"


def test_others_are_served_with_a_token_alone(
    graph: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ANOPLE_TOKEN", raising=False)
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--model", str(graph), "--host", "0.0.0.0"])
    assert ended.value.code == 2
    assert "ANOPLE_TOKEN" in capsys.readouterr().err


@pytest.mark.parametrize("port", [-1, 99_999, None])
def test_a_port_that_cannot_be_had_is_one_sentence(
    graph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], port: int | None
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1] if port is None else port
        serve = ["serve", "--model", str(graph), "--output", str(tmp_path), "--port", str(port)]
        assert main(serve) == 1
    said = capsys.readouterr()
    assert f"Nothing can listen at 127.0.0.1:{port} (" in said.err
    assert not said.out


def test_an_image_that_is_never_sent_whole_gives_its_place_back(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "_SECONDS_TO_SEND", 0.2)
    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(make_service(ExportedModel(graph), waiting=0), port=port, log_level="error", loop="asyncio")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(lambda: server.started)
    with socket.create_connection(("127.0.0.1", port)) as slow:
        slow.sendall(b"POST /judge HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nhalf")
        slow.settimeout(30)
        assert slow.recv(100).startswith(b"HTTP/1.1 408")
    request = urllib.request.Request(f"http://127.0.0.1:{port}/judge", picture(10), method="POST")
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert json.load(answer)["verdict"] == "OK"
    server.should_exit = True
    thread.join(30)
    assert not thread.is_alive()
