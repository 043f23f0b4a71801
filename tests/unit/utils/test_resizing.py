# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Resizing that is the same before and after an export."""

import pytest
import torch
from torch.testing import assert_close
from torchvision.transforms.v2 import InterpolationMode, Resize

from anople_anomalib.utils.resizing import ExactResize, resize_by_matmul

BICUBIC = Resize((24, 32), interpolation=InterpolationMode.BICUBIC, antialias=True)


@pytest.mark.parametrize("kind", [InterpolationMode.BICUBIC, InterpolationMode.BILINEAR])
@pytest.mark.parametrize("shape", [(50, 70), (24, 32), (10, 12), (10, 200), (300, 20), (1, 1)])
def test_matmuls_give_torchvisions_pixels(shape: tuple[int, int], kind: InterpolationMode) -> None:
    images = torch.rand(2, 3, *shape)
    expected = Resize((24, 32), interpolation=kind, antialias=True)(images)
    assert_close(resize_by_matmul(images, (24, 32), kind), expected, atol=1e-5, rtol=0)
    assert_close(ExactResize((24, 32), kind)(images), expected)


@pytest.mark.parametrize("size", [(1, 3, 40, 50), (2, 3, 12, 90)])
def test_an_exported_resize_takes_any_image(size: tuple[int, ...]) -> None:
    height, width, batch = (torch.export.Dim(name) for name in ("height", "width", "batch"))
    dynamic = ({0: batch, 2: height, 3: width},)
    program = torch.export.export(ExactResize((24, 32)), (torch.rand(2, 3, 32, 32),), dynamic_shapes=dynamic)
    assert not any("upsample" in str(node.target) for node in program.graph.nodes)
    images = torch.rand(size)
    assert_close(program.module()(images), BICUBIC(images), atol=1e-5, rtol=0)
