# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The language model of AnomalyGPT: its question, the answers that it is taught with, and the answers that it gives.

Any causal model of transformers. The question and the form of its answers are those that the paper describes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from anople_anomalib.backbones.frozen import FrozenModule
from anople_anomalib.utils.files import first_line

BEFORE = "### Human: <Img>"
BETWEEN = "</Img> "
AFTER = " Is there any anomaly in the image? ### Assistant:"
NO = "No, there is no anomaly in the image."
YES = "Yes, there is an anomaly in the image, at the {} of the image."
PLACES = (
    "top left",
    "top",
    "top right",
    "left",
    "center",
    "right",
    "bottom left",
    "bottom",
    "bottom right",
)
"""The places of a grid of three by three, row by row."""

_IGNORED = -100  # a label that torch's cross-entropy leaves out
_LONGEST = 32  # tokens of an answer


class LanguageModel(FrozenModule):
    """A causal language model that is asked about an image; frozen, and absent from state dicts.

    Args:
        name: A folder with a model and its tokenizer, or their name on Hugging Face's Hub.

    Raises:
        ImportError: If transformers is not installed.
        FileNotFoundError: If there is no such model.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        try:
            from transformers import AutoModelForCausalLM, AutoTokenizer
        except ImportError as error:
            msg = 'A language model needs transformers: run `pip install "anople-anomalib[language]"`.'
            raise ImportError(msg) from error
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(name)
            self.model: Any = AutoModelForCausalLM.from_pretrained(name)
        except (OSError, ValueError) as error:
            reason = first_line(error)
            msg = f"language_model '{name}' is no causal model of transformers that is here or can be fetched: {reason}"
            raise FileNotFoundError(msg) from error
        self.freeze()

    @property
    def width(self) -> int:
        """Width of the word embeddings."""
        return self.model.get_input_embeddings().weight.shape[1]

    def question(self, images: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
        """Put images and prompts into the question.

        Args:
            images: Embeddings of images, shape ``(B, 1, width)``.
            prompts: Shape ``(B, n, width)``.

        Returns:
            Embeddings of the question's tokens, shape ``(B, L, width)``.
        """
        before, between, after = (
            self._words(self._tokens(text)).expand(len(images), -1, -1) for text in (BEFORE, BETWEEN, AFTER)
        )
        return torch.cat([before, images.to(before), between, prompts.to(before), after], dim=1)

    def loss(self, question: torch.Tensor, answers: Sequence[str]) -> torch.Tensor:
        """Compute the cross-entropy of answers.

        Args:
            question: From :meth:`question`, shape ``(B, L, width)``.
            answers: B texts.

        Returns:
            The mean over the answers' tokens, a scalar; 0 or more.

        Raises:
            ValueError: If question and answer are longer than the model's texts.
        """
        end = [self.tokenizer.eos_token_id] if self.tokenizer.eos_token_id is not None else []
        tokens = [
            torch.cat([self._tokens(f" {answer}")[0], torch.tensor(end).to(question.device)]) for answer in answers
        ]
        labels = nn.utils.rnn.pad_sequence([each.long() for each in tokens], batch_first=True, padding_value=_IGNORED)
        self._require_room(question.shape[1] + labels.shape[1])
        words = self._words(labels.clamp_min(0))  # (B, A, width)
        logits = self.model(inputs_embeds=torch.cat([question, words], dim=1)).logits
        told = logits[:, question.shape[1] - 1 : -1]  # a token is told by the one before
        return F.cross_entropy(told.flatten(0, 1).float(), labels.flatten(), ignore_index=_IGNORED)

    @torch.no_grad()
    def answer(self, question: torch.Tensor) -> list[str]:
        """Return the most probable answers, token by token, to B questions.

        Raises:
            ValueError: If question and answer are longer than the model's texts.
        """
        self._require_room(question.shape[1] + _LONGEST)
        attended = torch.ones(question.shape[:2], dtype=torch.long, device=question.device)
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.tokenizer.eos_token_id
        tokens = self.model.generate(
            inputs_embeds=question,
            attention_mask=attended,
            max_new_tokens=_LONGEST,
            do_sample=False,
            pad_token_id=pad,
        )
        return [" ".join(text.split()) for text in self.tokenizer.batch_decode(tokens, skip_special_tokens=True)]

    def _require_room(self, length: int) -> None:
        """Refuse question and answer of more tokens than the model has positions; some have any number."""
        config = self.model.config
        if hasattr(config, "max_position_embeddings") and length > config.max_position_embeddings:
            msg = (
                f"language_model has {config.max_position_embeddings} positions, question and answer take {length}: "
                "name one for longer texts."
            )
            raise ValueError(msg)

    def _tokens(self, text: str) -> torch.Tensor:
        """Return the token numbers of a text, shape ``(1, L)``."""
        tokens = self.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        return tokens.to(self.model.get_input_embeddings().weight.device)

    def _words(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.model.get_input_embeddings()(tokens)


def right_answer(mask: torch.Tensor) -> str:
    """Return the answer to teach: where, of three by three, a mask ``(1, h, w)`` has most, or that it is empty."""
    if not mask.any():
        return NO
    return YES.format(PLACES[int(F.adaptive_avg_pool2d(mask.float(), 3).argmax())])


def yes_or_no(sentence: str) -> str:
    """Return ``"yes"``, ``"no"``, or nothing where a sentence begins with neither.

    Example:
        >>> yes_or_no("Yes, there is an anomaly in the image.")
        'yes'
    """
    word = sentence.split(maxsplit=1)[0].strip(",.!:;").lower() if sentence.strip() else ""
    return word if word in {"yes", "no"} else ""
