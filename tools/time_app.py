# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Time from the command ``anople page`` to a verdict on sample parts by a model that was taught on four of them.

    python tools/time_app.py

It starts the command as a user does, presses the page's buttons through Gradio's client, and prints when each was done.
"""

import argparse
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

from gradio_client import Client

FULL = "Full: 60 epochs"
SHORT = "Short: 60 steps"


def moments(part: str, length: str) -> Iterator[tuple[str, float]]:
    """Start the page, teach it, ask it.

    Args:
        part: Sample part.
        length: Length of the training run, as the page names it.

    Yields:
        What is done, and the seconds since the command.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = time.monotonic()
    command = [
        sys.executable,
        "-m",
        "anople_anomalib.commands.main",
        "page",
        "--port",
        str(port),
        "--journal",
        os.devnull,
    ]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process,  # noqa: S603
    ):
        try:
            client = _client(f"http://127.0.0.1:{port}", folder, process)
            yield "the page is open", time.monotonic() - start
            client.predict(part, api_name="/use_samples")
            done = client.predict(part, "offline", length, "", api_name="/teach")[0]
            yield f"trained, {_words(done)}", time.monotonic() - start
            gallery = client.predict(part, api_name="/ask_samples")[2]
            yield f"judged, {_words(gallery)}", time.monotonic() - start
        finally:
            process.terminate()


def main(arguments: Sequence[str] | None = None) -> None:
    """Time it, and print."""
    parser = argparse.ArgumentParser(description="Time the page from the command to a verdict.")
    parser.add_argument("--part", default="brick", help="sample part")
    parser.add_argument("--full", action="store_true", help="train for 60 epochs instead of 60 steps")
    parsed = parser.parse_args(arguments)
    print(f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}", flush=True)
    for what, seconds in moments(parsed.part, FULL if parsed.full else SHORT):
        print(f"{seconds:6.1f} s  {what}", flush=True)


def _client(address: str, folder: str, process: subprocess.Popen[bytes]) -> Client:
    """Wait for the page."""
    port = int(address.rpartition(":")[2])
    while True:
        with socket.socket() as knock:
            if knock.connect_ex(("127.0.0.1", port)) == 0:
                return Client(address, verbose=False, download_files=folder)
        if process.poll() is not None:
            sys.exit("error: anople page has ended: start it by hand to see why.")
        time.sleep(0.1)


def _words(html: str) -> str:
    """Return the first paragraph of what the page shows, without its marks."""
    return re.sub("<[^>]+>", "", html.partition("</p>")[0])


if __name__ == "__main__":
    main()
