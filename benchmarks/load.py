# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""``anople serve`` under load: images a second and latency beside the bare runtime, then twice what it can take.

The bare runtime judges images one after another in this process; the service judges the same images for one client and
for four, each of which posts its next image when it has the answer (closed loop). Runs take turns, so that other load
of the machine meets all of them. At last images are posted by the clock at twice the rate of the four clients, whoever
has an answer (open loop); a latency counts from the moment when the image was due.

Every image is accounted for: it is answered by a verdict or by 429, and every verdict is delivered once as a signal
(``--signal stdout``, which is on the disk before the answer). The exit code is 1 if one is lost.

Usage:
    python benchmarks/load.py [--seconds 10] [--rounds 3] [--model model.onnx --images DIR]
"""

import argparse
import http.client
import io
import json
import multiprocessing
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np

from anople_anomalib.deployment.exported import ExportedModel, read_pixels
from anople_anomalib.deployment.runtime import Frame, row_of

CLIENTS, OVERLOAD = 4, 2
POSTING = 64  # threads that post by the clock: more than can wait in the service
VERDICT, REFUSED = 200, 429


class Answer(NamedTuple):
    """What became of an image."""

    name: str  # unique
    status: int  # of HTTP; 0 if there was no answer
    seconds: float


class Run(NamedTuple):
    """Images that were judged or posted, and the seconds that all of them took."""

    answers: list[Answer]
    seconds: float


def bare(model: ExportedModel, images: list[bytes], seconds: float, name: str) -> Run:
    """Judge images in this process, one after another."""

    def judge(name: str, content: bytes) -> int:
        """Judge an image as the service does."""
        row_of(Frame(name, name, lambda: read_pixels(io.BytesIO(content))), model)
        return VERDICT

    return _timed(lambda: _until(time.perf_counter() + seconds, name, images, judge))


def closed_loop(port: int, images: list[bytes], seconds: float, clients: int, name: str) -> Run:
    """Post images by so many clients, each of which waits for its answer."""

    def answers() -> list[Answer]:
        """Return the answers of all."""
        end = time.perf_counter() + seconds
        with ThreadPoolExecutor(clients) as pool:
            runs = [pool.submit(_until, end, f"{name}/{each}", images, Client(port).post) for each in range(clients)]
            return [answer for run in runs for answer in run.result()]

    return _timed(answers)


def open_loop(port: int, images: list[bytes], seconds: float, rate: float, name: str) -> Run:
    """Post so many images a second, whether the earlier ones are answered or not."""
    own = threading.local()

    def post(number: int, due: float) -> Answer:
        """Post an image by the client of this thread."""
        if not hasattr(own, "client"):
            own.client = Client(port)
        status = own.client.post(f"{name}/{number}", images[number % len(images)])
        return Answer(f"{name}/{number}", status, time.perf_counter() - due)

    def answers() -> list[Answer]:
        """Return the answers of all."""
        start = time.perf_counter()
        with ThreadPoolExecutor(POSTING) as pool:
            calls = []
            for number in range(round(seconds * rate)):
                due = start + number / rate
                time.sleep(max(0.0, due - time.perf_counter()))
                calls.append(pool.submit(post, number, due))
            return [call.result() for call in calls]

    return _timed(answers)


def _timed(work: Callable[[], list[Answer]]) -> Run:
    started = time.perf_counter()
    return Run(work(), time.perf_counter() - started)


def _until(end: float, name: str, images: list[bytes], judge: Callable[[str, bytes], int]) -> list[Answer]:
    """Let images be judged, one after another, until a time."""
    answers = list[Answer]()
    while (started := time.perf_counter()) < end:
        number = len(answers)
        status = judge(f"{name}/{number}", images[number % len(images)])
        answers.append(Answer(f"{name}/{number}", status, time.perf_counter() - started))
    return answers


class Client:
    """A connection to the service that is kept."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def post(self, name: str, content: bytes) -> int:
        """Post an image; return the status, 0 without an answer."""
        try:
            self._connection.request("POST", f"/judge?name={name}", content)
            answer = self._connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            return 0
        return answer.status


@contextmanager
def service(model: Path, folder: Path) -> Iterator[int]:
    """Run ``anople serve`` within the block, yield its port; the signals go to the file ``rows.txt`` of the folder."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "anople_anomalib.commands.main", "serve", "--model", str(model)]
    command += ["--port", str(port), "--signal", "stdout", "--output", str(folder)]
    with (folder / "rows.txt").open("w") as rows:
        process = subprocess.Popen(command, stdout=rows)  # noqa: S603  # our own
        try:
            while Client(port).post("first", b"") == 0:
                if process.poll() is not None:
                    sys.exit("The service did not start.")
                time.sleep(0.1)
            yield port
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def delivered(folder: Path) -> Counter[str]:
    """Return how often the row of every image was delivered, by its name."""
    lines = (folder / "rows.txt").read_text().splitlines()
    return Counter(json.loads(line)["path"] for line in lines if line.startswith("{"))


class Account(NamedTuple):
    """What became of the images of a run."""

    verdicts: int
    refused: int
    rows: int
    lost: int  # images without any answer, and verdicts whose row was not delivered once


def account(answers: Iterable[Answer], rows: Counter[str]) -> Account:
    """Account for every image of a run, by the rows of all."""
    statuses = {answer.name: answer.status for answer in answers}
    judged = [name for name, status in statuses.items() if status == VERDICT]
    refused = [name for name, status in statuses.items() if status == REFUSED]
    lost = len(statuses) - len(judged) - len(refused) + sum(rows[name] != 1 for name in judged)
    return Account(len(judged), len(refused), sum(rows[name] for name in statuses), lost)


def line(name: str, runs: list[Run], rows: Counter[str] | None) -> tuple[str, int]:
    """Return a row of the table, and the number of images that are lost; no rows of the bare runtime."""
    answers = [answer for run in runs for answer in run.answers]
    seconds = sum(run.seconds for run in runs)
    times = 1000 * np.array([answer.seconds for answer in answers if answer.status == VERDICT])
    median, slow = np.percentile(times, [50, 99]) if len(times) else (float("nan"),) * 2
    found = account(answers, rows or Counter(answer.name for answer in answers))
    cells = [name, len(answers), f"{len(times) / seconds:.1f}", f"{median:.1f}", f"{slow:.1f}", found.verdicts]
    cells += ["", "", ""] if rows is None else [found.refused, found.rows, found.lost]
    return f"| {' | '.join(map(str, cells))} |", found.lost


def prepare(folder: Path) -> tuple[Path, Path]:
    """Train and export a model in a process of its own; return the export, and a folder of images."""
    from on_the_line import prepare as train  # of this folder

    with multiprocessing.get_context("spawn").Pool(1) as pool:
        _, exports, image = pool.apply(train, (folder, "offline"))
    return exports["ONNX Runtime"], image.parent


def main() -> int:
    """Print the table; return 1 if an image was lost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=10, help="of every run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", type=Path, help="an exported model (default: the offline preset is taught)")
    parser.add_argument("--images", type=Path, help="folder of its PNG images")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        graph, place = (options.model, options.images) if options.model else prepare(folder)
        images, model = [file.read_bytes() for file in sorted(place.glob("*.png"))], ExportedModel(graph)
        runs: dict[str, list[Run]] = {}
        with service(graph, folder) as port:
            work: dict[str, Callable[[str], Run]] = {
                "bare runtime": partial(bare, model, images, options.seconds),
                "1 client": partial(closed_loop, port, images, options.seconds, 1),
                f"{CLIENTS} clients": partial(closed_loop, port, images, options.seconds, CLIENTS),
            }
            numbers = count()
            for _ in range(options.rounds):
                for title, run in work.items():
                    runs.setdefault(title, []).append(run(str(next(numbers))))
            full = runs[f"{CLIENTS} clients"]
            rate = OVERLOAD * sum(len(run.answers) for run in full) / sum(run.seconds for run in full)
            for _ in range(options.rounds):
                run = open_loop(port, images, options.seconds, rate, str(next(numbers)))
                runs.setdefault(f"{rate:.1f} images a second", []).append(run)
        rows, lost = delivered(folder), 0
    print("| | images | verdicts/s | p50 ms | p99 ms | verdicts | 429 | rows delivered | lost |")
    print("| --- " * 9 + "|")
    for title, each in runs.items():
        text, missing = line(title, each, None if title == "bare runtime" else rows)
        lost += missing
        print(text)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
