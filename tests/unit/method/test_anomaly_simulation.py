# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Simulated anomalies in pixel and latent space."""

from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torch.testing import assert_close

from anople_anomalib.method.anomaly_simulation import (
    NOISE,
    PHOTOGRAPHS,
    PixelAnomalySimulator,
    simulate_latent_anomalies,
    texture_files,
)


def test_every_image_is_damaged_where_its_mask_says() -> None:
    images = torch.rand(12, 3, 48, 64)
    damaged, masks = PixelAnomalySimulator(probability=1.0)(images)
    assert masks.shape == (12, 1, 48, 64)
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    assert masks.flatten(1).amax(dim=1).eq(1).all()
    assert damaged.min() >= 0
    assert damaged.max() <= 1
    changed = (damaged != images).any(dim=1, keepdim=True)
    assert not changed[masks == 0].any()
    assert changed[masks == 1].float().mean() > 0.5


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_black_and_white_images_stay_in_range(value: float) -> None:
    damaged, _ = PixelAnomalySimulator(probability=1.0)(torch.full((12, 3, 32, 32), value))
    assert damaged.min() >= 0
    assert damaged.max() <= 1


def test_what_the_generator_overdoes_is_clamped() -> None:
    simulator = PixelAnomalySimulator()
    simulator.generator.forward = lambda images: (3 * images - 1, images[:, :1])
    images = torch.tensor([0.0, 0.5, 1.0]).expand(1, 3, 2, 3)
    assert_close(simulator(images)[0], images)


def test_probability_zero_leaves_images_alone() -> None:
    images = torch.rand(8, 3, 32, 32)
    damaged, masks = PixelAnomalySimulator(probability=0.0)(images)
    assert torch.equal(damaged, images)
    assert not masks.any()


def test_half_of_the_images_by_default() -> None:
    _, masks = PixelAnomalySimulator()(torch.rand(100, 3, 32, 32))
    assert 30 < masks.flatten(1).amax(dim=1).sum() < 70


def test_textures_fill_the_masks(tmp_path: Path) -> None:
    Image.new("RGB", (20, 20), (0, 255, 0)).save(tmp_path / "green.png")
    simulator = PixelAnomalySimulator(tmp_path, probability=1.0)
    simulator.generator.augmenters = torch.nn.Identity()  # the texture as it is
    damaged, masks = simulator(torch.zeros(4, 3, 32, 32))
    red, green, blue = damaged.unbind(dim=1)
    assert not red.any()
    assert not blue.any()
    assert torch.equal(green > 0, masks[:, 0] == 1)


@pytest.mark.parametrize("folder", ["empty", "missing"])
def test_a_source_without_images_is_refused(tmp_path: Path, folder: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=f"or a folder with images, found none in .*{folder}"):
        PixelAnomalySimulator(str(tmp_path / folder))(torch.rand(1, 3, 32, 32))


@pytest.mark.parametrize("content", [b"", b"GIF89a no image"], ids=["empty", "damaged"])
def test_a_texture_that_cannot_be_read_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "cloth 1.jpg").write_bytes(content)
    with pytest.raises(ValueError, match=r"The texture '.*cloth 1.jpg' cannot be read \(.+\): make it a PNG or JPEG"):
        PixelAnomalySimulator(tmp_path, probability=1.0)(torch.rand(1, 3, 32, 32))


def test_textures_do_not_depend_on_the_order_of_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(6):
        Image.new("RGB", (8, 8), (0, 40 * index, 0)).save(tmp_path / f"{index}.png")
    damaged = []
    for backwards in (False, True):
        listed = Path.rglob
        monkeypatch.setattr(Path, "rglob", lambda *args: sorted(listed(*args), reverse=backwards))  # noqa: B023
        torch.manual_seed(0)
        damaged.append(PixelAnomalySimulator(tmp_path, probability=1.0)(torch.zeros(4, 3, 32, 32))[0])
        monkeypatch.undo()
    assert torch.equal(*damaged)


def test_latent_anomalies_are_noisy_normalized_embeddings() -> None:
    """Equation (9): z-_latent = z+ + eps."""
    normal = F.normalize(torch.randn(4, 64), dim=1)
    torch.manual_seed(7)
    latent = simulate_latent_anomalies(normal)
    torch.manual_seed(7)
    noise = 0.015 * torch.randn(4, 64)
    for z, eps, actual in zip(normal, noise, latent, strict=True):
        assert_close(actual, (z + eps) / (z + eps).norm())


def test_latent_anomalies_pass_gradients_on() -> None:
    normal = F.normalize(torch.randn(2, 8), dim=1).requires_grad_()
    simulate_latent_anomalies(normal)[:, 0].sum().backward()
    assert normal.grad.abs().sum() > 0


def test_photographs_come_with_scikit_image_and_are_not_tested_on() -> None:
    files = texture_files(PHOTOGRAPHS)
    assert len(files) == 8
    assert all(path.is_file() for path in files)
    assert not {path.stem for path in files} & {"brick", "grass", "gravel"}
    damaged, masks = PixelAnomalySimulator(PHOTOGRAPHS, probability=1.0)(torch.full((4, 3, 64, 64), 0.5))
    inside = damaged.permute(0, 2, 3, 1)[masks[:, 0] == 1]
    assert inside.std(dim=0).min() > 0.05  # textures, not one gray


def test_noise_has_no_files() -> None:
    assert texture_files(NOISE) == []


def test_dtd_without_a_network_is_one_error_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(folder: Path, *_args: object) -> None:
        folder.mkdir(exist_ok=True)  # as anomalib does before it downloads
        msg = "no network"
        raise URLError(msg)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("anomalib.data.utils.download.download_and_extract", fail)
    monkeypatch.setattr("anomalib.utils.path.resolve_dataset_root", lambda *_args: tmp_path / "dtd")
    for _ in range(2):  # the second time, there is an empty folder
        with pytest.raises(FileNotFoundError, match=r"downloaded .*--model.training.anomaly_source photographs"):
            PixelAnomalySimulator("dtd")(torch.rand(1, 3, 32, 32))


def test_dtd_is_read_where_anomalib_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dtd" / "images").mkdir(parents=True)
    Image.new("RGB", (20, 20)).save(tmp_path / "dtd" / "images" / "banded.jpg")
    monkeypatch.setattr("anomalib.utils.path.resolve_dataset_root", lambda *_args: tmp_path / "dtd")
    assert [path.name for path in texture_files("dtd")] == ["banded.jpg"]
