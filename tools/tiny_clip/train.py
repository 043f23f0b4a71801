# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The training loop: one optimizer, one schedule, checkpoints that continue exactly where they stopped."""

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip import CLIP
from torch import Tensor, nn
from tqdm import tqdm

from .captions import all_words, is_true
from .filters import ENERGIES, filter_energies
from .losses import contrast, dense_contrast, filter_loss, gram_loss, ranking_loss, state_loss
from .model import (
    MODEL_CONFIG,
    FilterHeads,
    VisualOutput,
    build_model,
    encode_texts,
    encode_windows,
    trained_token_mask,
)
from .start import start_from_filters
from .windows import GROUP, Batch, Windows

SHAPES: tuple[tuple[int, int, float], ...] = ((112, 16, 0.60), (160, 8, 0.25), (240, 4, 0.15))
"""Window side, canvases per batch and share of the batches: about as many patches in every batch."""

START_BATCH = (25, 160)
"""Canvases and window side of the batch that the start values are fitted to."""

RANKED_LAYERS: tuple[tuple[int, ...], ...] = ((2, 3, 4), (4, 5))
"""1-based layers whose mean features the ranking loss trains, as a memory bank uses them."""

WEIGHTS: dict[str, float] = {
    "clip": 1.0, "words": 0.5, "dense": 1.0, "window state": 0.5, "patch state": 1.0, "ranking": 1.5, "filters": 0.5,
    "gram": 2.0,
}  # fmt: skip
"""Weight of every loss."""


@dataclass
class Settings:
    """How to train.

    Args:
        steps: Number of optimizer steps.
        minutes: The schedule ends early, fully annealed, when this much training time is used up.
        seed: Seed of weights and batches.
        learning_rate: Peak of the schedule (AdamW).
        average: Decay of the running mean of the weights, which is what is exported.
        save_every: Minutes between two checkpoints.
    """

    steps: int = 3500
    minutes: float = 80.0
    seed: int = 0
    learning_rate: float = 1e-3
    average: float = 0.995
    save_every: float = 2.0


class Trainer:
    """Trainer of the model on windows; ``state_dict`` holds all that a resumed run needs.

    Args:
        windows: Source of batches.
        settings: How to train.
    """

    def __init__(self, windows: Windows, settings: Settings) -> None:
        self.windows, self.settings = windows, settings
        self.tokenizer = open_clip.get_tokenizer("ViT-B-32")
        trained = trained_token_mask(self.tokenizer(all_words()), MODEL_CONFIG["text_cfg"]["vocab_size"])
        self.trained_tokens = trained
        self.model = build_model(settings.seed, trained)
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.explained = start_from_filters(
            self.model, windows.batch(*START_BATCH, self.generator).windows, self.generator
        )
        self.model.token_embedding.weight.register_hook(lambda grad: grad * trained[:, None])
        self.heads = FilterHeads(MODEL_CONFIG["vision_cfg"]["width"], ENERGIES)
        self.average = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        self.optimizer = _optimizer(self.model, self.heads, settings.learning_rate)
        self.step, self.seconds = 0, 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return weights, their mean, optimizer, random state and clock."""
        parts = {"model": self.model, "heads": self.heads, "optimizer": self.optimizer}
        state: dict[str, Any] = {name: part.state_dict() for name, part in parts.items()}
        return state | {
            "average": self.average,
            "generator": self.generator.get_state(),
            "step": self.step,
            "seconds": self.seconds,
            "seed": self.settings.seed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what ``state_dict`` returned.

        Raises:
            ValueError: If the run had another seed.
        """
        if state["seed"] != self.settings.seed:
            msg = f"The checkpoint's seed is {state['seed']}, not {self.settings.seed}; choose another --work-dir."
            raise ValueError(msg)
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average = state["average"]
        self.generator.set_state(state["generator"])
        self.step, self.seconds = state["step"], state["seconds"]

    @property
    def progress(self) -> float:
        """Share of the run that is done, by steps or by time, whichever is further, in [0, 1]."""
        return min(max(self.step / self.settings.steps, self.seconds / 60 / self.settings.minutes), 1.0)

    def train(self, checkpoint: Path) -> CLIP:
        """Train until the progress is 1, saving to ``checkpoint`` now and then and at the end.

        Returns:
            A model with the averaged weights.
        """
        saved = self.seconds
        with tqdm(total=self.settings.steps, initial=self.step, desc="train", unit="step") as bar:
            while self.progress < 1:
                began = time.monotonic()
                losses = self.train_step()
                self.seconds += time.monotonic() - began
                bar.update()
                bar.set_postfix({name: f"{value:.2f}" for name, value in losses.items()}, refresh=False)
                if self.seconds - saved > 60 * self.settings.save_every:
                    saved = self.seconds
                    save_atomically(self.state_dict(), checkpoint)
        save_atomically(self.state_dict(), checkpoint)
        return self.averaged_model()

    def train_step(self) -> dict[str, float]:
        """Take one batch and make one update.

        Returns:
            The unweighted losses.
        """
        pick = float(torch.rand((), generator=self.generator))
        shares = torch.tensor([share for _, _, share in SHAPES]).cumsum(0)
        size, groups, _ = SHAPES[min(int((shares < pick).sum()), len(SHAPES) - 1)]
        losses = self.losses(self.windows.batch(groups, size, self.generator))
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * schedule(self.step, self.progress)
        self.optimizer.zero_grad(set_to_none=True)
        sum(WEIGHTS[name] * loss for name, loss in losses.items()).backward()
        nn.utils.clip_grad_norm_([*self.model.parameters(), *self.heads.parameters()], 1.0)
        self.optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, math.log(100))
            decay = min(self.settings.average, (1 + self.step) / (10 + self.step))
            for name, tensor in self.model.state_dict().items():
                self.average[name].lerp_(tensor, 1 - decay)
        self.step += 1
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Compute all losses of one batch."""
        seen = encode_windows(self.model, batch.windows, self.generator)
        texts, words = encode_texts(self.model, self.tokenizer(batch.texts + batch.vocabulary)).split(
            [len(batch.texts), len(batch.vocabulary)]
        )
        scale = self.model.logit_scale.exp()
        energies = filter_energies(batch.windows, self.windows.patch)
        shots = int(torch.randint(1, 3, (), generator=self.generator))
        ranked = [_layer_mean(seen, layers) for layers in RANKED_LAYERS]
        clip = contrast(scale * seen.image @ texts.t(), is_true(batch.facts, batch.text_facts))
        window_state = state_loss(
            scale * _own_captions(seen.image, texts, torch.arange(len(seen.image))), batch.facts[:, 2]
        )
        return {
            "clip": clip,
            "words": self._word_loss(batch, scale * seen.image @ words.t()),
            "window state": window_state,
            **self._patch_losses(batch, seen, scale * texts),
            "ranking": sum(ranking_loss(f, batch.patch_labels, shots) for f in ranked) / len(ranked),
            "filters": filter_loss(self.heads(seen.hidden), energies),
            "gram": sum(gram_loss(f, energies) for f in ranked) / len(ranked),
        }

    def _word_loss(self, batch: Batch, logits: Tensor) -> Tensor:
        """Name every window among all names, and its color among all colors."""
        true = is_true(batch.facts, batch.vocabulary_facts)
        names = int((batch.vocabulary_facts[:, 0] >= 0).sum())
        halves = zip(logits.tensor_split([names], 1), true.tensor_split([names], 1), strict=True)
        return sum(dense_contrast(scores, right) for scores, right in halves)

    def _patch_losses(self, batch: Batch, seen: VisualOutput, texts: Tensor) -> dict[str, Tensor]:
        """Compute dense CLIP and state losses on up to 384 defect and as many normal patches."""
        labels = batch.patch_labels.flatten()
        chosen = []
        for label in (0, 1):
            rows = (labels == label).nonzero()[:, 0]
            chosen.append(rows[torch.randperm(len(rows), generator=self.generator)[:384]])
        rows = torch.cat(chosen)
        patches, facts = seen.patches.flatten(0, 1)[rows], batch.patch_facts.flatten(0, 1)[rows]
        window = rows // batch.patch_labels.shape[1]
        return {
            "dense": dense_contrast(patches @ texts.t(), is_true(facts, batch.text_facts)),
            "patch state": state_loss(_own_captions(patches, texts, window), labels[rows]),
        }

    def averaged_model(self) -> CLIP:
        """Return a copy of the model with the averaged weights, in evaluation mode."""
        model = build_model(self.settings.seed, self.trained_tokens)
        model.load_state_dict(self.average)
        return model.eval()


def _own_captions(embedded: Tensor, texts: Tensor, window: Tensor) -> Tensor:
    """Compare with the normal and abnormal caption of the own canvas, shape (n, 2)."""
    own = texts.unflatten(0, (-1, 3))[window // GROUP, :2]  # (n, 2, embed_dim)
    return (own @ embedded[:, :, None])[..., 0]


def _layer_mean(seen: VisualOutput, layers: tuple[int, ...]) -> Tensor:
    """Average the hidden states after some layers, shape (n, p, width)."""
    return torch.stack([seen.hidden[layer - 1] for layer in layers]).mean(0)


def _optimizer(model: CLIP, heads: nn.Module, learning_rate: float) -> torch.optim.AdamW:
    """Make AdamW: vectors and embeddings do not decay; visual layers, which start from filters, learn half as fast."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in [*model.named_parameters(), *heads.named_parameters()]:
        decays = parameter.ndim >= 2 and "embedding" not in name
        slow = name.startswith(("visual.conv1", "visual.transformer", "visual.positional"))
        groups.setdefault((decays, slow), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "weight_decay": 0.05 * decays, "peak": learning_rate * (0.5 if slow else 1.0)}
            for (decays, slow), parameters in groups.items()
        ],
        betas=(0.9, 0.98),
    )


def schedule(step: int, progress: float, warm_up: int = 100) -> float:
    """Return the share of the learning rate: a linear warm-up, then a cosine to 1 %."""
    return min(1.0, (step + 1) / warm_up) * (0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * progress)))


def save_atomically(state: dict[str, Any], path: Path) -> None:
    """Save with ``torch.save`` under a temporary name in the same folder, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    torch.save(state, temporary)
    os.replace(temporary, path)
