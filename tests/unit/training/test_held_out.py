# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Thresholds from the shots themselves: each is judged by the memory of the others."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from anople_anomalib.method.subspace_memory_bank import OwnPatches
from anople_anomalib.training.held_out import allowed_turns, view_of
from helpers.folders import write_category
from helpers.training import make_datamodule, make_engine, make_model


def trained(folder: Path, names: list[str], **arguments: object):  # noqa: ANN201
    """A model trained on all good images there are, and its datamodule."""
    root = write_category(folder / "data", train_names=names)
    model, datamodule = make_model(k_shot=None, epochs=1, **arguments), make_datamodule(root, val_split_mode="none")
    make_engine(folder).fit(model, datamodule=datamodule)
    return model, datamodule


def test_a_threshold_is_the_largest_score_by_the_memory_of_the_others(tmp_path: Path) -> None:
    model, datamodule = trained(tmp_path, ["0", "1", "2"])
    images = [model.pre_processor(item.image[None]) for item in datamodule.train_data]
    scores = []
    with torch.no_grad():
        features = [model.model.first_features(image).features for image in images]
        for number, image in enumerate(images):
            model.model.memory_bank.build(torch.cat([row for other, row in enumerate(features) if other != number]))
            scores.append(float(model.model(image).pred_score))
    assert_close(float(model.post_processor.image_threshold), 1.001 * max(scores), rtol=1e-4, atol=1e-7)
    assert model.held_out is None  # it belongs to the run


def test_views_behind_a_threshold_lie_as_the_shots_say_that_parts_lie() -> None:
    """A mirrored part is a defect where parts lie upright: the worst view would call it good."""
    upright = SimpleNamespace(second_memory=SimpleNamespace(lying=torch.tensor([True, *[False] * 7])))
    turns = allowed_turns(upright)
    assert turns == [0]
    assert allowed_turns(SimpleNamespace(second_memory=None)) == [0]
    image = torch.linspace(0.2, 0.8, 64).expand(1, 3, 64, 64)  # dark on the left
    for seed in range(40):
        view = view_of(image, (64, 64), turns, torch.Generator().manual_seed(seed))
        assert view[..., :20].mean() < view[..., -20:].mean()


@pytest.mark.parametrize("arguments", [{"names": ["0"]}, {"names": ["0", "1"], "enabled": False}])
def test_what_cannot_be_held_out_is_shown_in_views(tmp_path: Path, arguments: dict) -> None:
    model, datamodule = trained(tmp_path, **arguments)
    shot = datamodule.train_data[0].image[None]
    with torch.no_grad():
        own = float(model.model(model.pre_processor(shot)).pred_score)
    assert own < float(model.post_processor.image_threshold) < 0.5 * (2 if model.model.memory_bank is None else 1)
    assert len(model.post_processor.normal_scores) == len(datamodule.train_data)


def test_a_shot_with_a_second_memory_has_the_threshold_of_few_shots(tmp_path: Path) -> None:
    """By the spread of its own patches, and the second but one of its twelve views: a plain transcription."""
    memory = {"backbone": "efficientnet-lite0", "image_size": 64, "subspace": 0.95, "fusion": "weighted"}
    model, datamodule = trained(tmp_path, ["0"], memory=memory)
    inner, shot = model.model, datamodule.train_data[0].image[None]
    transform = model.pre_processor.transform
    with torch.no_grad():
        views = [
            view_of(shot, inner.input_size, allowed_turns(inner), torch.Generator().manual_seed(n)) for n in range(12)
        ]
        scores = sorted(float(inner(transform(view)).pred_score) for view in views)
        own = OwnPatches(inner.second_memory.memory_bank)
        itself = inner(transform(shot), None, [inner.memory_bank, own])
        squared = float(itself.anomaly_map.quantile(0.25) * itself.pred_score)
    explained = (
        0.145 * 2.5 * (squared * scores[10]) ** (1 / 3)
    ) ** 0.5  # of one shot: half of the way to an average part
    expected = 1.001 * max(explained, 0.8 * scores[10])
    assert_close(float(model.post_processor.image_threshold), expected, rtol=1e-4, atol=1e-7)
