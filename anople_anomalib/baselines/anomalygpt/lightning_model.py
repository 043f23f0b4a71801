# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""AnomalyGPT: industrial anomalies by a memory of the shots, and sentences of a language model on them.

Example:
    >>> from anomalib.engine import Engine
    >>> from anople_anomalib.baselines import AnomalyGPT
    >>> from anople_anomalib.data import FewShot

    >>> datamodule = FewShot("MVTecAD", categories=["bottle"], k_shot=2)  # doctest: +SKIP
    >>> Engine().fit(AnomalyGPT(), datamodule=datamodule)  # doctest: +SKIP

Paper:
    Zhaopeng Gu, Bingke Zhu, Guibo Zhu, Yingying Chen, Ming Tang, Jinqiao Wang: AnomalyGPT: Detecting Industrial
    Anomalies Using Large Vision-Language Models. AAAI 2024, arXiv:2308.15366.

See Also:
    :mod:`.torch_model`: the equations.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from anomalib.data import Batch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.visualization import Visualizer
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import nn
from torch.utils.data import DataLoader

from anople_anomalib.backbones.clip_loading import load_backbone
from anople_anomalib.baselines.around_clip import EnsembleLearner
from anople_anomalib.baselines.transfer import SIMULATED, AuxiliaryCategory
from anople_anomalib.method.anomaly_simulation import PHOTOGRAPHS, PixelAnomalySimulator
from anople_anomalib.method.layers import resolve_memory_layers
from anople_anomalib.method.prompt_templates import check_class_names
from anople_anomalib.method.state_checks import check_weights
from anople_anomalib.utils.arguments import RATE, as_list, check, integer
from anople_anomalib.utils.batches import images_of
from anople_anomalib.utils.scoped import seeded

from .language import LanguageModel, right_answer
from .torch_model import AnomalyGPTModel, map_loss

ANOMALYGPT_LAYERS = (3, 6, 9, 12)


class AnomalyGPT(EnsembleLearner, AnomalibModule):
    """AnomalyGPT Lightning model: the shots fill a memory; decoder and prompt learner learn from other data.

    Map and score are those of the memory, and need no auxiliary data. With a language model every tested or predicted
    image has its sentence as ``explanation``; nothing else depends on it.

    Written from the paper's text: the license of the authors' program and weights is non-commercial. Unlike in the
    paper, the image encoder is a CLIP (there ImageBind's, whose layers are quarters of its depth, as those here),
    simulated anomalies are AnoPLe's (there cut and pasted by Poisson's equation), the linear layer to the language
    model's embeddings is learned with the prompts (there PandaGPT's), and the question does not describe the part. Our
    choices where the paper is silent: nine prompts of either kind, and the channels and pooling of :mod:`.torch_model`.

    Args:
        backbone: An open_clip model name, or ``"anople-tiny"``, which ships with the package.
        pretrained: Weights of the backbone, as for :class:`anople_anomalib.AnoPLe`.
        class_names: Names for the texts; ``None`` takes the datamodule's categories, in words.
        layers: 1-based numbers of the layers; the default is scaled for another depth.
        language_model: A folder with a causal model of transformers and its tokenizer, or their name on Hugging
            Face's Hub; ``None`` for none.
        epochs: Number of epochs on the auxiliary data.
        batch_size: Number of auxiliary images of a step.
        lr: Highest learning rate of AdamW, up to which a tenth of the steps lead and from which a cosine leads down.
        training_seed: Seed of the initial decoder and prompts, and of the order of the auxiliary images.
        pre_processor: Pre-processor instance or flag to use the default.
        post_processor: Post-processor instance or flag to use the default.
        evaluator: Evaluator instance or flag to use the default.
        visualizer: Visualizer instance or flag to use the default.

    Raises:
        ValueError: If an argument is out of range or unknown.
        FileNotFoundError: If the weights of the backbone or the language model are not there.
        ImportError: If a language model is asked for and transformers is not installed.
    """

    model: AnomalyGPTModel

    def __init__(
        self,
        backbone: str = "ViT-B-16-plus-240",
        pretrained: str | None = None,
        class_names: str | Sequence[str] | None = None,
        layers: Sequence[int] = ANOMALYGPT_LAYERS,
        language_model: str | None = None,
        epochs: int = 50,
        batch_size: int = 16,
        lr: float = 1e-3,
        training_seed: int = 0,
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        class_names, layers = as_list(class_names), as_list(layers)  # plain data for the checkpoint's hyper-parameters
        pretrained, language_model = pretrained and str(pretrained), language_model and str(language_model)
        check(integer(1), epochs=epochs, batch_size=batch_size)
        check(integer(0), training_seed=training_seed)
        check(RATE, lr=lr)
        check_class_names(class_names)
        loaded = load_backbone(backbone, pretrained)
        super().__init__(self.pre_processor_around(loaded, pre_processor), post_processor, evaluator, visualizer)
        self.language = None if language_model is None else LanguageModel(language_model)
        layers = resolve_memory_layers(layers, loaded.clip.visual.depth, [ANOMALYGPT_LAYERS], "layers")
        with seeded(training_seed):
            width = None if self.language is None else self.language.width
            self.model = AnomalyGPTModel(loaded.clip, layers, width)
        self.register_load_state_dict_pre_hook(check_weights)

    @property
    def needs_auxiliary(self) -> bool:
        """Whether there is a language model, whose prompts are learned: map and score need no auxiliary data."""
        return self.language is not None

    def remark(self, auxiliary: Mapping[str, AuxiliaryCategory]) -> str:
        """Say that anomalies are simulated, always."""
        del auxiliary
        return SIMULATED

    def learn_from_auxiliary(self, auxiliary: Mapping[str, AuxiliaryCategory]) -> None:
        """Train decoder and prompts on anomalies that are simulated on normal images of other data, equation (5).

        Args:
            auxiliary: The data by category, of which the training images are used.

        Raises:
            FloatingPointError: If the losses are not finite.
        """
        parts = [
            (DataLoader(each.train, self.hparams["batch_size"], shuffle=True, collate_fn=each.train.collate_fn), texts)
            for each, texts in zip(auxiliary.values(), map(self.texts_of, auxiliary), strict=True)
        ]
        simulator = PixelAnomalySimulator(PHOTOGRAPHS)

        def losses_of_epoch() -> Iterator[dict[str, torch.Tensor]]:
            """Yield the losses of every batch."""
            for loader, texts in parts:
                for batch in loader:
                    damaged, masks = simulator(images_of(batch))
                    yield self._losses(damaged, masks, texts)

        self.learn(losses_of_epoch, sum(len(loader) for loader, _ in parts))

    def _losses(self, images: torch.Tensor, masks: torch.Tensor, texts: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute the terms of equation (5) for images and their masks, values in [0, 1]."""
        visual = self.model.encode(self.normalized(images))
        maps = self.model.decoder_map(visual.layers, masks.shape[-2:], texts)
        losses = {"map": map_loss(maps, masks.to(self.device))}
        if (asked := self._asked(visual.image_embedding, maps)) is not None:
            language, question = asked
            losses["answer"] = language.loss(question, [right_answer(mask) for mask in masks])
        return losses

    def _asked(self, embeddings: torch.Tensor, maps: torch.Tensor) -> tuple[LanguageModel, torch.Tensor] | None:
        """Return the language model, if there is one, and the question about images with their maps."""
        if self.language is None or self.model.prompt_learner is None:
            return None
        return self.language, self.language.question(*self.model.prompt_learner(embeddings, maps))

    def test_step(self, batch: Batch, batch_idx: int, *args: object, **kwargs: object) -> STEP_OUTPUT:
        """Predict a batch, and ask the language model, if there is one, whose sentences are its ``explanation``."""
        del batch_idx, args, kwargs
        images = images_of(batch)
        predictions = self.model(images)
        sentences: dict[str, Any] = {}
        if self.language is not None:
            asked = self._asked(self.model.encode(images).image_embedding, predictions.anomaly_map)
            sentences = {} if asked is None else {"explanation": asked[0].answer(asked[1])}
        return batch.update(**predictions._asdict(), **sentences)

    predict_step = test_step
