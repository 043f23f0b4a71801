# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Frames of videos and cameras, in the colors that the camera saw."""

import logging
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from anople_anomalib.commands.main import main
from anople_anomalib.deployment import sources
from anople_anomalib.deployment.pixel_formats import rgb_of
from anople_anomalib.deployment.sources import Camera
from anople_anomalib.deployment.table import rows_of
from helpers.graphs import brightness_model
from helpers.services import wait_for

COLOR = {"R": 200, "G": 100, "B": 50}


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Two seconds, ten frames each, from black to white."""
    path = tmp_path / "part.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for number in range(20):
        writer.write(np.full((48, 64, 3), 13 * number, np.uint8))
    writer.release()
    return path


@pytest.mark.parametrize("bits", [8, 12])
@pytest.mark.parametrize("pattern", ["RGGB", "GRBG", "GBRG", "BGGR"])
def test_mosaics_have_the_colors_of_the_scene(pattern: str, bits: int) -> None:
    mosaic = np.zeros((16, 16), np.uint8 if bits == 8 else np.uint16)
    for place, channel in enumerate(pattern):
        mosaic[place // 2 :: 2, place % 2 :: 2] = COLOR[channel] << (bits - 8)
    name = f"Bayer{pattern[0]}{pattern[1]}{bits}"
    assert np.abs(rgb_of(mosaic, name).astype(int) - list(COLOR.values())).max() <= 1


def test_twelve_bits_become_what_convert_makes_of_them() -> None:
    values = np.arange(4096, dtype=np.uint16)[None]
    expected = np.ceil(values * (255 / 4095)).astype(np.uint8)
    assert all(np.array_equal(rgb_of(values, "Mono12")[..., channel], expected) for channel in range(3))


def test_an_older_name_of_a_format_is_known() -> None:
    values = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    assert np.array_equal(rgb_of(values, "RGB8Packed"), values)
    assert np.array_equal(rgb_of(values, "BGR8Packed"), values[..., ::-1])


def test_a_packed_format_is_refused() -> None:
    with pytest.raises(ValueError, match="Frames of the format Mono12p are not read"):
        rgb_of(np.zeros((2, 3), np.uint8), "Mono12p")


@pytest.mark.parametrize(("interval", "expected"), [(0, range(20)), (0.5, (0, 5, 10, 15))])
def test_a_video_ends_and_gives_its_frames_in_order(video: Path, interval: float, expected: range) -> None:
    found = [frame.read().mean() / 13 for frame in Camera(str(video), interval).frames()]
    assert found == pytest.approx(list(expected), abs=0.3)


def test_a_watched_video_has_a_row_for_every_frame(video: Path, tmp_path: Path) -> None:
    model = str(brightness_model(tmp_path / "graph"))
    watch = ["watch", "--source", str(video), "--interval", "0.5", "--model", model]
    assert main([*watch, "--output", str(tmp_path / "out")]) == 0
    rows = rows_of(tmp_path / "out" / "predictions.jsonl")
    assert [row["verdict"] for row in rows] == ["OK", "OK", "NOT OK", "NOT OK"]
    assert len({row["path"] for row in rows}) == 4
    assert len(list((tmp_path / "out" / "images").iterdir())) == 4


def test_a_video_is_judged_to_its_end_by_several_at_once(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    judge = ["judge", "--source", str(video), "--interval", "0.5", "--pictures", "false"]
    judge += ["--model", str(brightness_model(tmp_path / "graph")), "--output", str(tmp_path / "out")]
    assert main([*judge, "--fail-on-flag"]) == 1
    rows = rows_of(tmp_path / "out" / "predictions.jsonl")
    assert [row["verdict"] for row in rows] == ["OK", "OK", "NOT OK", "NOT OK"]


def test_an_interval_is_no_less_than_0(video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(brightness_model(tmp_path / "graph"))
    watch = ["watch", "--source", str(video), "--interval", "-1", "--model", model, "--output", str(tmp_path / "out")]
    assert main(watch) == 1
    assert "0 or more seconds between two frames, got an interval of -1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "x.onnx"], "Give folders or files of images, or a video"),
        (["in", "--source", "a.avi", "--model", "x.onnx"], "Give folders or files of images, or a video"),
        (["--source", "usb:0", "--model", "x.onnx"], "--source takes the file of a video"),
    ],
)
def test_images_or_a_video_are_judged(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit):
        main(["judge", *arguments])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "x.onnx"], "Give a folder to watch, or a camera"),
        (["in", "--source", "usb:0", "--model", "x.onnx"], "Give a folder to watch, or a camera"),
        (["--source", "usb:0", "--model", "x.ckpt"], "--source takes an exported model"),
        (["--source", ".", "--output", "out", "--model", "x.onnx"], "out lies in the watched folder"),
    ],
)
def test_a_watch_has_one_source(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit):
        main(["watch", *arguments])
    assert message in capsys.readouterr().err


def test_a_camera_that_is_not_there_is_named_without_its_password() -> None:
    with pytest.raises(ConnectionError, match=r"'rtsp://127.0.0.1/live' cannot be opened") as refused:
        Camera("rtsp://user:secret@127.0.0.1:9/live", 1.0)
    assert "secret" not in str(refused.value)


def test_a_camera_that_fails_has_an_error_and_is_opened_again(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anople_anomalib.deployment.sources._PAUSE", 0.01)
    camera = Camera(str(video), 0)
    camera.live = True  # at its end it gives no image, as one whose cable is pulled
    shown, errors = [], []
    for frame in camera.frames():
        try:
            shown.append(round(frame.read().mean() / 13))
        except OSError as error:
            errors.append(str(error))
        if len(shown) == 22:
            camera.stop()
    assert len(errors) == 1
    assert "gives no image" in errors[0]
    assert shown == [*range(20), 0, 1]


class Capture:
    """Stands for OpenCV's: a camera of 100 frames a second, each of which waits in a buffer until it is read."""

    def __init__(self, _address: object, last: int = 1_000) -> None:
        self.began, self.number, self.last = time.monotonic(), -1, last

    def isOpened(self) -> bool:  # noqa: N802  # OpenCV's names
        return True

    def get(self, _property: int) -> float:
        return 100.0

    def set(self, _property: int, _value: float) -> bool:
        return False  # as of a camera in the network

    def grab(self) -> bool:
        self.number += 1
        time.sleep(max(0.0, self.began + self.number / 100 - time.monotonic()))
        return self.number < self.last

    def retrieve(self) -> tuple[bool, np.ndarray]:
        return True, np.full((4, 4, 3), self.number, np.uint8)

    def read(self) -> tuple[bool, np.ndarray]:
        return self.grab(), self.retrieve()[1]

    def release(self) -> None:
        self.last = 0


def test_frames_of_a_camera_do_not_wait_in_a_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    captures: list[Capture] = []
    monkeypatch.setattr(sources.cv2, "VideoCapture", lambda address: captures.append(Capture(address)) or captures[-1])
    camera, ages = Camera("rtsp://127.0.0.1/live", 0.2), []
    for frame in camera.frames():
        ages.append(100 * (time.monotonic() - captures[0].began) - frame.read().mean())
        if len(ages) == 5:
            camera.stop()
    assert max(ages) < 20  # in frames, of 10 ms each; read one after the other, the last one would be of 76 frames ago
    wait_for(lambda: not captures[0].last)


def test_a_camera_that_breaks_off_is_told_and_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_PAUSE", 0.01)
    monkeypatch.setattr(sources.cv2, "VideoCapture", lambda address: Capture(address, last=5))
    camera, shown = Camera("usb:0", 0.1), ""
    for frame in camera.frames():
        try:
            shown += "+" if frame.read() is not None else ""
        except OSError:
            shown += "-"
        if len(shown) == 4:
            camera.stop()
    assert shown == "+-+-"


def test_a_basler_camera_is_read(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("PYLON_CAMEMU", "1")  # its maker's emulator
    pytest.importorskip("pypylon")
    caplog.set_level(logging.INFO)
    camera, shapes = Camera("basler:", 0.05), []
    assert "-> RGB8" in caplog.text
    for frame in camera.frames():
        shapes.append(frame.read().shape)
        if len(shapes) == 3:
            camera.stop()
    assert shapes == [shapes[0]] * 3
    assert shapes[0][2] == 3
    with pytest.raises(ConnectionError, match="There is no Basler camera 'basler:none'"):
        Camera("basler:none", 1.0)


def test_a_genicam_camera_is_read_by_its_producer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("harvesters")
    genicam = pytest.importorskip("genicam")
    producers = Path(genicam.__file__).parent  # whose package has one, of three made-up cameras that play with a ball
    if not (producers / "viky.cti").is_file():
        pytest.skip("This version of genicam has no producer of made-up cameras.")
    monkeypatch.setenv("GENICAM_GENTL64_PATH", str(producers))
    caplog.set_level(logging.INFO)
    camera, frames = Camera("genicam:1", 0.05), []
    assert "genicam:1: RGBa8 -> RGB8" in caplog.text
    for frame in camera.frames():
        frames.append(frame.read())
        if len(frames) == 3:
            camera.stop()
    assert {frame.shape for frame in frames} == {(400, 400, 3)}
    assert all(frame.min() < 255 for frame in frames)  # the ball
    for address in ("", "none"):
        monkeypatch.setenv("GENICAM_GENTL64_PATH", str(producers) if address else "")
        with pytest.raises(ConnectionError, match=f"There is no GenICam camera 'genicam:{address}'"):
            Camera(f"genicam:{address}", 1.0)
