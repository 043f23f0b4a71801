# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Predictions taken apart."""

from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from PIL import Image

from anople_anomalib.anople import AnoPLe
from anople_anomalib.data.image_reading import read_image
from anople_anomalib.visualization.samples import (
    LONGEST_SIDE,
    head,
    load_images,
    pixels_of,
    samples_of,
    select,
    short_name,
)
from helpers.miniature import IMAGE_SIZE


def test_samples_show_the_files_and_what_was_predicted(batch: ImageBatch) -> None:
    samples = samples_of([batch, batch])
    assert [sample.name for sample in samples[:4]] == ["hole/000", "hole/001", "hole/002", "hole/003"]
    assert len(samples) == 8
    first = samples[0]
    np.testing.assert_allclose(first.image, np.asarray(Image.open(batch.image_path[0])) / 255, atol=1e-6)
    assert torch.equal(torch.from_numpy(first.truth), batch.gt_mask[0])
    assert torch.equal(torch.from_numpy(first.heat), batch.anomaly_map[0])
    assert torch.equal(torch.from_numpy(first.predicted), batch.pred_mask[0])


def test_verdicts_tell_missed_images_from_false_alarms(batch: ImageBatch) -> None:
    samples = samples_of([batch])
    assert [sample.verdict for sample in samples] == ["0.90", "0.20 missed", "0.60 false alarm", "0.10"]
    assert [sample.is_wrong for sample in samples] == [False, True, True, False]
    assert [round(sample.error, 2) for sample in samples] == [-0.4, 0.3, 0.1, -0.4]


@pytest.mark.parametrize(("anomalous", "wrong"), [(True, True), (False, False)])
def test_a_score_at_the_threshold_counts_as_normal(batch: ImageBatch, anomalous: bool, wrong: bool) -> None:
    assert samples_of([batch])[0]._replace(score=0.5, is_anomalous=anomalous).is_wrong is wrong


def test_an_image_without_file_label_or_prediction_is_drawn_from_its_tensor() -> None:
    sample = samples_of([ImageBatch(image=torch.randn(1, 3, *IMAGE_SIZE))])[0]
    assert sample.image.min() == 0
    assert sample.image.max() == 1
    assert (sample.name, sample.verdict, sample.is_wrong) == ("", "", False)
    assert sample.truth is sample.heat is sample.predicted is None


def test_nothing_to_draw_is_a_clear_error() -> None:
    with pytest.raises(ValueError, match=r"There are no predictions to draw: pass what engine\.predict returns\."):
        samples_of([])


def test_images_are_selected_by_name_in_the_order_of_the_names(batch: ImageBatch) -> None:
    chosen = select([batch], ["hole/002", "hole/000"])
    assert torch.equal(chosen.image, batch.image[[2, 0]])
    assert chosen.pred_score.tolist() == pytest.approx([0.6, 0.9])
    with pytest.raises(ValueError, match=r"There is no image 'hole/7'; there are hole/000, hole/001, .*\."):
        select([batch], ["hole/000", "hole/7"])


def test_head_keeps_the_first_images(batch: ImageBatch) -> None:
    assert torch.equal(head(batch, 2).image, batch.image[:2])
    assert head(batch, 4) is batch


def test_images_are_loaded_as_the_model_wants_them(model: AnoPLe, batch: ImageBatch) -> None:
    loaded = load_images(model, batch.image_path[:2])
    assert loaded.image.shape == (2, 3, *IMAGE_SIZE)
    assert loaded.image_path == batch.image_path[:2]
    assert loaded.image.min() < 0  # normalized
    assert samples_of([loaded])[1].name == "hole/001"


def test_a_image_of_sixteen_bits_that_a_camera_held_upright_is_shown_so(tmp_path: Path) -> None:
    dark, rotated = np.full((8, 4), 257 * 51, dtype=np.uint16), Image.new("RGB", (20, 10))
    Image.fromarray(dark).save(tmp_path / "dark.png")
    exif = rotated.getexif()
    exif[0x0112] = 6  # lying on its side
    rotated.save(tmp_path / "rotated.jpg", exif=exif)
    np.testing.assert_allclose(pixels_of(read_image(tmp_path / "dark.png")), 0.2, atol=1e-3)
    assert pixels_of(read_image(tmp_path / "rotated.jpg")).shape == (20, 10, 3)


def test_large_images_are_shrunk_in_proportion() -> None:
    image = pixels_of(torch.rand(3, 4 * LONGEST_SIDE, 2 * LONGEST_SIDE))
    assert image.shape == (LONGEST_SIDE, LONGEST_SIDE // 2, 3)
    assert pixels_of(torch.rand(3, 20, 30)).shape == (20, 30, 3)


def test_names_are_folder_and_stem() -> None:
    assert short_name("data/bottle/test/crack/003.png") == "crack/003"
    assert short_name(None) == ""
