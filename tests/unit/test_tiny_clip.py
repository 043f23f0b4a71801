# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The bundled CLIP and the program that trains it."""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from packaging.version import Version
from safetensors.torch import load_file

from tiny_clip import train
from tiny_clip.canvases import NAMES, render, render_many, render_once
from tiny_clip.captions import ABNORMAL, NORMAL, captions_of, is_true
from tiny_clip.damage import FILLS, damage, patch_labels
from tiny_clip.export import ASSET, WEIGHTS_FILE, compressed_size, export_asset
from tiny_clip.losses import contrast, ranking_loss
from tiny_clip.marks import MARKS, mark_library
from tiny_clip.model import MODEL_CONFIG, build_model, encode_texts, encode_windows
from tiny_clip.more_textures import TEXTURES
from tiny_clip.quality import held_out_quality
from tiny_clip.train import Settings, Trainer, save_atomically
from tiny_clip.windows import GROUP, Windows

OPEN_CLIP = Version(version("open_clip_torch"))
loads_folders = pytest.mark.skipif(Version("3") > OPEN_CLIP, reason="older open_clip loads no folder by local-dir:")
trains = pytest.mark.skipif(Version("2.32") > OPEN_CLIP, reason="the training program is written for newer open_clip")


@pytest.fixture(scope="module")
def bundled() -> open_clip.CLIP:
    model = build_model(seed=0)
    model.load_state_dict(load_file(ASSET / WEIGHTS_FILE))
    return model.eval()


@pytest.fixture(scope="module")
def windows() -> Windows:
    return Windows(*render_many(6, seed=3, size=96), patch=16, seed=3, strangers=["zebra"], marks=16)


@loads_folders
def test_plain_open_clip_loads_the_asset_with_its_preprocessing_and_tokenizer() -> None:
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{ASSET}")
    tokens = open_clip.get_tokenizer(f"local-dir:{ASSET}")(["abnormal brick"])
    assert tokens.shape == (1, 77)
    assert model.encode_text(tokens).shape == (1, 128)
    assert model.encode_image(torch.zeros(1, 3, 240, 240)).shape == (1, 128)
    assert preprocess.transforms[-1].mean == pytest.approx(open_clip.OPENAI_DATASET_MEAN)


def test_the_asset_holds_what_was_written_and_not_start_values(bundled: open_clip.CLIP) -> None:
    written = load_file(ASSET / WEIGHTS_FILE)
    for name, tensor in bundled.state_dict().items():
        assert torch.equal(tensor, written[name].to(tensor.dtype)), name


def test_the_asset_is_small_and_its_untrained_tokens_are_zero(bundled: open_clip.CLIP) -> None:
    assert compressed_size(ASSET / WEIGHTS_FILE) < 10 * 2**20
    trained = bundled.token_embedding.weight.any(1)
    assert 100 < int(trained.sum()) < 1000
    words = open_clip.tokenize(["abnormal damaged brick grass gravel metal with a scratch"])
    assert trained[words[words != 0]].all()


def test_the_logit_scale_makes_probabilities_that_are_neither_flat_nor_certain(bundled: open_clip.CLIP) -> None:
    assert 5 < bundled.logit_scale.exp().item() <= 100


@trains
def test_the_asset_knows_images_it_has_not_seen(bundled: open_clip.CLIP) -> None:
    """Chance is 50 for states and memory, and a few percent for captions, textures and colors."""
    quality = held_out_quality(bundled, seed=77, canvases=32)
    assert quality["window state"] > 80
    assert quality["patch state"] > 90
    assert quality["memory"] > 88
    assert quality["caption"] > 35
    assert quality["texture"] > 25
    assert quality["color"] > 40
    assert quality["state cosine"] < 0.9


def test_a_canvas_depends_on_seed_and_index_only() -> None:
    for index in range(4):
        again = render(index, seed=5, size=64)
        np.testing.assert_array_equal(render(index, seed=5, size=64).image, again.image)
        assert not np.array_equal(render(index, seed=6, size=64).image, again.image)
    images, labels = render_many(4, seed=5, size=64)
    np.testing.assert_array_equal(images[3], again.image)
    assert labels[3].tolist() == [again.name, again.color, again.ground]


def test_rendering_on_many_processes_gives_the_same_canvases_and_is_done_once(tmp_path: Path) -> None:
    images, labels = render_once(tmp_path, 3, seed=5, size=48)
    expected = render_many(3, seed=5, size=48)
    np.testing.assert_array_equal(images, expected[0])
    np.testing.assert_array_equal(labels, expected[1])
    written = (tmp_path / "images.npy").stat().st_mtime_ns
    render_once(tmp_path, 3, seed=5, size=48)
    assert (tmp_path / "images.npy").stat().st_mtime_ns == written
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images.npy", "labels.npy"]


def test_a_users_own_images_join_the_canvases_under_the_name_object(tmp_path: Path) -> None:
    import cv2

    path = tmp_path / "part.png"
    cv2.imwrite(str(path), np.full((40, 40, 3), (0, 0, 255), np.uint8))
    own = [canvas for i in range(40) if NAMES[(canvas := render(i, 0, 32, [path])).name] == "object"]
    assert 2 <= len(own) <= 20
    assert all((canvas.image[0] == 255).all() and not canvas.image[1].any() for canvas in own)


def test_an_unreadable_image_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"broken\.png is not an image"):
        [render(i, 0, 32, [path]) for i in range(40)]


@pytest.mark.parametrize("name", list(TEXTURES))
def test_every_texture_stays_in_range_and_is_not_flat(name: str) -> None:
    field = TEXTURES[name](np.random.default_rng(0), 96)
    assert field.shape == (96, 96)
    assert 0 <= field.min() < field.max() <= 1


def test_captions_are_true_of_what_they_name_and_false_of_anything_else() -> None:
    brick, wood = NAMES.index("brick"), NAMES.index("wood")
    texts, facts = captions_of(np.random.default_rng(0), brick, -1, mark=2)
    assert all("brick" in text for text in texts)
    images = torch.tensor(
        [[brick, 4, NORMAL, -1], [brick, 4, ABNORMAL, 2], [brick, 4, ABNORMAL, 1], [wood, 4, NORMAL, -1]]
    )
    assert is_true(images, facts).tolist() == [
        [True, False, False],
        [False, True, True],
        [False, True, False],
        [False, False, False],
    ]


def test_a_stranger_caption_says_the_state_only() -> None:
    _, facts = captions_of(np.random.default_rng(0), 0, 3, mark=2, stranger="zebra")
    assert facts[:2].tolist() == [[-1, -1, NORMAL, -1], [-1, -1, ABNORMAL, -1]]


def test_damage_changes_nothing_outside_its_mask() -> None:
    generator = torch.Generator().manual_seed(0)
    clean, masks = torch.rand(40, 3, 32, 32), torch.zeros(40, 1, 32, 32)
    masks[:, :, 8:16, 8:16] = 1
    damaged, visible = damage(clean, torch.rand(40, 3, 32, 32), masks, generator)
    outside = (masks == 0).expand_as(clean)
    assert torch.equal(damaged[outside], clean[outside])
    assert (visible.flatten(1).sum(1) > 0).sum() > 30
    assert len(FILLS) == len(set(FILLS))


def test_patches_are_labeled_by_the_share_of_changed_pixels() -> None:
    visible = torch.zeros(1, 32, 48)
    visible[0, :4, :4] = 1  # 16 of 256 pixels
    visible[0, 0, 16:20] = 1  # 4 of 256: neither
    assert patch_labels(visible, 16).tolist() == [[1, -1, 0, 0, 0, 0]]


def test_marks_are_drawn_by_seed() -> None:
    masks, kinds = mark_library(len(MARKS), seed=1, size=48)
    np.testing.assert_array_equal(masks, mark_library(len(MARKS), seed=1, size=48)[0])
    assert kinds.tolist() == list(range(len(MARKS)))
    assert (masks.reshape(len(masks), -1).max(1) > 100).all()


def test_a_batch_is_a_function_of_the_generator(windows: Windows) -> None:
    first, second = (windows.batch(3, 48, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first.windows, second.windows)
    assert first.texts == second.texts
    assert first.windows.shape == (3 * GROUP, 3, 48, 48)
    assert not (first.patch_labels.unflatten(0, (3, GROUP))[:, :2] == 1).any()


def test_true_captions_are_no_rivals_of_each_other() -> None:
    logits = torch.tensor([[5.0, 5.0, -5.0], [-5.0, -5.0, 5.0]])
    true = torch.tensor([[True, True, False], [False, False, True]])
    assert float(contrast(logits, true)) == pytest.approx(0, abs=1e-3)
    assert float(contrast(logits, ~true)) > 5


def test_ranking_prefers_defects_far_from_the_bank() -> None:
    torch.manual_seed(0)
    features, labels = torch.randn(1, 1, 16).expand(4, 6, 16) + 0.01 * torch.randn(4, 6, 16), torch.zeros(4, 6).long()
    labels[2:, 0] = 1
    apart = features.clone()
    apart[2:, 0] *= -1
    assert float(ranking_loss(apart, labels, 1)) < 0.01 < float(ranking_loss(features, labels, 1))


@trains
def test_the_training_forward_is_open_clips_own(bundled: open_clip.CLIP) -> None:
    images, tokens = torch.rand(2, 3, 240, 240), open_clip.tokenize(["abnormal brick", "a photo of a red tile"])
    mean, std = (
        torch.tensor(x).view(1, 3, 1, 1) for x in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    with torch.no_grad():
        expected = bundled.encode_image((images - mean) / std, normalize=True)
        torch.testing.assert_close(encode_windows(bundled, images).image, expected, atol=1e-5, rtol=1e-4)
        expected = bundled.encode_text(tokens, normalize=True)
        torch.testing.assert_close(encode_texts(bundled, tokens), expected, atol=1e-5, rtol=1e-4)


@trains
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(
    windows: Windows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "SHAPES", ((48, 2, 1.0),))
    monkeypatch.setattr(train, "START_BATCH", (4, 48))
    straight = Trainer(windows, Settings(steps=2))
    expected = straight.train(tmp_path / "straight.pt").state_dict()
    first = Trainer(windows, Settings(steps=2))
    first.train_step()
    save_atomically(first.state_dict(), tmp_path / "resumed.pt")
    second = Trainer(windows, Settings(steps=2))
    second.load_state_dict(torch.load(tmp_path / "resumed.pt", weights_only=True))
    resumed = second.train(tmp_path / "resumed.pt").state_dict()
    assert second.step == 2
    for name, tensor in expected.items():
        assert torch.equal(tensor, resumed[name]), name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["resumed.pt", "straight.pt"]


def test_a_checkpoint_of_another_seed_is_refused(windows: Windows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "START_BATCH", (4, 48))
    state = Trainer(windows, Settings(seed=0)).state_dict()
    with pytest.raises(ValueError, match="seed is 0, not 1"):
        Trainer(windows, Settings(seed=1)).load_state_dict(state)


@loads_folders
def test_an_export_is_a_whole_asset(tmp_path: Path) -> None:
    model = build_model(seed=0)
    trained = torch.zeros(MODEL_CONFIG["text_cfg"]["vocab_size"], dtype=torch.bool)
    trained[:300] = True
    export_asset(model, trained, tmp_path / "asset")
    loaded = open_clip.create_model(f"local-dir:{tmp_path / 'asset'}")
    torch.testing.assert_close(loaded.visual.proj, model.visual.proj, atol=1e-3, rtol=1e-3)
    assert not loaded.token_embedding.weight[300:].any()
    assert len(list((tmp_path / "asset").iterdir())) == 2
