# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Which presets work on this machine, how long they would take, and which versions are installed.

Each preset is taught for three epochs in a process of its own that reaches no network: so it says how a preset does
with the weights that are here, and its memory is that of the preset alone. One whose weights are missing is timed with
random ones, which are as slow.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from anople_anomalib.presets import preset_names, read_preset
from anople_anomalib.utils.version import __version__

from .exports import example_images
from .terminal import ERROR, FINE, UsageError

if TYPE_CHECKING:
    from anople_anomalib.anople import AnoPLe

_PACKAGES = {
    "anomalib": "", "torch": "", "open-clip-torch": "", "timm": "", "lightning": "",
    "onnxruntime": "export", "openvino": "export", "fastapi": "serve", "paho-mqtt": "signals", "asyncua": "signals",
    "gradio": "app", "ray": "ray", "statsmodels": "study",
}  # fmt: skip
"""Packages whose version is told, and the extra that brings each."""
_EPOCHS = 3  # of a probe: the first one is slower than those that follow, and the last one fills the memory
_MEGABYTE = 1e6
_NO_NETWORK = {"HF_HUB_OFFLINE": "1", "NO_PROXY": "", "no_proxy": ""} | dict.fromkeys(
    ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9"
)


def doctor_options(parser: ArgumentParser) -> None:
    """Add the options of ``doctor``."""
    parser.add_argument("--preset", type=str, nargs="+", default=preset_names(), help="presets to try; all by default")


def doctor(options: Namespace) -> int:
    """Say which presets work on this machine, how long they take, and which versions there are.

    The exit code is 1 where none of them works.
    """
    if unknown := sorted(set(options.preset) - set(preset_names())):
        msg = f"There is no preset {unknown[0]!r}: give of {', '.join(preset_names())}."
        raise UsageError(msg)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / _MEGABYTE if hasattr(os, "sysconf") else None
    free = shutil.disk_usage(Path.home()).free / _MEGABYTE
    has = "memory unknown" if memory is None else f"{memory:.0f} MB of memory"
    print(f"machine: {os.cpu_count()} cores, {has}, {free:.0f} MB free on the disk of {Path.home()}", flush=True)
    works = []
    for preset in options.preset:
        fine, text = _finding(preset, memory, free)
        works.append(fine)
        print(f"{preset}: {text}", flush=True)
    print(f"Python {platform.python_version()}\nanople {__version__}")
    print("\n".join(_version_of(package, extra) for package, extra in _PACKAGES.items()))
    return FINE if any(works) else ERROR


def _version_of(package: str, extra: str) -> str:
    """Return a line on a package."""
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} is not installed" + (f": pip install 'anople-anomalib[{extra}]'" if extra else "")


def _finding(preset: str, memory: float | None, free: float) -> tuple[bool, str]:
    """Return whether a preset works here, and a line on it."""
    found, how = _probed(preset), "measured: three epochs"
    missing = found.get("error", "")
    if missing:
        found, how = _probed(preset, "random"), "measured with random weights: three epochs"
    if "error" in found:
        return False, f"does not work: {missing}" + (f" {found['error']}" if found["error"] != missing else "")
    cost = (
        f"teaching one part takes at most {found['teach']:.0f} s, an image {found['image']:.2f} s, "
        f"{found['memory']:.0f} MB of memory ({how})"
    )
    if memory is not None and found["memory"] > memory:
        return False, f"does not work: there is too little memory; {cost}"
    if not missing:
        return True, f"works; {cost}"
    room = "there is room for them" if found["weights"] < free else "there is no room for them on the disk"
    return False, f"does not work yet: {missing} They take about {found['weights']:.0f} MB, {room}; {cost}"


def _probed(preset: str, weights: str = "") -> dict[str, Any]:
    """Return the result of :func:`probe` in a process without a network."""
    command = [sys.executable, "-m", __name__, preset, weights]
    done = subprocess.run(  # noqa: S603  # this module
        command, env=os.environ | _NO_NETWORK, capture_output=True, text=True, check=False
    )
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["its process was ended (too little memory?)."])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def probe(preset: str, weights: str | None) -> dict[str, Any]:
    """Teach a preset for three epochs on one made-up image, and judge others.

    Args:
        preset: Its name.
        weights: ``"random"``, or ``None`` for the preset's own.

    Returns:
        Seconds of teaching to the preset's last epoch and of an image, megabytes of the process at its peak and of the
        backbones' weights.
    """
    import resource

    from anomalib.engine import Engine
    from lightning.pytorch.callbacks import LambdaCallback

    from anople_anomalib.anople import AnoPLe
    from anople_anomalib.config import MemoryConfig, TrainingConfig
    from anople_anomalib.data.parts import Parts

    own = read_preset(preset)
    memory = MemoryConfig(pretrained=weights if own["memory"]["backbone"] != "none" else None)
    epochs = list[float]()
    clock = LambdaCallback(on_train_epoch_start=lambda *_: epochs.append(time.perf_counter()))
    started = time.perf_counter()
    with example_images() as photos, tempfile.TemporaryDirectory() as results:
        training = TrainingConfig(epochs=_EPOCHS, stop_early=False)
        model = AnoPLe(preset, pretrained=weights, training=training, memory=memory, visualizer=False)
        shot = Parts("/", "probe", [min(photos.iterdir())])
        engine = Engine(callbacks=[clock], default_root_dir=results, logger=False, enable_progress_bar=False)
        engine.fit(model, datamodule=shot)
    taught = time.perf_counter() - started + (own["training"]["epochs"] - _EPOCHS) * (epochs[-1] - epochs[-2])
    image = _seconds_of_an_image(model.eval())
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    size = sum(each.numel() * each.element_size() for each in model.parameters())
    return {
        "teach": taught,
        "image": image,
        "memory": kilobytes * 1024 / _MEGABYTE,
        "weights": size / _MEGABYTE,
    }


def _seconds_of_an_image(model: "AnoPLe") -> float:
    """Return the median of five."""
    import torch

    seconds = []
    with torch.inference_mode():
        for _ in range(5):
            started = time.perf_counter()
            model(torch.rand(1, 3, 480, 640, device=model.device))
            seconds.append(time.perf_counter() - started)
    return median(seconds)


if __name__ == "__main__":
    try:
        print(json.dumps(probe(sys.argv[1], sys.argv[2] or None)))
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(" ".join(str(error).split()))
