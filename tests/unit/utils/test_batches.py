# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

from typing import NamedTuple

import pytest
import torch
from anomalib.data import ImageBatch

from anople_anomalib.utils.batches import images_of, joined


def test_images_of_a_batch() -> None:
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(images_of(ImageBatch(image=images)), images)


def test_anomalib_makes_no_batch_without_images() -> None:  # which images_of relies on
    with pytest.raises(TypeError, match="Image must be a"):
        ImageBatch(image=None)


class Pair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor | None


def test_tuples_of_tensors_are_joined_by_field() -> None:
    found = joined([Pair(torch.zeros(1, 2), None), Pair(torch.ones(2, 2), None)])
    assert isinstance(found, Pair)
    assert found.first.tolist() == [[0, 0], [1, 1], [1, 1]]
    assert found.second is None
