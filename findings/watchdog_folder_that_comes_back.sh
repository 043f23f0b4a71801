#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# A watchdog observer whose folder is removed and made again says that it is alive, and never reports anything again.
#
# Guess: `Observer.is_alive()` tells whether a folder is being watched; a folder that vanishes is an error, an event on the folder
# itself, or the end of the observer.
# Seen (inotify, Linux): `is_alive()` stays True, no exception, no event after the folder is back. Only the emitter, a thread that the
# observer keeps per watch, has ended: `[each.is_alive() for each in observer.emitters]` is `[False]`.
# Who is hurt: a program that judges what a camera writes into a shared folder; a clean-up job that removes and makes the folder
# silences it, and a health check by `is_alive()` stays green.
# What helps: look at the emitters, or list the folder from time to time whatever the observer says.
# watchdog 7.1.0, watchdog/observers/inotify.py.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/environment"
"$work/environment/bin/pip" install --quiet --disable-pip-version-check watchdog==7.1.0
cd "$work"
"$work/environment/bin/python" -W ignore - <<'PYTHON'
import shutil
import time
from importlib.metadata import version
from pathlib import Path

from watchdog.events import FileSystemEventHandler
from watchdog.observers import Observer

print("watchdog", version("watchdog"))
folder, created = Path("incoming"), []


class Handler(FileSystemEventHandler):
    def on_created(self, event):
        created.append(Path(event.src_path).name)


folder.mkdir()
observer = Observer()
observer.schedule(Handler(), str(folder), recursive=True)
observer.start()
time.sleep(0.5)
(folder / "first.png").touch()
time.sleep(1)
print("created so far:", created)
assert created == ["first.png"]

shutil.rmtree(folder)
time.sleep(1)
folder.mkdir()
(folder / "second.png").touch()
time.sleep(2)
emitters = [emitter.is_alive() for emitter in observer.emitters]
print("after the folder came back:", created, "observer alive:", observer.is_alive(), "emitters alive:", emitters)
assert created == ["first.png"]
assert observer.is_alive()
assert emitters == [False]
observer.stop()
observer.join()
PYTHON
