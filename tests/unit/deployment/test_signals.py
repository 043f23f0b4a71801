# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Rows reach their receivers in order and at least once, whoever is down or killed."""

import hashlib
import hmac
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from anople_anomalib.commands.main import main
from anople_anomalib.deployment import outbox as outbox_module
from anople_anomalib.deployment.outbox import Outbox, delivered
from anople_anomalib.deployment.signals import (
    FlagFile,
    MqttTopic,
    OpcUaNode,
    Receiver,
    StandardOutput,
    Webhook,
    receiver_of,
)
from helpers.graphs import brightness_model
from helpers.services import Service, free_port, wait_for

ROW = {"path": "0.png", "verdict": "NOT OK", "score": 0.5}


@pytest.fixture
def service() -> Iterator[Service]:
    """A web service that is not started."""
    service = Service()
    yield service
    service.stop()


def outbox_of(folder: Path, addresses: list[str]) -> Outbox:
    receivers: dict[str, Receiver] = {address: receiver_of(address) for address in addresses}
    return Outbox(folder / "signals.sqlite", receivers)


def rows(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [{**ROW, "path": f"{number}.png"} for number in range(first, first + count)]


def paths(received: list[dict[str, Any]]) -> list[str]:
    """Paths in the order of their first delivery."""
    return list(dict.fromkeys(row["path"] for row in received))


def test_a_service_that_is_down_gets_every_row_in_order_when_it_is_up_again(tmp_path: Path, service: Service) -> None:
    outbox = Outbox(tmp_path / "signals.sqlite", {service.url: Webhook(service.url)})
    for row in rows(5):
        outbox.put(row)
    assert outbox.close(0.3) == 5
    service.refusals = 2
    service.start()
    outbox = Outbox(tmp_path / "signals.sqlite", {service.url: Webhook(service.url)})
    for row in rows(5, first=5):
        outbox.put(row)
    assert outbox.close(30) == 0
    assert paths(service.rows) == [f"{number}.png" for number in range(10)]
    assert [row["delivery"] for row in service.rows] == sorted(row["delivery"] for row in service.rows)


def test_a_killed_process_loses_nothing(tmp_path: Path, service: Service) -> None:
    program = f"""
import os, signal
from anople_anomalib.deployment.outbox import delivered
from pathlib import Path
with delivered(Path({str(tmp_path)!r}), [{service.url!r}]) as deliver:
    for number in range(20):
        deliver({{"path": f"{{number}}.png", "verdict": "OK"}})
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    service.start()
    outbox = outbox_of(tmp_path, [service.url])
    assert outbox.close(30) == 0
    assert paths(service.rows) == [f"{number}.png" for number in range(20)]


def test_at_the_end_a_receiver_that_is_back_is_not_kept_waiting(
    tmp_path: Path, service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(outbox_module, "_FIRST_PAUSE", 20.0)
    outbox = outbox_of(tmp_path, [service.url])
    outbox.put(ROW)
    wait_for(lambda: "does not take rows" in caplog.text)
    monkeypatch.setattr(outbox_module, "_FIRST_PAUSE", 0.2)
    service.start()
    assert outbox.close(10) == 0


def test_rows_wait_for_a_receiver_while_others_take_theirs(
    tmp_path: Path, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = outbox_of(tmp_path, [service.url])
    outbox.put({**ROW, "path": "0.png"})
    assert outbox.close(0.1) == 1
    outbox = outbox_of(tmp_path, [f"file:{tmp_path}/flag"])
    outbox.put({**ROW, "path": "1.png"})
    assert outbox.close(30) == 0
    assert f"for {service.url}, to whom this run sends none" in caplog.text
    service.start()
    assert outbox_of(tmp_path, [service.url, f"file:{tmp_path}/flag"]).close(30) == 0
    assert paths(service.rows) == ["0.png", "1.png"]


def test_one_process_at_a_time_sends_from_a_folder(tmp_path: Path) -> None:
    program = f"""
from anople_anomalib.deployment.outbox import delivered
from pathlib import Path
with delivered(Path({str(tmp_path)!r}), ["stdout"]):
    pass
"""
    with delivered(tmp_path, ["stdout"]):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert "BlockingIOError: Another run" in done.stderr
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_an_outbox_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "signals.sqlite").write_text("some text that is no database at all")
    with pytest.raises(OSError, match=r"cannot keep rows for their receivers .*: make room, or move it away"):
        outbox_of(tmp_path, ["stdout"])


def test_a_body_is_signed_and_a_token_sent(tmp_path: Path, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANOPLE_SIGNAL_TOKEN", "a token")
    monkeypatch.setenv("ANOPLE_SIGNAL_SECRET", "a secret")
    service.start()
    outbox = outbox_of(tmp_path, [service.url])
    outbox.put(ROW)
    assert outbox.close(30) == 0
    assert service.headers[0]["Authorization"] == "Bearer a token"
    expected = hmac.new(b"a secret", service.bodies[0], hashlib.sha256).hexdigest()
    assert service.headers[0]["X-Anople-Signature"] == f"sha256={expected}"


def test_a_token_never_travels_in_the_clear() -> None:
    with pytest.raises(ValueError, match="in the clear"):
        Webhook("http://plant.example/verdicts", token="a token")
    Webhook("http://127.0.0.1/verdicts", token="a token")


def test_a_receiver_that_is_down_keeps_no_other_waiting(tmp_path: Path, service: Service) -> None:
    flag = tmp_path / "flag"
    outbox = Outbox(tmp_path / "signals.sqlite", {service.url: Webhook(service.url), "flag": FlagFile(flag)})
    outbox.put(ROW)
    wait_for(flag.exists)
    assert flag.read_text() == "NOT OK\n"
    outbox.put({**ROW, "verdict": "OK"})
    wait_for(lambda: flag.read_text() == "OK\n")
    assert outbox.close(0.1) == 2


def test_rows_are_printed_as_lines_of_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outbox = Outbox(tmp_path / "signals.sqlite", {"stdout": StandardOutput()})
    for row in rows(3):
        outbox.put(row)
    assert outbox.close(30) == 0
    assert [json.loads(line)["path"] for line in capsys.readouterr().out.splitlines()] == ["0.png", "1.png", "2.png"]


@pytest.mark.parametrize(
    "address",
    [
        "",
        "plant",
        "ftp://plant/x",
        "mqtt://broker",
        "mqtt://broker:port/topic",
        "opc.tcp://plc:4840",
        "https://",
        "file:",
    ],
)
def test_an_address_of_no_receiver_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="A signal goes to"):
        receiver_of(address)


def test_addresses_name_their_receivers() -> None:
    pytest.importorskip("paho.mqtt")
    pytest.importorskip("asyncua")
    assert isinstance(receiver_of("https://plant.example/verdicts"), Webhook)
    assert isinstance(receiver_of("mqtts://user@broker/line/1"), MqttTopic)
    assert isinstance(receiver_of("opc.tcp://plc:4840/server?node=ns=2;s=Verdict"), OpcUaNode)
    assert isinstance(receiver_of("file:/tmp/flag"), FlagFile)
    assert isinstance(receiver_of("stdout"), StandardOutput)


class Broker:
    """A mosquitto that a test can kill and start anew on the same port, and a subscriber that stays."""

    def __init__(self) -> None:
        self.port = free_port()
        self.rows: list[dict[str, Any]] = []
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        command = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin:/opt/homebrew/sbin")
        assert command is not None
        self._process = subprocess.Popen([command, "-p", str(self.port)], stderr=subprocess.DEVNULL)
        wait_for(self._answers)
        self._subscriber = Client(CallbackAPIVersion.VERSION2)
        self._subscriber.on_message = lambda _client, _data, message: self.rows.append(json.loads(message.payload))
        ready = threading.Event()
        self._subscriber.on_subscribe = lambda *_args: ready.set()
        self._subscriber.connect("127.0.0.1", self.port)
        self._subscriber.subscribe("line/1", qos=1)
        self._subscriber.loop_start()
        assert ready.wait(30)

    def kill(self) -> None:
        if self._process is not None:
            self._subscriber.loop_stop()
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def test_a_broker_that_is_killed_gets_every_row_in_order(tmp_path: Path) -> None:
    pytest.importorskip("paho.mqtt")
    if shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin:/opt/homebrew/sbin") is None:
        pytest.skip("There is no mosquitto.")
    broker = Broker()
    try:
        broker.start()
        outbox = outbox_of(tmp_path, [f"mqtt://127.0.0.1:{broker.port}/line/1"])
        for row in rows(5):
            outbox.put(row)
        wait_for(lambda: len(paths(broker.rows)) == 5)
        broker.kill()
        for row in rows(5, first=5):
            outbox.put(row)
        time.sleep(0.5)
        broker.start()
        wait_for(lambda: len(paths(broker.rows)) == 10, seconds=90)
        assert outbox.close(30) == 0
    finally:
        broker.kill()
    assert paths(broker.rows) == [f"{number}.png" for number in range(10)]


def test_a_controller_that_was_restarted_shows_the_last_verdict(tmp_path: Path) -> None:
    pytest.importorskip("asyncua")
    from asyncua.sync import Server

    port = free_port()
    address = f"opc.tcp://127.0.0.1:{port}/?node=ns=2;s=Verdict"

    def start() -> tuple[Server, Any, Any]:
        server = Server()
        server.set_endpoint(f"opc.tcp://127.0.0.1:{port}/")
        space = server.register_namespace("http://plant.example")
        text = server.nodes.objects.add_variable(f"ns={space};s=Verdict", "Verdict", "")
        flag = server.nodes.objects.add_variable(f"ns={space};s=Good", "Good", True)
        text.set_writable()
        flag.set_writable()
        server.start()
        return server, text, flag

    server, text, flag = start()
    outbox = outbox_of(tmp_path, [address, address.replace("Verdict", "Good")])
    try:
        outbox.put(ROW)
        wait_for(lambda: text.read_value() == "NOT OK" and flag.read_value() is False)
        server.stop()
        outbox.put({**ROW, "verdict": "LOOK"})
        outbox.put({**ROW, "verdict": "OK"})
        server, text, flag = start()
        wait_for(lambda: text.read_value() == "OK" and flag.read_value() is True, seconds=90)
        assert outbox.close(30) == 0
    finally:
        server.stop()


def test_judged_images_are_delivered(tmp_path: Path, service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    graph = brightness_model(tmp_path / "graph")
    photos = tmp_path / "photos"
    photos.mkdir()
    for brightness in (20, 240):
        Image.new("RGB", (12, 10), (brightness,) * 3).save(photos / f"{brightness}.png")
    (photos / "broken.png").write_bytes(b"no image")
    service.start()
    arguments = ["judge", str(photos), "--model", str(graph), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--signal", service.url]) == 3
    assert [(Path(row["path"]).name, row["verdict"]) for row in service.rows] == [
        ("20.png", "OK"),
        ("240.png", "NOT OK"),
        ("broken.png", "ERROR"),
    ]
    region = {"box": [0, 0, 12, 10], "peak": pytest.approx(240 / 255), "area": 120, "share": 1.0}
    assert service.rows[1]["regions"] == [region]
    assert service.rows[1]["model"] == "brightness"
    assert main([*arguments, "--signal", "plant"]) == 1
    assert "A signal goes to" in capsys.readouterr().err
