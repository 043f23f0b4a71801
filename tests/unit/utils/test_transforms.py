# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""What the transform of a pre-processor may be."""

import pytest
import torch
from anomalib.pre_processing import PreProcessor
from torch import nn
from torch.testing import assert_close
from torchvision.transforms.v2 import (
    CenterCrop,
    Compose,
    Grayscale,
    InterpolationMode,
    Normalize,
    RandomHorizontalFlip,
    Resize,
    Transform,
)

from anople_anomalib.deployment.components import ExactPreProcessor
from anople_anomalib.utils.transforms import (
    ExactResize,
    flat,
    pointwise,
    require_one_transform,
    resize_by_matmul,
    resize_like,
    warn_of_values,
)

NORMALIZE = Normalize([0.5] * 3, [0.2] * 3)
RESIZE = Resize((24, 32))


class OwnPreProcessor(PreProcessor):
    """Does something of its own in a test."""

    def on_test_batch_start(self, *args: object, **kwargs: object) -> None:
        """Change nothing."""


@pytest.mark.parametrize(
    "transform",
    [
        None,
        NORMALIZE,
        RESIZE,
        Compose([RESIZE, NORMALIZE]),
        Compose([Grayscale(3), Compose([RESIZE, NORMALIZE])]),
        Resize([24, 32], interpolation=InterpolationMode.BICUBIC),
    ],
    ids=str,
)
@pytest.mark.parametrize("make", [PreProcessor, ExactPreProcessor])
def test_what_can_be_the_same_everywhere_is_allowed(make: type[PreProcessor], transform: Transform | None) -> None:
    require_one_transform(make(transform))
    require_one_transform(False)
    require_one_transform(None)


@pytest.mark.parametrize(
    "part",
    [
        CenterCrop(16),
        RandomHorizontalFlip(),
        Grayscale(),
        Resize(24),
        Resize((24, 32), antialias=False),
        Resize((24, 32), interpolation=InterpolationMode.NEAREST),
        Resize((48, 32)),
    ],
    ids=str,
)
def test_what_cannot_is_refused_by_name(part: Transform) -> None:
    pre_processor = PreProcessor(Compose([RESIZE, part, NORMALIZE]))
    with pytest.raises(ValueError, match=rf"transform holds {type(part).__name__}\(.*may hold Resize.*Grayscale"):
        require_one_transform(pre_processor)


@pytest.mark.parametrize("pre_processor", [nn.Identity(), OwnPreProcessor(RESIZE)], ids=["module", "subclass"])
def test_an_unknown_pre_processor_is_refused(pre_processor: nn.Module) -> None:
    with pytest.raises(ValueError, match=f"must be anomalib's PreProcessor.*got {type(pre_processor).__name__}"):
        require_one_transform(pre_processor)


def test_parts_of_a_transform() -> None:
    gray = Grayscale(3)
    transform = Compose([gray, Compose([RESIZE, NORMALIZE])])
    assert flat(transform) == [gray, RESIZE, NORMALIZE]
    assert pointwise(transform) == [gray, NORMALIZE]
    assert (flat(None), pointwise(RESIZE)) == ([], [])


def test_a_resize_of_the_same_kind() -> None:
    assert resize_like(Compose([RESIZE]), (4, 6)).interpolation == RESIZE.interpolation
    assert resize_like(NORMALIZE, (4, 6)).interpolation == InterpolationMode.BICUBIC


CLIP, IMAGENET = ([0.481, 0.458, 0.408], [0.269, 0.261, 0.276]), ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


@pytest.mark.parametrize(
    ("normalizations", "warned"),
    [
        ([CLIP], False),
        ([IMAGENET], False),
        ([([0.5] * 3, [0.5] * 3)], False),
        ([], True),
        ([CLIP, CLIP], True),
        ([([123.0, 116.0, 103.0], [58.0, 57.0, 57.0])], True),
    ],
)
def test_values_that_no_backbone_knows_are_told(
    normalizations: list, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    warn_of_values(Compose([RESIZE, *(Normalize(*each) for each in normalizations)]))
    assert ("needs one Normalize" in caplog.text) == warned


BICUBIC = Resize((24, 32), interpolation=InterpolationMode.BICUBIC, antialias=True)


@pytest.mark.parametrize("kind", [InterpolationMode.BICUBIC, InterpolationMode.BILINEAR])
@pytest.mark.parametrize("shape", [(50, 70), (24, 32), (10, 12), (10, 200), (300, 20), (1, 1)])
@pytest.mark.parametrize("size", [(24, 32), (7, 48), (33, 20)], ids=["blocks", "a side in blocks", "whole"])
def test_matmuls_give_torchvisions_pixels(
    shape: tuple[int, int], size: tuple[int, int], kind: InterpolationMode
) -> None:
    images = torch.rand(2, 3, *shape)
    expected = Resize(size, interpolation=kind, antialias=True)(images)
    assert_close(resize_by_matmul(images, size, kind), expected, atol=1e-5, rtol=0)
    assert_close(ExactResize(size, kind)(images), expected)


@pytest.mark.parametrize("size", [(1, 3, 40, 50), (2, 3, 12, 90)])
def test_an_exported_resize_takes_any_image(size: tuple[int, ...]) -> None:
    height, width, batch = (torch.export.Dim(name) for name in ("height", "width", "batch"))
    dynamic = ({0: batch, 2: height, 3: width},)
    program = torch.export.export(ExactResize((24, 32)), (torch.rand(2, 3, 32, 32),), dynamic_shapes=dynamic)
    assert not any("upsample" in str(node.target) for node in program.graph.nodes)
    images = torch.rand(size)
    assert_close(program.module()(images), BICUBIC(images), atol=1e-5, rtol=0)
