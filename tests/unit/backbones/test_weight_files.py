# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Files of weights: the same weights in every layout give the same features, and what does not fit is refused."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from anomalib.models.components import TimmFeatureExtractor
from safetensors.torch import save_file
from timm.models import vision_transformer
from torch import Tensor, nn
from torch.testing import assert_close

from anople_anomalib.backbones.package_weights import TINY_NAME, register_names
from anople_anomalib.backbones.timm_features import load_memory_backbone
from anople_anomalib.backbones.timm_loading import load_features

SMALL = {"img_size": 56, "depth": 3, "embed_dim": 24, "num_heads": 2}
DINO, REGISTERS, GIANT = "vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2", "vit_giant_patch14_dinov2"
VIT, RESNET = "vit_tiny_patch16_224", "resnet18"
IMAGES = torch.rand(1, 3, 56, 56, generator=torch.Generator().manual_seed(0))
Tensors = dict[str, Tensor]


def trained(name: str, **sizes: Any) -> nn.Module:
    """Build a network none of whose tensors has the value at which it starts."""
    model = timm.create_model(name, **({} if name == RESNET else SMALL | sizes)).eval()
    return scattered(model)


def scattered(model: nn.Module) -> nn.Module:
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point():
            tensor.data = torch.rand_like(tensor) + 0.5 if "running_var" in name else torch.randn_like(tensor) * 0.2
    return model


def features(name: str, file: Path, **sizes: Any) -> list[Tensor]:
    return load_features(name, [1, 2], str(file), sizes={} if name == RESNET else SMALL | sizes).eval()(IMAGES)


def split_qkv(tensors: Tensors, names: tuple[str, str, str]) -> Tensors:
    return {
        name.replace("qkv", each): part
        for name, value in tensors.items()
        for each, part in (zip(names, value.chunk(3), strict=True) if "qkv" in name else [(name, value)])
    }


def as_dinov2(tensors: Tensors) -> Tensors:
    """Write timm's tensors as DINOv2's own repository does: one position for the class token, a mask token."""
    tensors = {"mask_token": torch.rand(1, 24), **tensors}
    if "reg_token" in tensors:
        first = torch.rand(1, 1, 24)
        tensors["register_tokens"] = tensors.pop("reg_token")
        tensors["cls_token"] = tensors["cls_token"] - first
        tensors["pos_embed"] = torch.cat([first, tensors["pos_embed"]], dim=1)
    gated = "blocks.0.mlp.fc1.weight" in tensors and tensors["blocks.0.mlp.fc1.weight"].shape[0] != 96
    names = {"fc1": "w12", "fc2": "w3"} if gated else {}
    return {
        re.sub("fc[12]", lambda found: names.get(found[0], found[0]), name): value for name, value in tensors.items()
    }


def in_chunks(tensors: Tensors) -> Tensors:
    return {re.sub(r"^blocks\.(\d)", r"blocks.0.\1", name): value for name, value in as_dinov2(tensors).items()}


def as_transformers(tensors: Tensors) -> Tensors:
    """Write timm's tensors as the hub's files of transformers have them."""
    is_dino = "mask_token" in (tensors := as_dinov2(tensors) if "blocks.0.ls1.gamma" in tensors else tensors)
    prefix, tensors = ("dinov2." if is_dino else "vit."), split_qkv(tensors, ("query", "key", "value"))
    norms = ("norm1", "norm2") if is_dino else ("layernorm_before", "layernorm_after")
    feed = ("mlp.fc1", "mlp.fc2") if is_dino else ("intermediate.dense", "output.dense")
    for pattern, new in (
        (r"^(cls_token|mask_token|register_tokens)", r"embeddings.\1"),
        ("^pos_embed", "embeddings.position_embeddings"),
        (r"^patch_embed\.proj", "embeddings.patch_embeddings.projection"),
        (r"^norm\.", "layernorm."),
        (r"^blocks\.", "encoder.layer."),
        (r"attn\.(query|key|value)", r"attention.attention.\1"),
        (r"attn\.proj", "attention.output.dense"),
        (r"ls(\d)\.gamma", r"layer_scale\1.lambda1"),
        (r"\.norm1\.", f".{norms[0]}."),
        (r"\.norm2\.", f".{norms[1]}."),
        (r"mlp\.fc1", feed[0]),
        (r"mlp\.fc2", feed[1]),
        (r"mlp\.w12", "mlp.weights_in"),
        (r"mlp\.w3", "mlp.weights_out"),
    ):
        tensors = {re.sub(pattern, new, name): value for name, value in tensors.items()}
    return {prefix + name: value for name, value in tensors.items()} | {"classifier.weight": torch.rand(2, 48)}


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        (VIT, dict),
        (VIT, as_transformers),
        (DINO, dict),
        (DINO, as_dinov2),
        (DINO, in_chunks),
        (DINO, as_transformers),
        (REGISTERS, as_dinov2),
        (REGISTERS, in_chunks),
        (REGISTERS, as_transformers),
        (GIANT, as_dinov2),
        (GIANT, as_transformers),
        (RESNET, dict),
    ],
)
def test_the_same_weights_in_every_layout_give_the_same_features(
    name: str, layout: Callable[[Tensors], Tensors], tmp_path: Path
) -> None:
    model = trained(name)
    expected = model.forward_intermediates(IMAGES, indices=[1, 2], norm=False, intermediates_only=True)
    tensors = {key: value.clone() for key, value in model.state_dict().items()}
    torch.save(layout(tensors), tmp_path / "weights.pth")
    assert_close(features(name, tmp_path / "weights.pth"), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "kind", "settings"),
    [
        (VIT, "ViT", {"intermediate_size": 96, "patch_size": 16, "image_size": 48}),
        (DINO, "Dinov2", {"patch_size": 14, "image_size": 56}),
        (REGISTERS, "Dinov2WithRegisters", {"patch_size": 14, "image_size": 56}),
        (GIANT, "Dinov2", {"patch_size": 14, "image_size": 56, "use_swiglu_ffn": True}),
        (RESNET, "ResNet", {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"}),
    ],
)
def test_features_are_those_of_transformers(name: str, kind: str, settings: dict[str, Any], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    if name != RESNET:
        settings |= {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
    config, network = (getattr(transformers, f"{kind}{role}") for role in ("Config", "Model"))
    model = scattered(network(config(**settings)).eval())
    model.save_pretrained(tmp_path)
    sizes = {"img_size": 48} if name == VIT else {}
    images = IMAGES[..., :48, :48] if name == VIT else IMAGES
    with torch.no_grad():
        hidden = model(images, output_hidden_states=True).hidden_states
        found = load_features(
            name, [1, 2], str(tmp_path / "model.safetensors"), sizes={} if name == RESNET else SMALL | sizes
        ).eval()(images)
    for actual, expected in zip(found, hidden[1:3] if name == RESNET else hidden[2:4], strict=True):
        grid = actual.shape[-2:]
        patches = expected if name == RESNET else expected[:, -grid.numel() :].transpose(1, 2).unflatten(2, grid)
        assert_close(actual, patches, atol=1e-4, rtol=1e-3)


def test_positions_are_brought_to_the_size_of_the_images(tmp_path: Path) -> None:
    torch.save(as_dinov2(trained(REGISTERS).state_dict()), tmp_path / "weights.pth")
    model = load_features(REGISTERS, [1], str(tmp_path / "weights.pth"), sizes=SMALL | {"img_size": 84})
    assert model(torch.rand(1, 3, 84, 84))[0].shape == (1, 24, 6, 6)


@pytest.fixture
def exchange(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let anomalib exchange the function of timm that resizes positions, as it does for good; undone after the test."""
    monkeypatch.setattr(vision_transformer, "resample_abs_pos_embed", timm.layers.resample_abs_pos_embed)

    def build() -> None:
        TimmFeatureExtractor("test_vit", ["blocks.2"], pre_trained=False)

    return build


@pytest.mark.parametrize(
    ("name", "layout", "side"),
    [
        (VIT, dict, 160),
        (VIT, as_transformers, 320),
        (REGISTERS, dict, 448),
        (REGISTERS, as_dinov2, 448),
        (DINO, in_chunks, 224),
        (DINO, as_transformers, 448),
        (VIT, lambda tensors: {name: value.half() for name, value in tensors.items()}, 160),
        ("deit_tiny_distilled_patch16_224", dict, 160),
        ("deit3_small_patch16_224", dict, 160),  # its class token has no position
        ("flexivit_small", dict, 160),  # never antialiased
        ("vit_tiny_patch16_224", dict, 224),
    ],
)
def test_positions_are_timms_whatever_anomalib_has_changed(
    name: str, layout: Callable[[Tensors], Tensors], side: int, tmp_path: Path, exchange: Callable[[], None]
) -> None:
    changes = {"depth": 2, "embed_dim": 24, "num_heads": 2}
    torch.save(layout(scattered(timm.create_model(name, **changes)).state_dict()), tmp_path / "weights.pth")

    def positions(name: str, file: str | None, sizes: dict[str, Any]) -> Tensor:
        return load_features(name, [1], file, sizes=sizes).get_parameter("model.pos_embed")

    def found() -> list[Tensor]:
        file = positions(name, str(tmp_path / "weights.pth"), changes | {"img_size": side})
        return [file, positions(TINY_NAME, None, {"img_size": 160})]

    register_names()
    expected = found()
    exchange()
    changed = vision_transformer.resample_abs_pos_embed
    assert changed is not timm.layers.resample_abs_pos_embed, "anomalib lets timm be: the mend can go"
    assert all(torch.equal(one, other) for one, other in zip(found(), expected, strict=True))
    assert vision_transformer.resample_abs_pos_embed is changed, "what others have done is theirs"


def test_a_memory_is_the_same_before_and_after_a_model_of_anomalib(
    tmp_path: Path, exchange: Callable[[], None]
) -> None:
    torch.save(scattered(timm.create_model(VIT, num_classes=0)).state_dict(), tmp_path / "weights.pth")
    images = torch.rand(1, 3, 160, 160)

    def found() -> tuple[Tensor, bytes]:
        file = str(tmp_path / "weights.pth")
        backbone = load_memory_backbone(VIT, (0.5,) * 3, (0.5,) * 3, image_size=160, weights=file)
        return backbone(images), backbone.fingerprint

    features_before, fingerprint_before = found()
    exchange()
    features_after, fingerprint_after = found()
    assert torch.equal(features_after, features_before)
    assert fingerprint_after == fingerprint_before


def without(*names: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: value for name, value in tensors.items() if name not in names}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("blocks.1.ls1.gamma", "norm.bias"), r"of 48 tensors 2 missing: blocks.1.ls1.gamma, norm.bias\)"),
        (lambda tensors: tensors | {"blocks.3.ls1.gamma": torch.rand(24)}, r"1 unknown: blocks.3.ls1.gamma\)"),
        (lambda tensors: tensors | {"norm.weight": torch.rand(8)}, r"1 of another shape: norm.weight\)"),
        (lambda _: trained(VIT).state_dict(), r"missing: .*ls1.gamma.*; 1 of another shape: patch_embed.proj.weight"),
        (lambda _: trained(RESNET).state_dict(), r"48 missing: cls_token, .* and 45 more; .* unknown: conv1.weight"),
        (
            lambda tensors: split_qkv(without("blocks.0.attn.qkv.bias")(tensors), ("q", "k", "v")),
            "missing",
        ),
        (lambda tensors: {"a": tensors["norm.bias"]}, r"1 unknown: a\)"),
        (lambda tensors: tensors | {f"model.{name}": value for name, value in tensors.items()}, "two of its tensors"),
        (lambda _: {}, "of 48 tensors 48 missing"),
        (lambda _: ["nothing"], "does not hold the weights"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(
    change: Callable[[Tensors], object], message: str, tmp_path: Path
) -> None:
    torch.save(change(trained(DINO).state_dict()), tmp_path / "weights.pth")
    with pytest.raises(
        ValueError, match=rf"weights.pth' does not hold the weights of {DINO} \(.*: give its own file"
    ) as error:
        features(DINO, tmp_path / "weights.pth")
    assert re.search(message, str(error.value)), error.value


class Harmful:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("run",)


def test_a_file_runs_no_code_and_a_wrong_ending_is_no_crash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": Harmful()}, tmp_path / "harmful.pth")
    save_file({"a": torch.rand(1)}, tmp_path / "tensors.pth")
    for name in ("harmful.pth", "tensors.pth"):
        with pytest.raises(ValueError, match=f"{name}' does not hold the weights"):
            features(DINO, tmp_path / name)
    assert "run" not in capsys.readouterr().out
