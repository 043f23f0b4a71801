# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

from pathlib import Path

import pytest
from anomalib.data import MVTecAD
from anomalib.engine import Engine
from anomalib.models import Padim

from anople_anomalib.data import FewShot
from anople_anomalib.data.few_shot import SAMPLES_FILE
from anople_anomalib.data.sampling import read_sample_list
from anople_anomalib.metrics.per_category import PerCategoryEvaluator
from helpers.folders import write_category

METRICS = {"image_AUROC", "image_AUPR", "image_F1Max", "pixel_AUROC", "pixel_AUPRO", "pixel_F1Max"}


@pytest.mark.parametrize("categories", [["bottle"], ["bottle", "cable"]], ids=["one-class", "multi-class"])
def test_another_model_of_anomalib_is_compared_on_the_drawn_images(tmp_path: Path, categories: list[str]) -> None:
    for category in categories:
        write_category(tmp_path / "data", category)
    datamodule = FewShot(MVTecAD(tmp_path / "data", num_workers=0), categories=categories, k_shot=2)
    model = Padim(backbone="resnet18", pre_trained=False, evaluator=PerCategoryEvaluator(), visualizer=False)
    engine = Engine(default_root_dir=tmp_path / "results", accelerator="cpu", logger=False, enable_progress_bar=False)
    engine.fit(model, datamodule=datamodule)
    results = engine.test(model, datamodule=datamodule)[0]

    folder = tmp_path / "results" / "Padim" / "FewShot-MVTecAD" / "+".join(categories) / "latest"
    assert read_sample_list(folder / SAMPLES_FILE) == datamodule.drawn_samples
    assert {category: len(names) for category, names in datamodule.drawn_samples.items()} == dict.fromkeys(
        categories, 2
    )
    own = {f"{category}/{metric}" for category in categories for metric in METRICS} if len(categories) > 1 else set()
    assert set(results) == METRICS | own
    for metric in METRICS if own else ():
        mean = sum(results[f"{category}/{metric}"] for category in categories) / len(categories)
        assert results[metric] == pytest.approx(mean)
    assert results["pixel_AUROC"] > 0.9  # the defects are bright squares
