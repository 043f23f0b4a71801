# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Which presets need no download on this machine."""

from functools import partial
from pathlib import Path

import pytest
from huggingface_hub import try_to_load_from_cache

from anople_anomalib.backbones import at_hand
from anople_anomalib.backbones.at_hand import is_at_hand
from anople_anomalib.presets import preset_names, read_preset, resolve
from anople_anomalib.utils import downloads


@pytest.fixture(autouse=True)
def _caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches in a folder of the test."""
    monkeypatch.setattr(downloads, "try_to_load_from_cache", partial(try_to_load_from_cache, cache_dir=tmp_path))
    monkeypatch.setattr(at_hand, "_CLIP_CACHE", tmp_path)


def listed() -> list[str]:
    return [name for name in preset_names() if is_at_hand(read_preset(name))]


def test_a_preset_is_at_hand_once_its_weights_are_there(tmp_path: Path) -> None:
    assert listed() == ["offline"]
    model = tmp_path / "models--timm--vit_small_patch14_dinov2.lvd142m"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("0" * 40)
    file = model / "snapshots" / ("0" * 40) / "model.safetensors"
    file.parent.mkdir(parents=True)
    file.touch()
    assert listed() == ["dinov2", "offline"]
    (tmp_path / "vit_b_16_plus_240-laion400m_e32-699c4b84.pt").touch()
    assert listed() == preset_names()


def test_a_package_that_is_not_installed_is_not_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    lite = at_hand.PACKAGE_WEIGHTS["efficientnet-lite2"]
    monkeypatch.setitem(at_hand.PACKAGE_WEIGHTS, "efficientnet-lite2", lite._replace(package="no-such-package"))
    assert listed() == []
    assert is_at_hand(resolve("offline", memory={"backbone": "none"}))
