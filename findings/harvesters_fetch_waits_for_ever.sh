#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# harvesters' `fetch(timeout=1)` waits for ever where the images come by its own thread.
#
# Guess: `ImageAcquirer.fetch(timeout=...)` raises a TimeoutException when no image comes in time, as its docstring says.
# Seen: after `start()` it does. After `start(run_as_thread=True)`, by which the newest image is kept, it never looks at `timeout`:
# a camera that stops sending holds its caller for ever. `try_fetch` is no way out: it passes the thread's images by.
# Who is hurt: a station that takes the newest image of a camera; a pulled cable stops it without a word.
# What helps: wait until `num_holding_filled_buffers` is above 0 by a clock of your own, and call `fetch()` then.
# By the way: the wheel of genicam has a GenTL producer of made-up cameras, `viky.cti`, to test with; its README does not name it.
# harvesters 1.4.3, harvesters/core.py; genicam 1.6.0.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/environment"
"$work/environment/bin/pip" install --quiet --disable-pip-version-check harvesters==1.4.3 genicam==1.6.0
cd "$work"
"$work/environment/bin/python" -W ignore - <<'PYTHON'
import os
import threading
import time
from importlib.metadata import version
from pathlib import Path

import genicam
from harvesters.core import Harvester

print("harvesters", version("harvesters"), "genicam", version("genicam"))


def silent_camera(as_thread):
    harvester = Harvester()
    harvester.add_file(str(Path(genicam.__file__).with_name("viky.cti")))
    harvester.update()
    camera = harvester.create(0)
    camera.start(run_as_thread=as_thread)
    with camera.fetch(timeout=5):
        pass
    camera.remote_device.node_map.AcquisitionStop.execute()
    time.sleep(1)
    return harvester, camera


def seconds_until_it_gives_up(camera):
    """Fetch what is left, and then one more; None after 10 seconds."""
    ended = []

    def fetch():
        try:
            while True:
                started = time.monotonic()
                with camera.fetch(timeout=1):
                    pass
        except Exception as error:
            ended.append((type(error).__name__, round(time.monotonic() - started)))

    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    thread.join(10)
    return ended[0] if ended else None


harvester, camera = silent_camera(False)
plain = seconds_until_it_gives_up(camera)
camera.destroy()
harvester.reset()
_, camera = silent_camera(True)
threaded = seconds_until_it_gives_up(camera)
print("fetch(timeout=1) of a silent camera:", plain, "and by a thread, after 10 seconds:", threaded)
assert plain == ("TimeoutException", 1)
assert threaded is None
os._exit(0)  # the thread still waits
PYTHON
