# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""anomalib's WinCLIP over a CLIP that needs no download.

anomalib's model has its backbone as a constant. Windows, prompts and scores are its own; its images, windows and masks
fit a CLIP that sees 240 x 240 pixels in patches of 16.
"""

from collections.abc import Sequence
from typing import Any

from anomalib.metrics import Evaluator
from anomalib.models import WinClip
from anomalib.models.image.winclip import torch_model
from anomalib.visualization import Visualizer
from torch import nn

from anople_anomalib.backbones.clip_loading import TINY, load_clip
from anople_anomalib.utils.scoped import replaced


class TinyWinClip(WinClip):
    """WinCLIP over the bundled ``anople-tiny``.

    Args:
        class_name: Class name for the prompts; ``None`` for the category of the datamodule.
        k_shot: Number of reference images.
        scales: Sides of the windows, in patches.
        pre_processor: Pre-processor instance or flag to use the default.
        post_processor: Post-processor instance or flag to use the default.
        evaluator: Evaluator instance or flag to use the default.
        visualizer: Visualizer instance or flag to use the default.
    """

    def __init__(
        self,
        class_name: str | None = None,
        k_shot: int = 0,
        scales: Sequence[int] = (2, 3),
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        with replaced(torch_model.open_clip, "create_model_and_transforms", _tiny_model):
            super().__init__(
                class_name=class_name,
                k_shot=k_shot,
                scales=tuple(scales),
                pre_processor=pre_processor,
                post_processor=post_processor,
                evaluator=evaluator,
                visualizer=visualizer,
            )


def _tiny_model(*_args: Any, **_kwargs: Any) -> tuple[nn.Module, None, None]:  # noqa: ANN401
    """Return the model and no transforms, in place of open_clip's function."""
    return load_clip(TINY).eval(), None, None
