# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""A user's transform is the same in training, memory, test, checkpoint and export."""

from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.deploy import OpenVINOInferencer
from anomalib.pipelines.tiled_ensemble.components.utils.helper_functions import (
    get_ensemble_datamodule,
    get_ensemble_tiler,
)
from anomalib.pre_processing import PreProcessor
from PIL import Image
from torch.testing import assert_close
from torchvision.transforms.v2 import CenterCrop, Compose, Grayscale, Normalize, RandomHorizontalFlip, Resize, Transform

from anople_anomalib import AnoPLe
from helpers.miniature import IMAGE_SIZE
from helpers.training import make_datamodule, make_engine, make_model

NORMALIZE = Normalize([0.4] * 3, [0.2] * 3)
GRAY = Compose([Grayscale(3), Resize(IMAGE_SIZE), NORMALIZE])


@pytest.fixture
def colored(mvtec: Path) -> Path:
    """The tiny category in color."""
    for path in (mvtec / "bottle").rglob("t*/*/*.png"):
        pixels = np.asarray(Image.open(path))
        Image.fromarray(pixels // np.array([1, 3, 2], dtype=np.uint8)).save(path)
    return mvtec


def test_training_memory_and_test_see_gray(colored: Path, tmp_path: Path) -> None:
    model = make_model(pre_processor=PreProcessor(GRAY), pixel_anomalies=False, epochs=1)
    seen: dict[str, torch.Tensor] = {}
    training, memory = model.model.training_forward, model.model.first_features
    model.model.training_forward = lambda views, *rest, **others: (
        seen.update(training=views[0, -1]),
        training(views, *rest, **others),
    )[1]
    model.model.first_features = lambda images, *rest: (seen.update(memory=images[0]), memory(images, *rest))[1]
    model.model.register_forward_hook(lambda _module, args, _output: seen.update(test=args[0][0]))
    make_engine(tmp_path).train(model, datamodule=make_datamodule(colored))
    assert seen.keys() == {"training", "memory", "test"}
    for images in seen.values():
        assert_close(images, images[:1].expand(3, -1, -1))
    assert_close(seen["training"].mean(), seen["memory"].mean(), atol=0.02, rtol=0)


@pytest.mark.parametrize("transform", [GRAY, NORMALIZE], ids=["gray", "no resize"])
def test_checkpoint_and_export_do_the_same(
    colored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transform: Transform
) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("onnxscript")
    monkeypatch.chdir(tmp_path)  # anomalib's inferencer keeps a cache where it runs
    given = PreProcessor(transform)
    model, engine = make_model(pre_processor=given, epochs=1), make_engine(tmp_path)
    datamodule = make_datamodule(colored)
    engine.fit(model, datamodule=datamodule)
    predicted = engine.predict(model, data_path=colored / "bottle" / "test")
    expected = {batch.image_path[0]: batch.pred_score.item() for batch in predicted}
    assert len(set(expected.values())) > 2
    restored = AnoPLe.load_from_checkpoint(engine.best_model_path)
    again = make_engine(tmp_path).predict(restored, data_path=colored / "bottle" / "test")
    assert {batch.image_path[0]: batch.pred_score.item() for batch in again} == expected
    inferencer = OpenVINOInferencer(
        engine.export(restored, "openvino", export_root=tmp_path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    for path, score in expected.items():
        assert inferencer.predict(path).pred_score.item() == pytest.approx(score, abs=1e-3)


def test_what_cannot_be_the_same_is_refused_before_training(mvtec: Path, tmp_path: Path) -> None:
    transform = Compose([Resize(IMAGE_SIZE), CenterCrop(32), NORMALIZE])
    with pytest.raises(ValueError, match=r"transform holds CenterCrop\("):
        make_model(pre_processor=PreProcessor(transform))
    model = make_model()
    model.pre_processor.transform = transform
    with pytest.raises(ValueError, match=r"transform holds CenterCrop\("):
        make_engine(tmp_path).fit(model, datamodule=make_datamodule(mvtec))
    model.model.is_fitted.fill_(value=True)
    with pytest.raises(ValueError, match=r"transform holds CenterCrop\("):
        model.detector()


@pytest.mark.parametrize("name", ["augmentations", "val_augmentations", "test_augmentations"])
def test_augmented_tests_are_refused(mvtec: Path, tmp_path: Path, name: str) -> None:
    model = make_model(epochs=1)
    datamodule = make_datamodule(mvtec, **{name: RandomHorizontalFlip()})
    with pytest.raises(ValueError, match=r"_augmentations of MVTecAD \(RandomHorizontalFlip.*give train_augmentations"):
        make_engine(tmp_path).fit(model, datamodule=datamodule)
    assert not model.is_finalized


def test_a_resize_in_the_datamodule_gives_way_to_the_models(mvtec: Path, tmp_path: Path) -> None:
    model = make_model(epochs=1)
    make_engine(tmp_path).fit(model, datamodule=make_datamodule(mvtec, augmentations=Resize((20, 20))))
    assert model.is_finalized
    without = make_model(epochs=1, pre_processor=False)
    with pytest.raises(ValueError, match=r"val_augmentations of MVTecAD \(Resize"):
        make_engine(tmp_path).fit(without, datamodule=make_datamodule(mvtec, augmentations=Resize((20, 20))))


def test_tiles_are_refused(mvtec: Path, tmp_path: Path) -> None:
    tiler = get_ensemble_tiler({"tile_size": [32, 32], "stride": 32, "image_size": [32, 64]})
    arguments = {"root": str(mvtec), "category": "bottle", "num_workers": 0}
    data = {"class_path": "anomalib.data.MVTecAD", "init_args": arguments}
    tiles = get_ensemble_datamodule(data, (32, 64), tiler, (0, 1))
    model = make_model(epochs=1, pre_processor=PreProcessor(NORMALIZE))
    with pytest.raises(ValueError, match=r"changes images while it collates them .*tiled ensemble"):
        make_engine(tmp_path).fit(model, datamodule=tiles)
