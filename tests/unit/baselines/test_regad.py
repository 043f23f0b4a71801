# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""RegAD: its equations against plain transcriptions, and what it learns from tiny categories."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from anople_anomalib.baselines import RegAD
from anople_anomalib.baselines.regad.torch_model import (
    REGULARIZATION,
    RegADModel,
    SpatialTransformer,
    augmented,
    matrices,
    stages_of,
    warp,
)
from anople_anomalib.baselines.transfer import auxiliary_data
from helpers.folders import write_category
from helpers.training import make_datamodule, make_engine

SIDE = 32
SMALL: dict[str, Any] = {"pre_trained": False, "image_size": SIDE, "epochs": 2, "sigma": 1.0, "visualizer": False}


@pytest.fixture
def model() -> RegADModel:
    return RegADModel(stages_of("resnet18", pre_trained=False), SIDE, sigma=0).eval()


@pytest.fixture
def learned(tmp_path: Path) -> RegAD:
    """A model that has learned from two tiny categories."""
    for category in ("cable", "tile"):
        write_category(tmp_path / "others", category, [f"{category}{number}" for number in range(3)])
    module = RegAD(**SMALL, k_shot=2)
    mvtec = {"class_path": "MVTecAD", "init_args": {"root": str(tmp_path / "others"), "num_workers": 0}}
    module.learn_from_auxiliary(auxiliary_data(mvtec, ["cable", "tile"], module.pre_processor.transform))
    return module


def test_transform_is_a_rotation_of_two_scales() -> None:
    transform, inverse = matrices(*(torch.tensor([value]) for value in (0.3, 1.2, 0.7)))
    rotation = np.array([[math.cos(0.3), -math.sin(0.3)], [math.sin(0.3), math.cos(0.3)]])
    assert_close(transform[0].numpy(), (rotation @ np.diag([1.2, 0.7])).astype(np.float32))  # equation (1)
    assert_close(transform @ inverse, torch.eye(2).unsqueeze(0))


def test_warped_there_and_back_is_the_same_within() -> None:
    smooth = F.interpolate(torch.rand(2, 3, 4, 4), size=(32, 32), mode="bicubic")
    transform, inverse = matrices(torch.tensor([0.2, -0.1]), torch.tensor([0.9, 1.0]), torch.tensor([1.0, 0.8]))
    restored = warp(warp(smooth, transform), inverse)
    within = (..., slice(10, 22), slice(10, 22))
    assert_close(restored[within], smooth[within], atol=0.03, rtol=0)


def test_a_new_transformer_changes_nothing() -> None:
    features = torch.rand(2, 8, 6, 5)
    warped, inverse = SpatialTransformer(8, (6, 5))(features)
    assert_close(warped, features)
    assert_close(inverse, torch.eye(2).expand(2, 2, 2))


def test_loss(model: RegADModel) -> None:
    queries, support = torch.rand(2, 3, SIDE, SIDE), torch.rand(2, 3, 3, SIDE, SIDE)
    found = model.loss(queries, support)
    terms = []
    for query, images in zip(queries, support, strict=True):
        f_a = model.stage_maps(query.unsqueeze(0))[0][-1]
        f_b = sum(model.stage_maps(image.unsqueeze(0))[0][-1] for image in images) / len(images)
        z_a, z_b = model.encoder(f_a), model.encoder(f_b)
        for p, z in ((model.predictor(z_a), z_b), (model.predictor(z_b), z_a)):
            for row in range(z.shape[2]):
                for column in range(z.shape[3]):  # equation (2)
                    one, two = p[0, :, row, column], z[0, :, row, column]
                    terms.append(-(one @ two / (one.norm() * two.norm())).item())
    assert_close(found.item(), sum(terms) / len(terms), atol=1e-4, rtol=1e-4)  # equation (3)


def test_the_target_of_the_loss_has_no_gradient(model: RegADModel) -> None:
    for parameter in model.predictor.parameters():  # nothing comes back through what is predicted
        torch.nn.init.zeros_(parameter)
    model.predictor[-1].bias.data.fill_(1.0)
    model.loss(torch.rand(1, 3, SIDE, SIDE), torch.rand(1, 1, 3, SIDE, SIDE)).backward()
    gradients = [parameter.grad for parameter in model.encoder.parameters()]
    assert all(gradient is None or gradient.abs().sum() == 0 for gradient in gradients)


def test_features_are_warped_back_to_their_places(model: RegADModel) -> None:
    images = torch.rand(1, 3, SIDE, SIDE)
    plain = model.stages[0](images)
    with torch.no_grad():
        model.transformers[0].last.bias.copy_(torch.tensor([math.pi / 2, 1.0, 1.0]))  # a quarter turn
        turned, _ = model.stage_maps(images)
        joined = model.joined(images)  # equation (4)
        coarse = model.stages[2](model.stages[1](turned[0]))
    width = plain.shape[1]
    assert not torch.allclose(turned[0], plain)
    assert_close(joined[0, :, :width].T.reshape(plain.shape[1:]), plain[0], atol=1e-4, rtol=1e-3)
    expected = F.interpolate(coarse.rot90(-1, (-2, -1)), plain.shape[-2:], mode="nearest")
    found = joined[0, :, -coarse.shape[1] :].T.reshape(expected.shape[1:])
    other = F.interpolate(coarse.rot90(1, (-2, -1)), plain.shape[-2:], mode="nearest")
    assert min((found - each[0]).abs().max() for each in (expected, other)) < 1e-3


def test_shots_have_22_copies() -> None:
    copies = augmented(torch.rand(2, 3, SIDE, SIDE))
    assert copies.shape == (2, 22, 3, SIDE, SIDE)
    assert len(copies[0].flatten(1).unique(dim=0)) == 22
    assert_close(copies[:, 17], copies[:, 0].flip(-1))
    assert_close(copies[:, 18, 0], copies[:, 18, 2])
    assert_close(copies[:, 20], copies[:, 0].flip(-1).flip(-2))  # half a turn


def test_distances_are_those_of_the_whole_covariance(model: RegADModel) -> None:
    shots, images = torch.rand(2, 3, SIDE, SIDE), torch.rand(3, 3, SIDE, SIDE)
    with torch.no_grad():
        (features,) = model.features(shots)
        model.fit([features])
        model.is_fitted.fill_(value=True)
        found, query = model(images).anomaly_map, model.joined(images)
    side = int(query.shape[1] ** 0.5)
    rows = features.flatten(0, 1).double().numpy()
    expected = np.zeros((3, side * side))
    for place in range(side * side):
        covariance = np.cov(rows[:, place], rowvar=False) + REGULARIZATION * np.eye(rows.shape[-1])  # equation (5)
        offset = query[:, place].double().numpy() - rows[:, place].mean(axis=0)
        expected[:, place] = np.sqrt(np.einsum("bc,cd,bd->b", offset, np.linalg.inv(covariance), offset))  # (6)
    grid = torch.from_numpy(expected).float().reshape(3, 1, side, side)
    assert_close(found, F.interpolate(grid, (SIDE, SIDE), mode="bilinear"), rtol=1e-2, atol=1e-2)


def test_it_learns_to_register() -> None:
    module = RegAD(**{**SMALL, "epochs": 8, "lr": 0.05})
    images = [torch.randint(0, 255, (6, 3, SIDE, SIDE), dtype=torch.uint8) for _ in range(2)]
    module.model.train()
    optimizer = torch.optim.SGD(module.model.parameters(), lr=0.05, momentum=0.9)
    losses = [
        torch.stack([module._step(optimizer, *batch) for batch in module._batches(images)]).mean() for _ in range(8)
    ]
    assert losses[-1] < losses[0] - 0.1


def test_support_images_are_others_of_the_same_category() -> None:
    module = RegAD(**SMALL, k_shot=3, batch_size=4)
    images = [
        torch.full((5, 3, SIDE, SIDE), 10, dtype=torch.uint8),
        torch.full((2, 3, SIDE, SIDE), 90, dtype=torch.uint8),
    ]
    images[1][1] += 1
    images[0] += torch.arange(5, dtype=torch.uint8).reshape(5, 1, 1, 1)
    batches = list(module._batches(images))
    assert sorted(len(queries) for queries, _ in batches) == [1, 2, 4]
    for queries, support in batches:
        assert support.shape[:2] == (len(queries), 3)
        values, others = queries[:, 0, 0, 0], support[:, :, 0, 0, 0]
        assert len({int(value) // 50 for value in [*values, *others.flatten()]}) == 1
        assert not (others == values.unsqueeze(1)).any()


def test_a_shot_scores_lower_than_its_damaged_copy_and_a_checkpoint_restores_it(
    learned: RegAD, mvtec: Path, tmp_path: Path
) -> None:
    engine = make_engine(tmp_path)
    before = {name: value.clone() for name, value in learned.model.state_dict().items() if "running" in name}
    engine.fit(learned, datamodule=make_datamodule(mvtec))
    after = learned.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())  # the shots teach no batch norm
    module = learned.eval()
    shot = make_datamodule(mvtec)
    shot.setup()
    image = module.pre_processor.transform(shot.train_data[0].image).unsqueeze(0)
    damaged = image.clone()
    damaged[..., 8:20, 8:20] = torch.tensor([1.0, 1.0, 0.0]).reshape(3, 1, 1)
    with torch.no_grad():
        scores = module.model(torch.cat([image, damaged])).pred_score
        assert scores[0] < scores[1]
        engine.trainer.save_checkpoint(tmp_path / "model.ckpt")
        again = RegAD.load_from_checkpoint(tmp_path / "model.ckpt").eval()
        assert_close(again.model(damaged).anomaly_map, module.model(damaged).anomaly_map)


def test_it_does_not_see_shots_before_it_has_learned(mvtec: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="RegAD learns from other data before it sees the shots, and was given none"):
        make_engine(tmp_path).fit(RegAD(**SMALL), datamodule=make_datamodule(mvtec))


def test_an_auxiliary_category_of_one_image_is_refused(tmp_path: Path) -> None:
    write_category(tmp_path, "cable", ["0"])
    module = RegAD(**SMALL)
    mvtec = {"class_path": "MVTecAD", "init_args": {"root": str(tmp_path), "num_workers": 0}}
    with pytest.raises(ValueError, match="two normal training images of every auxiliary category, 'cable' has fewer"):
        module.learn_from_auxiliary(auxiliary_data(mvtec, ["cable"], module.pre_processor.transform))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backbone": 3}, "backbone must be a name, got 3"),
        ({"image_size": 4}, "image_size must be an integer, 16 or more, got 4"),
        ({"image_size": 32, "sigma": 8.0}, "image_size must be an integer, 33 or more, got 32"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RegAD(**{**SMALL, **arguments})


def test_other_networks_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"ResNet or an EfficientNet .* got 'vit_tiny_patch16_224'"):
        stages_of("vit_tiny_patch16_224", pre_trained=False)
    widths = [RegADModel(stages_of("efficientnet-lite0", pre_trained=False), 64).factor.shape[-1]]
    assert widths == [24 + 40 + 112]


@pytest.mark.export
def test_an_exported_model_gives_the_same_map(learned: RegAD, mvtec: Path, tmp_path: Path) -> None:
    import onnxruntime

    make_engine(tmp_path).fit(learned, datamodule=make_datamodule(mvtec))
    path = learned.eval().to_onnx(tmp_path, input_size=(SIDE, SIDE))
    session = onnxruntime.InferenceSession(path)
    image = torch.rand(1, 3, SIDE, SIDE)
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, session.run(None, {session.get_inputs()[0].name: image.numpy()}), strict=True))
    with torch.no_grad():
        expected = learned(image)
    assert_close(torch.from_numpy(outputs["anomaly_map"]), expected.anomaly_map, atol=1e-3, rtol=1e-3)
