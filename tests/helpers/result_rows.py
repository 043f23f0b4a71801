# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Rows of a comparison that nobody has run."""

import json
from collections.abc import Iterable
from pathlib import Path

from anople_anomalib.pipeline.results import ResultsTable
from anople_anomalib.report.results import Results, load_results


def job(
    model: str = "Patchcore",
    category: str = "bottle",
    seed: int = 0,
    k_shot: int | str = 1,
    **others: object,
) -> dict[str, object]:
    """A result row of one category, or of several where ``category`` names several."""
    config = {
        "accelerator": "cpu",
        "seed": seed,
        "model": {"class_path": model, "init_args": others.pop("init_args", {})},
        "data": {"class_path": "FewShot", "init_args": {"datamodule": "MVTecAD", "k_shot": k_shot}},
        "trainer": {},
    }
    row = {
        "status": "ok",
        "model": model,
        "setting": "multi-class" if ";" in category else "one-class",
        "dataset": "MVTecAD",
        "categories": category,
        "k_shot": k_shot,
        "seed": seed,
        "images_per_second": 10.0,
        "fit_seconds": 1.5,
        "trainable_parameters": 0,
        "accelerator": "cpu",
        "error": "",
        "job_id": f"{model}-{category}-{k_shot}-{seed}",
        "config": json.dumps(config),
    }
    return row | others


def results(folder: Path, rows: Iterable[dict[str, object]]) -> Results:
    for row in rows:
        ResultsTable(folder).add(row)
    return load_results([folder])
