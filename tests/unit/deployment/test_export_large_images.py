# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Tiles and a region in exports, and what goes with neither."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anomalib.deploy import OpenVINOInferencer, TorchInferencer
from PIL import Image
from torch.testing import assert_close

from anople_anomalib.anople import AnoPLe
from helpers.training import make_engine, make_model, train_model

LEFT = [[0.0, 0.0], [0.6, 0.0], [0.6, 1.0], [0.0, 1.0]]
PRECISE = {"INFERENCE_PRECISION_HINT": "f32"}


@pytest.fixture(scope="module")
def model(root: Path, tmp_path_factory: pytest.TempPathFactory) -> AnoPLe:
    """A model that was trained on two tiles and the left of the image."""
    return train_model(root, tmp_path_factory.mktemp("training"), tiles=[1, 2], roi=LEFT)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image larger than the tiles and of the shots' shape, with something bright outside of the region."""
    pixels = np.random.default_rng(0).integers(90, 140, (180, 220, 3), dtype=np.uint8)
    pixels[40:60, 180:210] = 255
    path = tmp_path / "large.png"
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.export
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["torch", "openvino"])
def test_an_export_judges_tiles_and_region_as_the_engine_does(
    model: AnoPLe, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)  # where OpenVINO's inferencer keeps a cache
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    (expected,) = make_engine(tmp_path).predict(model, data_path=image)
    if kind == "torch":
        inferencer: Any = TorchInferencer(model.to_torch(tmp_path), device="cpu")
    else:
        pytest.importorskip("openvino")
        inferencer = OpenVINOInferencer(model.to_openvino(tmp_path), device="CPU", config=PRECISE)
    actual = inferencer.predict(image)
    found_map, found_score = (torch.as_tensor(each).squeeze() for each in (actual.anomaly_map, actual.pred_score))
    assert expected.anomaly_map.shape[-2:] == model.input_size
    assert_close(found_map, expected.anomaly_map.squeeze(), atol=1e-4, rtol=0)
    assert_close(found_score, expected.pred_score.squeeze(), atol=1e-4, rtol=0)
    assert found_map[:, int(0.62 * found_map.shape[1]) :].max() < 1e-6  # outside of the region
    turned = image.with_name("turned.png")
    Image.open(image).transpose(Image.Transpose.ROTATE_90).save(turned)
    actual = inferencer.predict(turned)
    assert bool(np.isnan(torch.as_tensor(actual.pred_score)).all())
    assert bool(torch.as_tensor(actual.pred_label).all())  # never good


@pytest.mark.parametrize("arguments", [{"tiles": [1, 2]}, {"tiles": "auto"}, {"roi": LEFT}], ids=str)
def test_turned_shots_go_with_neither(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="turns whole shots, tiles and roi have their place"):
        make_model(turns="right_angles", **arguments)


def test_a_region_by_name_stays_with_the_files(root: Path, tmp_path: Path) -> None:
    model = make_model()
    model.model.is_fitted.fill_(value=True)
    model.roi_folder = str(tmp_path)
    good = root / "bottle" / "test" / "good"
    message = r"region of interest per image.*train it with one mask or polygon for all"
    for change, given in (
        (model.to_torch, tmp_path),
        (model.extend_memory_bank, good),
        (model.recompute_thresholds, good),
    ):
        with pytest.raises(ValueError, match=message):
            change(given)
    assert not any(tmp_path.iterdir())
