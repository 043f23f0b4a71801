# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""What is changed of other people's objects, or relied on without their promise, is still there.

One test per row of the table in ``docs/architecture.md``. A test that fails after an update names what is gone: look
for a public way first, then for the new private one.
"""

import inspect
import site
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anomalib.data
import anomalib.models
import PIL.Image
import pytest
import timm
import torch
from anomalib.callbacks import ModelCheckpoint
from anomalib.cli.pipelines import PIPELINE_REGISTRY
from anomalib.data import AnomalibDataModule, MVTecAD, PredictDataset
from anomalib.data.utils import ValSplitMode
from anomalib.engine.engine import _TrainerArgumentsCache
from anomalib.metrics.pro import connected_components_cpu
from anomalib.models.components.base.dynamic_buffer import DynamicBufferMixin
from anomalib.models.components.base.export_mixin import ExportMixin
from anomalib.models.image.winclip import torch_model as winclip_model
from anomalib.pipelines.components.runners import ParallelRunner
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.trainer import call
from lightning.pytorch.trainer.connectors import callback_connector
from torchvision.transforms.v2 import Resize

from anople_anomalib.training.finalization import TrainerArguments


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    """A trainer that has nothing to do."""
    return Trainer(logger=False, accelerator="cpu", barebones=True)


def takes(function: Any, *names: str) -> bool:
    """Whether a function has these parameters, in this order, before others."""
    return list(inspect.signature(function).parameters)[: len(names)] == list(names)


@pytest.mark.skipif(sys.version_info >= (3, 18), reason="Python runs what the .start file names (PEP 829)")
def test_python_runs_import_lines_of_pth_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(sys, "anople_canary", False, raising=False)
    (tmp_path / "canary.pth").write_text("import sys; sys.anople_canary = True\n")
    site.addsitedir(str(tmp_path))
    assert sys.anople_canary


def test_anomalib_looks_classes_up_in_its_modules() -> None:
    assert isinstance(anomalib.models.__all__, list)
    assert isinstance(anomalib.data.__all__, list)
    assert isinstance(PIPELINE_REGISTRY, dict)


def test_anomalibs_prediction_set_lists_its_files_in_an_attribute(tmp_path: Path) -> None:
    PIL.Image.new("RGB", (8, 8)).save(tmp_path / "part.png")
    assert vars(PredictDataset(tmp_path))["image_filenames"] == [tmp_path / "part.png"]


def test_lightnings_loops_know_their_data_loaders(trainer: Trainer) -> None:
    loops = (trainer.fit_loop, trainer.fit_loop.epoch_loop.val_loop, trainer.test_loop, trainer.predict_loop)
    assert all(hasattr(loop._data_source, "instance") for loop in loops)


def test_anomalibs_datamodule_has_its_settings_as_attributes() -> None:
    assert {"external_collate_fn", "train_augmentations", "eval_batch_size"} <= vars(MVTecAD()).keys()


def test_anomalibs_engine_compares_and_replaces_arguments() -> None:
    """See also the test of the arguments themselves."""
    cache = _TrainerArgumentsCache(max_epochs=3)
    cache.update(SimpleNamespace(trainer_arguments=TrainerArguments(60)))
    assert cache.args["max_epochs"] == 3


def test_lightnings_trainer_stops_by_an_attribute(trainer: Trainer) -> None:
    assert "should_stop" in vars(trainer)


def test_lightnings_checkpoint_callback_has_its_private_flag() -> None:
    assert vars(ModelCheckpoint())["_save_on_train_epoch_end"] is None


def test_lightning_hangs_the_models_log_on_callbacks() -> None:
    source = inspect.getsource(callback_connector._CallbackConnector._attach_model_logging_functions)
    assert "callback.log = " in source
    assert "callback.log_dict = " in source


def test_anomalibs_datamodule_sets_up_and_splits_by_private_methods() -> None:
    assert {"_setup", "_create_test_split", "_create_val_split"} <= vars(AnomalibDataModule).keys()
    assert MVTecAD().val_split_mode in ValSplitMode


def test_anomalibs_parallel_runner_waits_by_a_private_method() -> None:
    assert takes(ParallelRunner._await_cleanup_processes, "self", "blocking")
    assert "self.processes" in inspect.getsource(ParallelRunner._await_cleanup_processes)


def test_anomalibs_export_quantizes_by_a_private_method() -> None:
    assert "self._post_training_quantization_ov(" in inspect.getsource(ExportMixin._compress_ov_model)
    assert takes(ExportMixin._post_training_quantization_ov, "model", "datamodule")


def test_anomalibs_pre_processor_is_a_callback_with_a_transform_of_its_own_for_exports() -> None:
    processor = PreProcessor(Resize([2, 2]))
    assert isinstance(processor, Callback)
    assert isinstance(processor.export_transform, Resize)
    for stage in ("validation", "test", "predict"):
        assert takes(getattr(processor, f"on_{stage}_batch_start"), "trainer", "pl_module", "batch", "batch_idx")


def test_anomalibs_post_processor_asks_no_trainer() -> None:
    PostProcessor().on_validation_epoch_end(None, None)
    assert takes(PostProcessor.on_validation_batch_end, "self", "trainer", "pl_module", "outputs")


def test_anomalib_numbers_the_connected_regions_of_masks() -> None:
    masks = torch.zeros(1, 1, 4, 4)
    masks[..., 0, 0] = masks[..., 3, 3] = 1
    assert connected_components_cpu(masks).unique().numel() == 3  # two regions and the rest


def test_lightning_calls_callbacks_in_the_order_of_a_list_that_can_be_replaced(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []

    class Named(Callback):
        def __init__(self, name: str) -> None:
            self.name = name

        def on_test_start(self, *_args: object) -> None:
            called.append(self.name)

    monkeypatch.setattr(trainer, "callbacks", [Named("first"), Named("second")])
    call._call_callback_hooks(trainer, "on_test_start")
    assert called == ["first", "second"]


def test_anomalib_has_buffers_that_take_the_shape_of_a_checkpoint() -> None:
    assert "_load_from_state_dict" in vars(DynamicBufferMixin)


def test_timm_has_a_registry_of_models() -> None:
    assert takes(timm.models.register_model, "fn")
    assert takes(timm.create_model, "model_name", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay")


def test_winclip_builds_its_clip_by_open_clip() -> None:
    assert "open_clip.create_model_and_transforms(" in inspect.getsource(winclip_model.WinClipModel.__init__)
