# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Is the line still as it was? The log of a watched line's drift.

``drift.jsonl`` lies beside the verdicts. Its first lines are the calibration: the measures of the first parts that were
called good. Then there is a line for every window of parts, with the moving averages and their limits, and one for
every alarm. A watch that starts again goes on with the calibration that is there.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from anople_anomalib.metrics.drift import Chart, Gate
from anople_anomalib.utils.lines import cut_half_line, json_lines

from .table import OK

logger = logging.getLogger(__name__)

DRIFT = "drift.jsonl"
"""Name of the file."""
CALIBRATION = 30
"""Good parts that make the calibration."""
WINDOW = 50
"""Parts to a line of the log."""
MEASURES = ("score", "brightness", "sharpness")
_HEAD = {"time": str, "model": str}
_KINDS: dict[str, dict[str, type]] = {
    "calibration": dict.fromkeys(MEASURES, float),
    "window": {"parts": int},
    "alarm": {"text": str, "path": str},
}


def lines_of(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of the log in a folder, and warn of those that this program has not written."""
    for line in json_lines(folder / DRIFT):
        kinds = _KINDS.get(str(line.get("kind")))
        if kinds and all(isinstance(line.get(name), kind) for name, kind in {**_HEAD, **kinds}.items()):
            yield line
        else:
            logger.warning("'%s' has a line of another program, which is left out: %.80s", folder / DRIFT, line)


class DriftLog:
    """Charts of score, brightness and sharpness of the good parts, and a gate for streaks of others.

    Args:
        folder: Folder of the verdicts.
        model_id: Identifies the model: scores of another one make a calibration of their own.
        report: Called with every alarm, one sentence.
    """

    def __init__(self, folder: Path, model_id: str, report: Callable[[str], object] = logger.warning) -> None:
        self._file, self._model_id, self._report = folder / DRIFT, model_id, report
        self._gate, self._charts, self._parts = Gate(), list[Chart](), 0
        self._calibration: dict[str, list[float]] = {measure: [] for measure in MEASURES}
        if self._file.is_file():
            cut_half_line(self._file)
        for line in lines_of(folder):
            if line["model"] == model_id and line["kind"] == "calibration":
                self._calibrate({measure: line[measure] for measure in MEASURES})

    def add(self, row: Mapping[str, Any], pixels: ArrayLike | None) -> None:
        """Add a part.

        Args:
            row: Its row, see :data:`.table.COLUMNS`.
            pixels: Its image, values in [0, 1], shape ``(3, H, W)``; ``None`` if it could not be read.
        """
        good = row["verdict"] == OK
        alarms = [self._gate.update(good)]
        if good and pixels is not None:
            measured = {"score": row["score"], "brightness": brightness(pixels), "sharpness": sharpness(pixels)}
            if self._charts:
                alarms += [chart.update(measured[chart.measure]) for chart in self._charts]
            else:
                self._write("calibration", measured)
                self._calibrate(measured)
        for alarm in filter(None, alarms):
            self._write("alarm", {"text": alarm, "path": row["path"]})
            self._report(alarm)
        self._parts += 1
        if self._parts % WINDOW == 0 and self._charts:
            averages = {chart.measure: round(chart.average, 4) for chart in self._charts}
            limits = {f"{chart.measure}_limit": round(chart.limit, 4) for chart in self._charts}
            self._write("window", {"parts": self._parts, **averages, **limits})

    def _calibrate(self, measured: Mapping[str, float]) -> None:
        """Add the measures of a part to the calibration, and make the charts once it is complete."""
        for measure, value in measured.items():
            self._calibration[measure].append(value)
        if len(self._calibration["score"]) == CALIBRATION:
            varied = {measure: values for measure, values in self._calibration.items() if len(set(values)) > 1}
            self._charts = [Chart(measure, values) for measure, values in varied.items()]

    def _write(self, kind: str, content: Mapping[str, Any]) -> None:
        """Add a line."""
        time = datetime.now().astimezone().isoformat(timespec="milliseconds")
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, "time": time, "model": self._model_id, **content}) + "\n")


def brightness(pixels: ArrayLike) -> float:
    """Return the mean of an image of shape ``(3, H, W)``, values in [0, 1]."""
    return float(np.asarray(pixels, dtype=np.float64).mean())


def sharpness(pixels: ArrayLike) -> float:
    """Return the mean step between neighboring pixels as a share of the brightness, which a lamp does not change."""
    gray = np.asarray(pixels, dtype=np.float64).mean(axis=0)
    steps = np.abs(np.diff(gray, axis=0)).mean() + np.abs(np.diff(gray, axis=1)).mean()
    return float(steps / max(gray.mean(), 1e-6))
