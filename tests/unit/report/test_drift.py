# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The page of a watched line's drift."""

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from anople_anomalib.commands.main import main

START = datetime(2026, 11, 30, 6, tzinfo=timezone.utc)


def write_log(folder: Path, *, alarm: bool) -> None:
    """A shift of 8 hours with 50 parts an hour, stopped and started again at noon."""
    lines = []
    for hour in range(8):
        time, parts = (START + timedelta(hours=hour)).isoformat(), 50 * (1 + hour % 4)
        averages = dict.fromkeys(("score", "brightness", "sharpness"), 0.01 * hour)
        limits = {f"{name}_limit": 0.9 for name in averages}
        lines.append({"kind": "window", "time": time, "model": "m", "parts": parts, **averages, **limits})
    if alarm:
        text = "The brightness is lower than at calibration: <b>"
        lines.append({"kind": "alarm", "time": time, "model": "m", "text": text, "path": "part 7.png"})
    folder.mkdir()
    (folder / "drift.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize("alarm", [False, True])
def test_charts_alarms_and_their_rate_are_on_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], alarm: bool
) -> None:
    write_log(tmp_path / "verdicts", alarm=alarm)
    assert main(["report", str(tmp_path / "verdicts")]) == 0
    assert f"Wrote {tmp_path / 'verdicts' / 'report' / 'drift.html'}." in capsys.readouterr().out
    page = (tmp_path / "verdicts" / "report" / "drift.html").read_text()
    assert f"{int(alarm)} alarms in 400 parts" in page
    assert all(f">{name}</text>" in page for name in ("score", "brightness", "sharpness"))
    assert ("calibration: &lt;b&gt;" in page) == alarm
    assert "part 7.png" in page or not alarm
    assert "with a chance of 5 % within 10,000 good parts" in page
    rate = page.partition("it did so on ")[2].partition(" of 1000")[0]
    assert 30 <= int(rate) <= 70, "of 1,000 simulated lines 5 %"
    # 350 parts in seven hours are 36,000 a month, in which three charts alarm 3 * 0.05 * 3.6 times
    a_month = float(page.partition("good parts, ")[2].partition(" a month")[0])
    assert a_month == pytest.approx(3 * 0.05 * 3.6, rel=0.4)


def test_a_log_without_a_window_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "drift.jsonl").write_text("")
    assert main(["report", str(tmp_path)]) == 0
    assert "no window of parts yet" in (tmp_path / "report" / "drift.html").read_text()
