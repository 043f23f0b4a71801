# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Layer numbers of the paper's 12-layer towers, carried over to towers of another depth."""

import logging
from collections.abc import Sequence
from math import ceil

logger = logging.getLogger(__name__)

PAPER_DEPTH = 12
PAPER_PROMPT_DEPTH = 9
PAPER_MEMORY_LAYERS = ((7, 8, 9, 10), (7, 8, 9))  # MVTec AD, VisA


def resolve_prompt_depth(prompt_depth: int, visual_depth: int, text_depth: int) -> int:
    """Return the number of prompted layers J for a pair of towers.

    Args:
        prompt_depth: What the user asked for; the paper's 9 is scaled down for shallow towers.
        visual_depth: Number of layers of the visual tower.
        text_depth: Number of layers of the text tower.

    Returns:
        A number that neither tower falls short of.

    Raises:
        ValueError: If it is smaller than 1 or, unless it is the paper's, larger than the depth of a tower.
    """
    depth = min(visual_depth, text_depth)
    if prompt_depth == PAPER_PROMPT_DEPTH and depth < PAPER_DEPTH:
        scaled = ceil(PAPER_PROMPT_DEPTH * depth / PAPER_DEPTH)
        logger.info("prompts.depth %d of 12 layers becomes %d of %d layers.", PAPER_PROMPT_DEPTH, scaled, depth)
        return scaled
    if not isinstance(prompt_depth, int) or not 1 <= prompt_depth <= depth:
        msg = (
            f"prompts.depth must be between 1 and {depth}, the depth of the shallower tower of this backbone, "
            f"got {prompt_depth!r}."
        )
        raise ValueError(msg)
    return prompt_depth


def resolve_memory_layers(
    memory_layers: Sequence[int],
    visual_depth: int,
    of_paper: Sequence[Sequence[int]] = PAPER_MEMORY_LAYERS,
    option: str = "memory.layers",
) -> tuple[int, ...]:
    """Return the layers whose patch features make the memory.

    Args:
        memory_layers: 1-based numbers that the user asked for; the paper's are scaled for another depth.
        visual_depth: Number of layers of the visual tower.
        of_paper: The numbers that are scaled.
        option: Name of the argument, for messages.

    Returns:
        Ascending 1-based layer numbers.

    Raises:
        ValueError: If there is no layer, or a layer that the tower does not have.
    """
    given = memory_layers if isinstance(memory_layers, Sequence) else [memory_layers]
    layers = tuple(sorted(set(given))) if all(isinstance(layer, int) for layer in given) else ()
    if layers in of_paper and visual_depth != PAPER_DEPTH:
        scaled = tuple(sorted({ceil(layer * visual_depth / PAPER_DEPTH) for layer in layers}))
        logger.info("%s %s of 12 layers become %s of %d layers.", option, layers, scaled, visual_depth)
        return scaled
    if not layers or layers[0] < 1 or layers[-1] > visual_depth:
        msg = (
            f"{option} must be numbers between 1 and {visual_depth}, the depth of this backbone's visual tower, "
            f"got {memory_layers!r}."
        )
        raise ValueError(msg)
    return layers
