# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""anomalib's WinCLIP over a CLIP that needs no download.

anomalib's model has its backbone as a constant, so that this one sets the same attributes around another. Windows,
prompts and scores are anomalib's own; its images, windows and masks fit a CLIP that sees 240 x 240 pixels in patches
of 16.
"""

from collections.abc import Sequence

import torch
from anomalib.metrics import Evaluator
from anomalib.models import WinClip
from anomalib.models.image.winclip.torch_model import TEMPERATURE, WinClipModel
from anomalib.visualization import Visualizer
from torch import nn

from anople_anomalib.backbones.clip_loading import TINY, load_clip


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
        # not WinCLIP's own, which builds its model over a download
        super(WinClip, self).__init__(pre_processor, post_processor, evaluator, visualizer)
        self.model = _TinyWinClipModel(tuple(scales))
        self.class_name, self.k_shot = class_name, k_shot
        self.few_shot_source, self.is_setup = None, False


class _TinyWinClipModel(WinClipModel):
    """WinCLIP's torch model over the bundled CLIP.

    Args:
        scales: Sides of the windows, in patches.
    """

    def __init__(self, scales: tuple[int, ...]) -> None:
        super(WinClipModel, self).__init__()
        self.clip = load_clip(TINY).eval()
        self.clip.visual.output_tokens = True
        self.grid_size = self.clip.visual.grid_size
        self.temperature, self.scales, self.k_shot = TEMPERATURE, scales, 0
        self.class_name = self.reference_images = None
        self.apply_transform, self._transform = False, None
        self.register_buffer_list("masks", self._generate_masks(), persistent=False)
        self.register_buffer("_text_embeddings", torch.empty(0))
        self.register_buffer_list("_visual_embeddings", [torch.empty(0) for _ in scales])
        self.register_buffer("_patch_embeddings", torch.empty(0))
