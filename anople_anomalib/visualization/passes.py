# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""What a trained model says about images besides its prediction: its maps, its embeddings and its attention."""

from typing import NamedTuple

import torch
from anomalib.data import ImageBatch
from torch.nn import functional as F

from anople_anomalib.anople import AnoPLe
from anople_anomalib.backbones.recorded_attention import recorded_attention
from anople_anomalib.utils.batches import images_of


class Evidence(NamedTuple):
    """What a prediction is made of, as the equations give it: neither normalized nor thresholded.

    Attributes:
        decoder: M_hat, shape ``(B, h, w)``, values in [0, 1].
        memory: M_mem of equation (13), shape ``(B, h, w)``, values in [0, 1]; ``None`` without a memory.
        fused: M_q of equation (12), shape ``(B, h, w)``; the decoder's map without a memory.
        probability: p_hat of equation (8), shape ``(B,)``, values in [0, 1].
        embeddings: z^0, L2-normalized, shape ``(B, D)``.
    """

    decoder: torch.Tensor
    memory: torch.Tensor | None
    fused: torch.Tensor
    probability: torch.Tensor
    embeddings: torch.Tensor


class Attention(NamedTuple):
    """Attention weights of the visual tower, mean over the heads.

    Attributes:
        patches: Attention of CLS and of the view signal, if there is one, to the patches: shape
            ``(B, 1 or 2, layers, h, w)``.
        prompts: Attention of the prompts to each other, shape ``(B, layers, C, C)``, query by key.
    """

    patches: torch.Tensor
    prompts: torch.Tensor


@torch.no_grad()
def evidence_of(model: AnoPLe, batch: ImageBatch) -> Evidence:
    """Compute the maps of the decoder and of the memory, their fusion, and the embedding of a batch.

    Args:
        model: A trained model.
        batch: A batch, as ``engine.predict`` or :func:`.samples.load_images` returns it.

    Returns:
        The evidence, on the CPU.
    """
    parts = model.model
    visual = parts.encode_whole(images_on(model, batch))
    decoder = parts.decoder_map(visual)
    memory = None if parts.memory_bank is None else parts.memory_map(visual)
    return Evidence(
        decoder=decoder.cpu(),
        memory=None if memory is None else memory.cpu(),
        fused=parts.fusion.map(decoder, memory).cpu(),
        probability=parts.abnormal_probability(visual).cpu(),
        embeddings=F.normalize(visual.image_embedding, dim=-1).cpu(),
    )


@torch.no_grad()
def attention_of(model: AnoPLe, batch: ImageBatch, view: int = -1) -> Attention:
    """Record the attention of one pass.

    Args:
        model: A trained model.
        batch: As for :func:`evidence_of`.
        view: Index of the view signal that goes along; the default is that of the whole image.

    Returns:
        The attention weights, on the CPU.
    """
    tower, learner = model.model.clip.visual, model.model.prompt_learner
    with recorded_attention(tower) as recorded:
        model.model.encode_whole(images_on(model, batch), view)
    weights = torch.stack(recorded, dim=1).cpu()  # (B, layers, L, L), tokens [CLS, patches, view signal, prompts]
    height, width = tower.grid
    patches, first_prompt = slice(1, 1 + height * width), weights.shape[-1] - learner().visual.shape[1]
    # CLS, and the view signal right behind the patches
    queries = [0] if learner.view_signal is None else [0, patches.stop]
    to_patches = weights[:, :, queries, patches].transpose(1, 2)
    return Attention(
        patches=to_patches.unflatten(-1, (height, width)),
        prompts=weights[:, :, first_prompt:, first_prompt:],
    )


def images_on(model: AnoPLe, batch: ImageBatch) -> torch.Tensor:
    """Return the images of a batch, on the model's device.

    Raises:
        ValueError: If the model does not see them whole.
    """
    if model.model.tiling.number > 1 or model.model.region or model.roi_folder is not None:
        msg = "This model sees tiles or a region of an image (tiles, roi): these figures are of models of whole images."
        raise ValueError(msg)
    return images_of(batch).to(model.device)
