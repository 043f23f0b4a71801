# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Scores of test images, and the sentences of a language model beside them."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from anomalib.data import Folder, ImageBatch

from anople_anomalib.pipeline.image_scores import ImageScores
from helpers.folders import write_category


@pytest.mark.parametrize("explanation", [None, ["Yes, there is a hole.", "No."]])
def test_sentences_stand_beside_scores_that_do_not_depend_on_them(
    tmp_path: Path, explanation: list[str] | None
) -> None:
    root = write_category(tmp_path / "data")
    scores = ImageScores(Folder("bottle", root=root / "bottle", normal_dir="train/good"))
    files = [str(root / "bottle" / "test" / kind / "000.png") for kind in ("hole", "good")]
    batch = ImageBatch(
        image=torch.zeros(2, 3, 4, 4),
        image_path=files,
        gt_label=torch.tensor([True, False]),
        pred_score=torch.tensor([0.5, 0.25]),
        explanation=explanation,
    )
    scores.on_test_batch_end(None, None, None, batch)
    scores.save(tmp_path / "scores.parquet")
    table = pd.read_parquet(tmp_path / "scores.parquet")
    assert table["score"].tolist() == [0.5, 0.25]
    assert table["defect"].tolist() == ["hole", "good"]
    assert table["answer"].tolist() == (["yes", "no"] if explanation else ["", ""])
    assert table["sentence"].tolist() == (explanation or ["", ""])


def test_images_of_one_name_in_folders_of_one_name_stay_apart(tmp_path: Path) -> None:
    root = write_category(tmp_path / "data")
    scores = ImageScores(Folder("bottle", root=root / "bottle", normal_dir="train/good"))
    batch = ImageBatch(
        image=torch.zeros(2, 3, 4, 4),
        image_path=[str(root / side / "x" / "test" / "hole" / "000.png") for side in ("left", "right")],
        gt_label=torch.tensor([True, True]),
        pred_score=torch.tensor([0.5, 0.25]),
    )
    scores.on_test_batch_end(None, None, None, batch)
    scores.save(tmp_path / "scores.parquet")
    table = pd.read_parquet(tmp_path / "scores.parquet")
    assert table["image"].tolist() == ["left/x/test/hole/000.png", "right/x/test/hole/000.png"]
    assert table["defect"].tolist() == ["hole", "hole"]
