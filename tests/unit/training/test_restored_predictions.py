# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""What a checkpoint of the Lightning model holds and restores."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from anople_anomalib.anople import AnoPLe
from helpers.miniature import IMAGE_SIZE, MINIATURE, build
from helpers.training import make_datamodule, make_engine, make_model, read


def test_hyper_parameters_are_plain_data_and_rebuild_the_model(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "texture.png")
    given = {
        "class_names": ("metal_nut", "bottle"),
        "state_word": ("damaged", "broken"),
        "layers": (1, 3),
        "anomaly_source": tmp_path,
        "k_shot": None,
    }
    model = make_model(**given)

    def assert_plain(value: object) -> None:
        if type(value) in {list, dict}:
            for item in value.values() if isinstance(value, dict) else value:
                assert_plain(item)
        else:
            assert value is None or type(value) in {str, int, float, bool}, value

    arguments = dict(model.hparams)
    assert_plain(arguments)
    assert arguments["class_names"] == ["metal_nut", "bottle"]
    assert arguments["training"]["anomaly_source"] == str(tmp_path)
    torch.save(arguments, tmp_path / "arguments.pt")
    rebuilt = AnoPLe(**torch.load(tmp_path / "arguments.pt", weights_only=True), visualizer=False)
    assert rebuilt.model.memory_layers == (1, 3)
    assert dict(rebuilt.hparams) == arguments


@pytest.fixture
def checkpoint(mvtec: Path, tmp_path: Path) -> Path:
    """File of a finished training run."""
    engine = make_engine(tmp_path)
    engine.fit(make_model(epochs=1), datamodule=make_datamodule(mvtec))
    return Path(engine.best_model_path)


@pytest.fixture
def other_weights(tmp_path: Path) -> str:
    """A file with other weights for the same backbone."""
    path = tmp_path / "other.pt"
    torch.save({name: value + 0.01 for name, value in build().state_dict().items()}, path)
    return str(path)


def test_checkpoint_restores_exactly_the_same_predictions(mvtec: Path, tmp_path: Path) -> None:
    model, datamodule = make_model(k_shot=2, class_names=("glass_bottle",)), make_datamodule(mvtec)
    engine = make_engine(tmp_path)
    engine.fit(model, datamodule=datamodule)
    expected = engine.predict(model, datamodule=datamodule)

    checkpoint = read(engine.best_model_path)
    assert not any(".clip." in name for name in checkpoint["state_dict"])
    for name, value in model.state_dict().items():  # thresholds and statistics, too
        assert torch.equal(checkpoint["state_dict"][name], value), name
    assert checkpoint["state_dict"]["post_processor.image_min"].isfinite()
    metadata = checkpoint["anople"]
    assert (metadata["backbone"], metadata["weights"]) == ("ViT-miniature", "random")
    assert metadata["class_names"] == ["glass bottle"]
    assert metadata["drawn_samples"] == model.drawn_samples
    assert len(metadata["drawn_samples"]["bottle"]) == 2

    restored = AnoPLe.load_from_checkpoint(engine.best_model_path, visualizer=False)
    assert (restored.class_names, restored.drawn_samples) == (model.class_names, model.drawn_samples)
    predictions = make_engine(tmp_path).predict(restored, datamodule=make_datamodule(mvtec))
    tested = make_engine(tmp_path).predict(
        make_model(k_shot=2), datamodule=make_datamodule(mvtec), ckpt_path=engine.best_model_path
    )
    for result in (predictions, tested):
        for batch, other in zip(expected, result, strict=True):
            for name in ("pred_score", "anomaly_map", "pred_label", "pred_mask"):
                assert torch.equal(getattr(batch, name), getattr(other, name)), name


def test_a_checkpoint_over_other_weights_is_refused_and_nothing_changes(checkpoint: Path, other_weights: str) -> None:
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    model = make_model(pretrained=other_weights)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="trained over another backbone"):
        model.load_state_dict(state)
    for name, value in model.state_dict().items():
        assert_close(value, before[name], equal_nan=True, atol=0, rtol=0, msg=f"{name} has changed")
    with pytest.raises(ValueError, match="trained over another backbone"):
        AnoPLe.load_from_checkpoint(checkpoint, pretrained=other_weights)


def test_a_checkpoint_of_another_backbone_is_refused_by_name(checkpoint: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content["anople"]["backbone"] = "ViT-B-32"
    with pytest.raises(ValueError, match=f"trained over the backbone ViT-B-32 .random., this model has {MINIATURE}"):
        make_model().on_load_checkpoint(content)
    with pytest.raises(ValueError, match="not a checkpoint of AnoPLe"):
        make_model().on_load_checkpoint({"state_dict": {}})


def test_state_loads_strictly_into_a_second_instance(checkpoint: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    model = make_model()
    result = model.load_state_dict(content["state_dict"], strict=True)  # as anomalib's loaders do, without the hooks
    assert not result.missing_keys
    assert not result.unexpected_keys
    assert model.is_finalized
    restored = AnoPLe.load_from_checkpoint(checkpoint, visualizer=False)
    images = torch.rand(2, 3, 70, 90)
    expected, actual = restored.eval()(images), model.eval()(images)
    assert torch.equal(actual.anomaly_map, expected.anomaly_map)
    assert torch.equal(actual.pred_score, expected.pred_score)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_predict_the_same(checkpoint: Path, duplicate: Callable[[AnoPLe], AnoPLe]) -> None:
    model = AnoPLe.load_from_checkpoint(checkpoint, visualizer=False).eval()
    twin, images = duplicate(model), torch.rand(1, 3, *IMAGE_SIZE)
    assert torch.equal(twin(images).anomaly_map, model(images).anomaly_map)
    assert set(twin.state_dict()) == set(model.state_dict())
    twin.load_state_dict(model.state_dict())
