# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Batch normalization of a frozen model, folded into its convolutions."""

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batch_norm(model: nn.Module, images: torch.Tensor) -> bool:
    """Fold batch normalizations into the convolutions before them, if that changes nothing.

    timm's models name a normalization right after the convolution that it follows. Whether this one does is seen from
    what it makes of some images.

    Args:
        model: A model in evaluation mode; changed in place, or left alone.
        images: Images for the comparison, as the model takes them.

    Returns:
        Whether it was done.
    """
    expected = [features.detach() for features in model(images)]
    replaced: list[tuple[nn.Module, str, nn.Module]] = []
    for parent, first, second in list(_neighbors(model)):
        convolution, normalization = getattr(parent, first), getattr(parent, second)
        replaced += [(parent, first, convolution), (parent, second, normalization)]
        setattr(parent, first, fuse_conv_bn_eval(convolution, normalization))
        setattr(parent, second, getattr(normalization, "act", nn.Identity()))  # timm's have the activation inside
    pairs = zip(model(images), expected, strict=True)
    if all(torch.allclose(one, other, atol=1e-3 * float(other.abs().amax()), rtol=1e-3) for one, other in pairs):
        return bool(replaced)
    for parent, name, module in replaced:
        setattr(parent, name, module)
    return False


def _neighbors(model: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
    """Yield every module with the names of a convolution and of the batch normalization after it."""
    for parent in model.modules():
        names = list(parent._modules)  # noqa: SLF001  # the order of execution, duplicates included
        for first, second in pairwise(names):
            convolution, normalization = getattr(parent, first), getattr(parent, second)
            fits = isinstance(convolution, nn.Conv2d) and isinstance(normalization, nn.BatchNorm2d)
            if fits and convolution.out_channels == normalization.num_features:
                yield parent, first, second
