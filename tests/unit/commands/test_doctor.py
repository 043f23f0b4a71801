# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The command that says which presets work on this machine."""

import re
from typing import Any

import pytest

from anople_anomalib.commands import doctor
from anople_anomalib.commands.main import main

COST = {"teach": 60.0, "image": 0.5, "memory": 2000.0, "weights": 830.0}


@pytest.mark.slow
def test_a_preset_that_works_is_timed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--preset", "offline"]) == 0
    said = capsys.readouterr().out
    found = re.search(
        r"^offline: works; teaching one part takes at most (\d+) s, an image ([\d.]+) s, (\d+) MB of memory "
        r"\(measured: three epochs\)$",
        said,
        re.MULTILINE,
    )
    assert found, said
    assert int(found[1]) > 0
    assert float(found[2]) > 0
    assert 200 < int(found[3]) < 8000
    assert re.search(r"^machine: \d+ cores, \d+ MB of memory, \d+ MB free", said)
    assert re.search(r"^anomalib \d", said, re.MULTILINE)


def test_an_unknown_preset_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["doctor", "--preset", "offlin"])
    assert end.value.code == 2
    assert "There is no preset 'offlin': give of paper," in capsys.readouterr().err


@pytest.mark.parametrize(
    ("memory", "free", "own", "fine", "text"),
    [
        (8000, 9000, {}, True, "works; teaching one part takes at most 60 s, an image 0.50 s, 2000 MB"),
        (1000, 9000, {}, False, "does not work: there is too little memory; teaching one part"),
        (8000, 9000, {"error": "No weights."}, False, "does not work yet: No weights. They take about 830 MB,"),
        (8000, 500, {"error": "No weights."}, False, "there is no room for them on the disk; teaching"),
    ],
)
def test_the_line_of_a_preset(
    monkeypatch: pytest.MonkeyPatch, memory: float, free: float, own: dict[str, Any], fine: bool, text: str
) -> None:
    monkeypatch.setattr(doctor, "_probed", lambda _preset, weights="": COST if weights or not own else own)
    works, said = doctor._finding("paper", memory, free)
    assert works == fine
    assert text in said
    assert ("random weights" in said) == bool(own)


def test_a_probe_that_dies_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_probed", lambda *_: {"error": "its process was ended (too little memory?)."})
    assert doctor._finding("paper", None, 1.0) == (False, "does not work: its process was ended (too little memory?).")
