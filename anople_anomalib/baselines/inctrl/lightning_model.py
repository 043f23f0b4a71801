# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""InCTRL: generalist anomaly detection by in-context residual learning.

Example:
    >>> from anople_anomalib.baselines import InCTRL
    >>> from anople_anomalib.baselines.transfer import auxiliary_data

    >>> model = InCTRL()  # doctest: +SKIP
    >>> data = auxiliary_data("Visa", ["candle", "capsules"], model.pre_processor.transform)  # doctest: +SKIP
    >>> model.learn_from_auxiliary(data)  # doctest: +SKIP

Paper:
    Jiawen Zhu, Guansong Pang: Toward Generalist Anomaly Detection via In-context Residual Learning with Few-shot
    Sample Prompts. CVPR 2024, arXiv:2403.06495.

See Also:
    :mod:`.torch_model`: the equations.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.visualization import Visualizer
from torch import nn

from anople_anomalib.backbones.clip_loading import load_backbone
from anople_anomalib.baselines.around_clip import EnsembleLearner
from anople_anomalib.baselines.transfer import SIMULATED, AuxiliaryCategory
from anople_anomalib.method.layers import resolve_memory_layers
from anople_anomalib.method.prompt_templates import check_class_names
from anople_anomalib.method.state_checks import check_weights
from anople_anomalib.utils.arguments import RATE, as_list, check, integer
from anople_anomalib.utils.scoped import seeded

from .episodes import EpisodeSource
from .torch_model import InCTRLModel

INCTRL_LAYERS = (7, 9, 11)


class InCTRL(EnsembleLearner, AnomalibModule):
    """InCTRL Lightning model: an adapter and two heads learn from other data, the shots are the context of the test.

    Image scores only: the method has no map. As in the paper a context is of one category; for several, the shots of
    all make one context, and the texts are the mean over all names.

    Where the paper leaves a number open, it is that of the authors' program (https://github.com/mala-lab/InCTRL).
    Unlike there, layers and images are not mixed in a batch of more than one image, the focal loss is that of
    probabilities (there a sigmoid is taken of what has gone through one already), an image is not in its own context
    while it is learned from, and the last epoch counts.

    Args:
        backbone: An open_clip model name, or ``"anople-tiny"``, which ships with the package.
        pretrained: Weights of the backbone, as for :class:`anople_anomalib.AnoPLe`.
        class_names: Names for the texts; ``None`` takes the datamodule's categories, in words.
        layers: 1-based numbers of the blocks of the patch residuals; the default is scaled for another depth.
        auxiliary_shots: Number of images of a context while it learns from auxiliary data.
        epochs: Number of epochs on the auxiliary data.
        batch_size: Number of auxiliary images of a step, half of them anomalous.
        lr: Learning rate of AdamW.
        training_seed: Seed of the initial adapter and heads, and of the order of the auxiliary images.
        pre_processor: Pre-processor instance or flag to use the default.
        post_processor: Post-processor instance or flag to use the default.
        evaluator: Evaluator instance or flag to use the default.
        visualizer: Visualizer instance or flag to use the default.

    Raises:
        ValueError: If an argument is out of range or unknown.
        FileNotFoundError: If the backbone's weights are not there.
    """

    model: InCTRLModel

    def __init__(
        self,
        backbone: str = "ViT-B-16-plus-240",
        pretrained: str | None = None,
        class_names: str | Sequence[str] | None = None,
        layers: Sequence[int] = INCTRL_LAYERS,
        auxiliary_shots: int = 2,
        epochs: int = 10,
        batch_size: int = 48,
        lr: float = 1e-3,
        training_seed: int = 0,
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        class_names, layers = as_list(class_names), as_list(layers)  # plain data for the checkpoint's hyper-parameters
        pretrained = pretrained and str(pretrained)
        check(integer(1), auxiliary_shots=auxiliary_shots, epochs=epochs)
        check(integer(2), batch_size=batch_size)
        check(integer(0), training_seed=training_seed)
        check(RATE, lr=lr)
        check_class_names(class_names)
        loaded = load_backbone(backbone, pretrained)
        super().__init__(self.pre_processor_around(loaded, pre_processor), post_processor, evaluator, visualizer)
        layers = resolve_memory_layers(layers, loaded.clip.visual.depth, [INCTRL_LAYERS], "layers")
        with seeded(training_seed):
            self.model = InCTRLModel(loaded.clip, layers)
        self.register_load_state_dict_pre_hook(check_weights)

    def remark(self, auxiliary: Mapping[str, AuxiliaryCategory]) -> str:
        """Say that anomalies are simulated where no category has an anomalous image."""
        return SIMULATED if self._source(auxiliary).simulator is not None else ""

    def _source(self, auxiliary: Mapping[str, AuxiliaryCategory]) -> EpisodeSource:
        return EpisodeSource(auxiliary, self.hparams["batch_size"], self.hparams["auxiliary_shots"])

    def learn_from_auxiliary(self, auxiliary: Mapping[str, AuxiliaryCategory]) -> None:
        """Train adapter and heads on labeled images of other data, equation (6).

        Args:
            auxiliary: The data by category; without an anomalous image in all of them, anomalies are simulated.

        Raises:
            ValueError: If a category has fewer than two training images.
            FloatingPointError: If the losses are not finite.
        """
        source = self._source(auxiliary)
        texts = torch.stack([self.texts_of(category) for category in auxiliary])  # (C, 2, D)

        def losses_of_epoch() -> Iterator[dict[str, torch.Tensor]]:
            """Yield the losses of every batch."""
            for images, labels, categories, context in source:
                queries, normal = (self.model.encode(self.normalized(batch)) for batch in (images, context))
                yield self.model.losses(queries, normal, texts[categories], labels.to(self.device))

        self.learn(losses_of_epoch)
