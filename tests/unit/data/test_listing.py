# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Images that a user hands over."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anomalib.data.utils import read_image

from anople_anomalib.data.listing import each_image


def test_every_form_of_an_image_comes_as_a_batch_of_one(mvtec: Path) -> None:
    folder = mvtec / "bottle" / "train" / "good"
    files = sorted(folder.glob("*.png"))
    expected = [read_image(file, as_tensor=True).unsqueeze(0) for file in files]
    for images in (folder, str(folder), files, [files[0], *map(str, files[1:])], torch.cat(expected)):
        names, actual = zip(*each_image(images), strict=True)
        assert len(actual) == 3
        assert list(names) in (list(map(str, files)), ["tensor 1", "tensor 2", "tensor 3"])
        assert all(torch.equal(*pair) for pair in zip(actual, expected, strict=True))
    mixed = list(each_image([files[0], expected[1][0], folder]))
    assert [image.shape for _, image in mixed] == [(1, 3, 90, 110)] * 5
    assert torch.equal(next(each_image(files[2]))[1], expected[2])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "images is empty"),
        (torch.rand(3, 8), r"must have the shape \(3, H, W\) or \(B, 3, H, W\), got \(3, 8\)"),
        (torch.rand(1, 8, 8), r"got \(1, 8, 8\)"),
        (torch.rand(0, 3, 8, 8), r"got \(0, 3, 8, 8\)"),
        (
            torch.full((3, 4, 4), 255, dtype=torch.uint8),
            r"neither bytes nor normalized, got torch.uint8 in \[255, 255\]",
        ),
        (torch.full((3, 4, 4), -1.5), r"got torch.float32 in \[-1.5, -1.5\]"),
        (torch.full((3, 4, 4), float("nan")), r"in \[nan, nan\]"),
    ],
)
def test_what_is_no_image_is_refused(images: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(each_image(images))


def test_what_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.png").write_bytes(b"not an image")
    (tmp_path / "notes.txt").write_text("not an image either")
    with pytest.raises(FileNotFoundError, match=r"There is no image or folder .*missing"):
        list(each_image(tmp_path / "missing"))
    for name in ("empty", "notes.txt"):
        with pytest.raises(ValueError, match=rf"{name}' (cannot be read|is not an image and holds none)"):
            list(each_image(tmp_path / name))
    with pytest.raises(ValueError, match=r"broken.png' cannot be read"):
        list(each_image(tmp_path / "broken.png"))
    with pytest.raises(TypeError, match="got a ndarray"):
        list(each_image([np.zeros((4, 4, 3))]))


def test_pictures_that_are_left_out_are_named(mvtec: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = mvtec / "bottle" / "train" / "good"
    (folder / "more.jp2").touch()
    assert len(list(each_image(folder))) == 3
    assert "1 files are left out" in caplog.text
    assert "more.jp2" in caplog.text
