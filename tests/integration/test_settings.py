# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Settings of the data, the trainer and the model's parts."""

import csv
import pydoc
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.metrics import AUROC, Evaluator
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import ImageVisualizer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torchvision.transforms.v2 import Compose, Normalize, Resize

from anople_anomalib import AnoPLe
from helpers.command_line import QUIET, Parser, data_arguments
from helpers.training import make_datamodule, make_engine, make_model

pytestmark = pytest.mark.usefixtures("_quiet_process")
LOSSES = {"train_loss", "train_image_loss", "train_pixel_loss", "train_align_loss"}
METRICS = {"image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score"}


def train(images: Path, folder: Path, model: Any = None, data: Any = None, **trainer: Any) -> Any:
    """The model and the results of one epoch of training and a test."""
    built = make_model(**{"epochs": 1, **(model or {})})
    results = make_engine(folder, **trainer).train(built, datamodule=make_datamodule(images, **(data or {})))
    return built, results[0]


@pytest.mark.parametrize(("k_shot", "drawn"), [(1, 1), (2, 2), (4, 4), (8, 8), (None, 8)])
def test_numbers_of_shots(images: Path, tmp_path: Path, k_shot: int | None, drawn: int) -> None:
    model, _ = train(images, tmp_path, {"k_shot": k_shot})
    assert len(model.drawn_samples["bottle"]) == drawn
    assert len(model.model.memory_bank) == 16 * drawn


def test_more_shots_than_there_are_images(images: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="k_shot=9 asks for more images than there are: category 'bottle' has 8"):
        train(images, tmp_path, {"k_shot": 9})


def test_the_batch_size_of_evaluation_does_not_matter(images: Path, tmp_path: Path) -> None:
    results = [train(images, tmp_path, data={"eval_batch_size": size})[1] for size in (1, 2, 32)]
    assert results[0] == pytest.approx(results[2], abs=1e-3)
    assert results[1] == pytest.approx(results[2], abs=1e-3)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_workers(images: Path, tmp_path: Path, num_workers: int) -> None:
    _, results = train(images, tmp_path, data={"num_workers": num_workers})
    assert set(results) == METRICS


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_mixed_precision(images: Path, tmp_path: Path, precision: str) -> None:
    model, results = train(images, tmp_path, precision=precision)
    full, expected = train(images, tmp_path)
    assert results == pytest.approx(expected, abs=0.15)
    assert model.model.text_features.dtype == model.model.memory_bank.features.dtype == torch.float32
    threshold = full.post_processor.image_threshold.item()
    assert model.post_processor.image_threshold.item() == pytest.approx(threshold, rel=0.05)


def test_double_precision(images: Path, tmp_path: Path) -> None:
    model, results = train(images, tmp_path, precision="64-true")
    _, expected = train(images, tmp_path)
    assert model.dtype == torch.float64
    assert results == pytest.approx(expected, abs=0.05)


def test_a_pre_processor_of_ones_own(images: Path, tmp_path: Path) -> None:
    transform = Compose([Resize((80, 100)), Normalize([0.5] * 3, [0.5] * 3)])
    model, results = train(images, tmp_path, {"pre_processor": PreProcessor(transform=transform)})
    assert model.pre_processor.transform is transform
    assert set(results) == METRICS


def test_an_evaluator_of_ones_own(images: Path, tmp_path: Path) -> None:
    evaluator = Evaluator(test_metrics=[AUROC(fields=["pred_score", "gt_label"], prefix="own_")])
    assert set(train(images, tmp_path, {"evaluator": evaluator})[1]) == {"own_AUROC"}


def test_a_visualizer_of_ones_own(images: Path, tmp_path: Path) -> None:
    train(images, tmp_path, {"visualizer": ImageVisualizer(field_size=(64, 64))})
    assert len(list(tmp_path.rglob("images/*/*.png"))) == 8


@pytest.mark.parametrize("part", ["pre_processor", "evaluator", "visualizer"])
def test_parts_are_left_out(images: Path, tmp_path: Path, part: str) -> None:
    model, results = train(images, tmp_path, {part: False})
    assert getattr(model, part) is None
    assert set(results) == (set() if part == "evaluator" else METRICS)


def test_losses_and_metrics_are_in_the_csv_file(images: Path, tmp_path: Path) -> None:
    train(images, tmp_path, logger=CSVLogger(tmp_path))
    (path,) = tmp_path.rglob("metrics.csv")
    rows = list(csv.DictReader(path.open()))
    assert {name for row in rows for name, value in row.items() if value} >= LOSSES | METRICS


def test_losses_and_metrics_are_in_tensorboard(images: Path, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator").EventAccumulator
    train(images, tmp_path, logger=TensorBoardLogger(tmp_path))
    tags: set[str] = set()
    for path in tmp_path.rglob("events.out.*"):
        tags |= set(accumulator(str(path)).Reload().Tags()["scalars"])
    assert tags >= LOSSES | METRICS


@pytest.mark.parametrize("class_path", ["AnoPLe", "anople_anomalib.AnoPLe", "anomalib.models.AnoPLe"])
def test_class_paths_of_a_configuration(images: Path, tmp_path: Path, class_path: str) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"model:\n  class_path: {class_path}\n  init_args:\n    backbone: anople-tiny\n    k_shot: 2\n")
    parsed = Parser(["train", "--config", str(config), *data_arguments(images), *QUIET], run=False).config.train
    assert pydoc.locate(parsed.model.class_path) is AnoPLe
    assert parsed.model.init_args.k_shot == 2
