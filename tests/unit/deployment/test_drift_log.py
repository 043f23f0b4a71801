# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The log of a line's drift: a lamp, a lens and a streak are told, a line that does not change is left in peace."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import data

from anople_anomalib.deployment.drift_log import CALIBRATION, WINDOW, DriftLog, brightness, sharpness
from anople_anomalib.report.drift import write_drift

PARTS_AN_HOUR = 20
PHOTO = (data.camera()[::8, ::8] / 255).astype(np.float64)


def part(random: np.random.Generator, light: float = 0.5) -> NDArray[np.float64]:
    """A photograph of a good part, each a little brighter or darker, with noise."""
    image = light * np.exp(0.02 * random.standard_normal()) * (PHOTO + 0.02 * random.standard_normal(PHOTO.shape))
    return np.repeat(image[None], 3, axis=0).clip(0, 1)


def row(random: np.random.Generator, verdict: str = "OK") -> dict[str, Any]:
    return {"path": "part.png", "verdict": verdict, "score": 0.1 * np.exp(0.1 * random.standard_normal())}


def lines_of(folder: Path) -> list[str]:
    return (folder / "drift.jsonl").read_text().splitlines()


def kinds(folder: Path) -> list[str]:
    return [json.loads(line)["kind"] for line in lines_of(folder)]


def test_a_lamp_that_loses_1_percent_an_hour_is_told_before_a_defect_escapes(tmp_path: Path) -> None:
    """Scores fall with the light: a defect 30 % above the threshold at the start escapes after 26 hours."""
    random, alarms = np.random.default_rng(0), list[str]()
    log = DriftLog(tmp_path, "model", alarms.append)
    for number in range(CALIBRATION + 26 * PARTS_AN_HOUR):
        hour = max(0, number - CALIBRATION) / PARTS_AN_HOUR
        log.add(row(random), part(random, 0.5 * 0.99**hour))
        if alarms:
            break
    assert hour < 15
    assert "brightness is lower than at calibration" in alarms[0]
    assert kinds(tmp_path)[-1] == "alarm"


def test_a_line_that_does_not_change_is_left_in_peace_and_logged(tmp_path: Path) -> None:
    random, alarms = np.random.default_rng(1), list[str]()
    log = DriftLog(tmp_path, "model", alarms.append)
    for _ in range(CALIBRATION + 10 * WINDOW):
        log.add(row(random), part(random))
    assert alarms == []
    assert kinds(tmp_path) == ["calibration"] * CALIBRATION + ["window"] * 10
    last = json.loads((tmp_path / "drift.jsonl").read_text().splitlines()[-1])
    for measure in ("score", "brightness", "sharpness"):
        assert abs(last[measure]) < last[f"{measure}_limit"]


def test_a_lens_out_of_focus_is_told_by_sharpness_alone(tmp_path: Path) -> None:
    random, alarms = np.random.default_rng(2), list[str]()
    log = DriftLog(tmp_path, "model", alarms.append)
    for number in range(CALIBRATION + 200):
        image = part(random)
        if number >= CALIBRATION:
            image = (image + np.roll(image, 1, axis=1) + np.roll(image, 1, axis=2)) / 3
        log.add(row(random), image)
    assert {alarm.split()[1] for alarm in alarms} == {"sharpness"}


def test_a_streak_of_parts_that_are_not_ok_is_told(tmp_path: Path) -> None:
    random, alarms = np.random.default_rng(3), list[str]()
    log = DriftLog(tmp_path, "model", alarms.append)
    for _ in range(20):
        log.add(row(random, "NOT OK"), part(random))
    assert "look at lamp and camera" in alarms[0]


def test_a_watch_that_starts_again_keeps_its_calibration_and_another_model_makes_its_own(tmp_path: Path) -> None:
    random, alarms = np.random.default_rng(4), list[str]()
    for _ in range(CALIBRATION):
        DriftLog(tmp_path, "model").add(row(random), part(random))
    with (tmp_path / "drift.jsonl").open("a") as file:
        file.write('{"kind": "calibration", "mod')  # the power failed
    log = DriftLog(tmp_path, "model", alarms.append)
    for _ in range(60):
        log.add(row(random), part(random, 0.4))
    assert "brightness is lower" in alarms[0]
    assert "alarm" in [json.loads(line)["kind"] for line in lines_of(tmp_path) if not line.endswith("mod")]
    alarms.clear()
    other = DriftLog(tmp_path, "another", alarms.append)
    for _ in range(60):
        other.add(row(random), part(random, 0.4))
    assert alarms == []


def test_brightness_follows_a_lamp_and_sharpness_does_not() -> None:
    image = np.repeat(PHOTO[None], 3, axis=0)
    assert brightness(0.5 * image) == 0.5 * brightness(image)
    assert np.isclose(sharpness(0.5 * image), sharpness(image))
    assert sharpness((image + np.roll(image, 1, axis=2)) / 2) < sharpness(image)


@pytest.mark.parametrize(
    "foreign",
    [{"kind": "calibration", "model": "model"}, {"kind": []}, {"path": "a"}, {"kind": "alarm", "model": "model"}],
)
def test_a_line_of_another_program_is_left_out_with_a_warning(
    tmp_path: Path, foreign: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    random = np.random.default_rng(1)
    DriftLog(tmp_path, "model").add(row(random), part(random))
    own = lines_of(tmp_path)
    (tmp_path / "drift.jsonl").write_text("\n".join([json.dumps(foreign), *own]) + "\n")
    DriftLog(tmp_path, "model").add(row(random), part(random))
    assert caplog.text.count("a line of another program") == 1
    assert len(lines_of(tmp_path)) == 3
    write_drift(tmp_path, tmp_path / "report")
