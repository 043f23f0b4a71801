# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The visualizer in anomalib's engine."""

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from anomalib.cli import AnomalibCLI
from anomalib.data import ImageBatch
from lightning.pytorch import LightningModule
from PIL import Image

from anople_anomalib.visualization import PanelVisualizer, nearest_normal, shots_of
from helpers.miniature import MINIATURE
from helpers.training import make_datamodule, make_engine, make_model

INSIDE = {"attention_prompts", "attention_views", "features", "maps", "nearest_normal"}
OUTSIDE = {"failures", "highest", "scores"}


def names_in(folder: Path) -> set[str]:
    return {file.stem for file in folder.iterdir()}


@pytest.mark.slow
def test_training_and_testing_leave_panels_and_summary_in_the_results(mvtec: Path, tmp_path: Path) -> None:
    model, datamodule = make_model(visualizer=PanelVisualizer(max_rows=2), k_shot=2), make_datamodule(mvtec)
    engine = make_engine(tmp_path)
    engine.train(model=model, datamodule=datamodule)
    images = Path(engine.trainer.default_root_dir) / "images"
    assert names_in(images / "summary") == INSIDE | OUTSIDE | {"training_curves"}
    panels = {file.relative_to(images).as_posix() for file in images.rglob("*.png") if "summary" not in file.parts}
    assert panels == {f"{kind}/{number:03d}.png" for kind in ("good", "hole") for number in range(2)}
    for file in images.rglob("*.png"):
        assert Image.open(file).convert("L").getextrema()[0] < 255  # not blank
    shots = shots_of(model, datamodule)
    own = ImageBatch(image=torch.cat([model.pre_processor.transform(image) for image in _images(datamodule, shots)]))
    assert [match.shot for match in nearest_normal(model, own, len(shots))] == [0, 1]


def _images(datamodule: object, shots: list) -> list[torch.Tensor]:
    """The shots' images at the size of their files."""
    files = {Path(path).name: path for path in datamodule.train_data.samples.image_path}
    as_tensor = [torch.from_numpy(shot.image).permute(2, 0, 1) for shot in shots]
    assert {shot.name for shot in shots} <= set(files)
    return [image.unsqueeze(0) for image in as_tensor]


def run(visualizer: PanelVisualizer, folder: Path, batch: ImageBatch) -> Path:
    """Let a visualizer see a test of a model that is not AnoPLe."""
    trainer, stranger = SimpleNamespace(default_root_dir=folder, callbacks=[], test_dataloaders=[]), LightningModule()
    visualizer.on_test_start(trainer, stranger)
    visualizer.on_test_batch_end(trainer, stranger, None, batch, 0)
    visualizer.on_test_end(trainer, stranger)
    return folder / "images"


def test_another_model_gets_the_images_that_need_no_look_inside(batch: ImageBatch, tmp_path: Path) -> None:
    images = run(PanelVisualizer(), tmp_path, batch)
    assert names_in(images / "summary") == OUTSIDE
    assert len(list(images.rglob("00?.png"))) == 4


def test_predictions_without_labels_get_no_image_of_errors(batch: ImageBatch, tmp_path: Path) -> None:
    bare = ImageBatch(image=batch.image, pred_score=batch.pred_score, anomaly_map=batch.anomaly_map)
    images = run(PanelVisualizer(), tmp_path, bare)
    assert names_in(images / "summary") == {"highest"}


def test_images_without_a_file_get_a_panel_each(batch: ImageBatch, tmp_path: Path) -> None:
    bare = ImageBatch(image=batch.image, pred_score=batch.pred_score, anomaly_map=batch.anomaly_map)
    images = run(PanelVisualizer(output_dir=tmp_path / "images"), tmp_path, bare)
    assert len(list(images.glob("*.png"))) == 4


def test_a_image_that_cannot_be_drawn_costs_a_warning_only(
    batch: ImageBatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    visualizer = PanelVisualizer()
    visualizer._losses["train_image_loss"] = [1.0]  # without the total
    with caplog.at_level(logging.WARNING):
        images = run(visualizer, tmp_path, batch)
    assert "No image 'training_curves': The metrics must have a column 'train_loss'" in caplog.text
    assert names_in(images / "summary") == OUTSIDE


def test_a_second_test_starts_anew(batch: ImageBatch, tmp_path: Path) -> None:
    visualizer = PanelVisualizer()
    run(visualizer, tmp_path / "first", batch)
    assert visualizer._scores == visualizer._highest == []


def test_the_worst_and_the_highest_are_kept_and_the_rest_is_forgotten(batch: ImageBatch, tmp_path: Path) -> None:
    visualizer = PanelVisualizer(tmp_path, max_rows=2)
    visualizer.on_test_batch_end(SimpleNamespace(callbacks=[]), LightningModule(), None, batch, 0)
    assert [Path(item.image_path).stem for item in visualizer._failures] == ["001", "002"]
    assert [Path(item.image_path).stem for item in visualizer._highest] == ["000", "002"]
    assert visualizer._scores == pytest.approx([0.9, 0.2, 0.6, 0.1])
    assert visualizer._labels == [True, True, False, False]


def test_the_command_line_takes_the_visualizer_and_its_arguments(mvtec: Path, tmp_path: Path) -> None:
    path = f"{PanelVisualizer.__module__.rpartition('.')[0]}.{PanelVisualizer.__name__}"
    model = ["--model", "AnoPLe", "--model.backbone", MINIATURE, "--model.pretrained", "random"]
    data = ["--data", "MVTecAD", "--data.root", str(mvtec), "--default_root_dir", str(tmp_path)]
    visualizer = ["--model.visualizer", path, "--model.visualizer.max_rows", "3"]
    cli = AnomalibCLI(args=["train", *model, *visualizer, *data], run=False)
    assert type(cli.model.visualizer) is PanelVisualizer
    assert cli.model.visualizer.max_rows == 3


@pytest.mark.parametrize("max_rows", [0, -1])
def test_too_few_rows_are_refused(max_rows: int) -> None:
    with pytest.raises(ValueError, match=f"max_rows must be 1 or more, got {max_rows}"):
        PanelVisualizer(max_rows=max_rows)
