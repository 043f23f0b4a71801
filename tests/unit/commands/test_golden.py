# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Golden parts judged by a model of tiles; ``tests/integration/test_watch.py`` has the watch around them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonargparse import Namespace
from PIL import Image

from anople_anomalib.commands.judge import judge_series
from anople_anomalib.commands.watch import golden_faults
from anople_anomalib.data.image_series import ImageList
from anople_anomalib.deployment.table import rows_of
from helpers.folders import write_category
from helpers.training import make_datamodule, make_engine, make_model


def test_a_tiled_model_knows_its_golden_parts_again(tmp_path: Path) -> None:
    model = make_model(tiles=[1, 2], epochs=1)
    make_engine(tmp_path / "run").fit(model, datamodule=make_datamodule(write_category(tmp_path / "data")))
    options = Namespace(golden=tmp_path / "golden", output=tmp_path / "out", white=None, accelerator="cpu")
    options.golden_tolerance = 0.05
    random = np.random.default_rng(0)
    for kind in ("good", "bad"):
        (options.golden / kind).mkdir(parents=True)
    for number in range(4):
        image = Image.fromarray(random.integers(60 * number, 60 * number + 40, (90, 110, 3), dtype=np.uint8))
        image.save(options.golden / f"{number}.png")

    def judge_known(place: Path) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        images = ImageList([options.golden])
        images.observers.append(lambda row, _pixels: rows.append(dict(row)))
        judge_series(model, images, Namespace(**{**vars(options), "output": place}))
        return rows

    judge_series(model, ImageList([options.golden]), options)
    rows = sorted(rows_of(tmp_path / "out" / "predictions.jsonl"), key=lambda row: row["score"])
    for place, row in enumerate(rows):
        Path(row["path"]).rename(options.golden / ("good" if place < 2 else "bad") / Path(row["path"]).name)
    model.set_thresholds(image=(rows[1]["score"] + rows[2]["score"]) / 2)
    assert golden_faults(judge_known, options) == []
    assert golden_faults(judge_known, options) == [], "the scores of the first time"
    scores = json.loads((options.output / "golden" / "scores.json").read_text())["scores"]
    assert sorted(scores.values()) == [row["score"] for row in rows]
    model.set_thresholds(image=2 * rows[3]["score"])
    assert {fault.partition(" is OK, and ")[2] for fault in golden_faults(judge_known, options)} == {"is known as bad."}
    (options.output / "golden" / "scores.json").write_text("{}")
    with pytest.raises(ValueError, match=r"scores.json' does not hold .* remove it"):
        golden_faults(judge_known, options)


def test_golden_parts_that_are_gone_or_new_are_noticed(tmp_path: Path) -> None:
    golden = tmp_path / "golden"
    scores = {golden / "good" / "0.png": 0.1, golden / "good" / "1.png": 0.1, golden / "bad" / "0.png": 0.9}
    options = Namespace(golden=golden, output=tmp_path / "out", golden_tolerance=0.05)

    def judge_known(place: Path) -> list[dict[str, Any]]:
        place.mkdir(parents=True, exist_ok=True)
        rows = [{"path": str(path), "score": score, "model": "id"} for path, score in scores.items()]
        return [row | {"verdict": "OK" if row["score"] < 0.5 else "NOT OK"} for row in rows]

    assert golden_faults(judge_known, options) == []
    gone = scores.pop(golden / "good" / "1.png")
    (fault,) = golden_faults(judge_known, options)
    assert "good/1.png' is missing; if that is meant, remove" in fault
    assert rows_of(options.output / "predictions.jsonl")[-1]["error"] == fault
    scores[golden / "good" / "1.png"] = gone
    scores[golden / "good" / "2.png"] = 0.2
    assert golden_faults(judge_known, options) == [], "a new part, whose score is its first"
    scores[golden / "good" / "2.png"] = 0.22
    (fault,) = golden_faults(judge_known, options)
    assert "good/2.png' has the score 0.22, and had 0.2 at first" in fault
