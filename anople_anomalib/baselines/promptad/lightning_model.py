# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""PromptAD: learning prompts with only normal samples.

Example:
    >>> from anomalib.engine import Engine
    >>> from anople_anomalib.baselines import PromptAD
    >>> from anople_anomalib.data import FewShot

    >>> datamodule = FewShot("MVTecAD", categories=["bottle"], k_shot=2)  # doctest: +SKIP
    >>> Engine().fit(PromptAD(), datamodule=datamodule)  # doctest: +SKIP

Paper:
    Xiaofan Li, Zhizhong Zhang, Xin Tan, Chengwei Chen, Yanyun Qu, Yuan Xie, Lizhuang Ma: PromptAD: Learning Prompts
    with only Normal Samples for Few-Shot Anomaly Detection. CVPR 2024, arXiv:2404.05231.

See Also:
    :mod:`.torch_model`: the equations.
"""

import logging
from collections.abc import Sequence
from typing import Any, cast

import torch
from anomalib.data import Batch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.visualization import Visualizer
from lightning.pytorch import Callback
from lightning.pytorch.utilities.types import STEP_OUTPUT, OptimizerLRScheduler
from torch import nn

from anople_anomalib.backbones.clip_loading import get_tokenizer, load_backbone
from anople_anomalib.baselines.around_clip import AroundClip
from anople_anomalib.method.layers import resolve_memory_layers
from anople_anomalib.method.prompt_templates import check_class_names, clean_class_names, words_of_categories
from anople_anomalib.method.state_checks import check_weights, require_finite
from anople_anomalib.training.finalization import TrainerArguments
from anople_anomalib.training.run import TrainingRun
from anople_anomalib.utils.arguments import RATE, as_list, check, integer
from anople_anomalib.utils.batches import images_of
from anople_anomalib.utils.scoped import seeded

from .prompts import GENERIC, customized, templates_of
from .torch_model import PromptADModel

logger = logging.getLogger(__name__)

PROMPTAD_MEMORY_LAYERS = (3, 8)
_LAST_RATE = 1e-5  # at which the cosine of the learning rate ends


class PromptAD(AroundClip, AnomalibModule):
    """PromptAD Lightning model: prompts are trained around a frozen CLIP, the shots fill a memory.

    Trained on all images that the datamodule has, in its batches: take a :class:`anople_anomalib.data.FewShot`
    datamodule, whose shots make one batch. As in the paper a model is for one category; for several, the prompts hold
    the names and anomalies of all of them.

    Where the paper leaves a number open, it is that of the authors' program (https://github.com/FuNz-0/PromptAD).
    Unlike there, the last epoch counts and not the best one on test images, squared distances of patches are sums over
    the features, learnable suffixes stand behind the class name as in the paper's equation, texts have no point at
    their end, both heads are trained in one run, and everything is computed in the trainer's precision.

    Args:
        backbone: An open_clip model name, or ``"anople-tiny"``, which ships with the package.
        pretrained: Weights of the backbone, as for :class:`anople_anomalib.AnoPLe`.
        class_names: Names for the prompts; ``None`` takes the datamodule's categories, in words.
        object_specific: Whether there are manual anomaly prompts for the objects at hand beside the generic ones;
            without them this is the PromptAD-g of the AnoPLe paper.
        anomalies: Words of the anomalies of all categories, such as ``["with crack", "with oil"]``; ``None`` for those
            that are known for the categories of MVTec AD, VisA and SampleTextures.
        image_prompts: Number of normal contexts of the image head.
        pixel_prompts: Number of normal contexts of the pixel head.
        num_suffixes: Number of learnable anomaly suffixes, in each head.
        use_memory: Whether there is a memory of the shots.
        memory_layers: 1-based numbers of its layers, of CLIP's own path; the default is scaled for another depth.
        alignment_weight: lambda, weight of the loss (6).
        sigma: Standard deviation of the Gaussian smoothing of the map, in pixels of the model's image; ``None`` for a
            hundredth of its height (the authors' program: 4 of 400).
        epochs: Number of epochs, unless the trainer is given one.
        prompt_lr: Learning rate of SGD, from which a cosine leads to 1e-5.
        training_seed: Seed of the initial prompts.
        pre_processor: Pre-processor instance or flag to use the default.
        post_processor: Post-processor instance or flag to use the default.
        evaluator: Evaluator instance or flag to use the default.
        visualizer: Visualizer instance or flag to use the default.

    Raises:
        ValueError: If an argument is out of range or unknown.
        FileNotFoundError: If the backbone's weights are not there.
    """

    model: PromptADModel

    def __init__(
        self,
        backbone: str = "ViT-B-16-plus-240",
        pretrained: str | None = None,
        class_names: str | Sequence[str] | None = None,
        object_specific: bool = True,
        anomalies: Sequence[str] | None = None,
        image_prompts: int = 3,
        pixel_prompts: int = 1,
        num_suffixes: int = 4,
        use_memory: bool = True,
        memory_layers: Sequence[int] = PROMPTAD_MEMORY_LAYERS,
        alignment_weight: float = 0.001,
        sigma: float | None = None,
        epochs: int = 100,
        prompt_lr: float = 0.002,
        training_seed: int = 0,
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        # plain data for the checkpoint's hyper-parameters
        class_names, anomalies, memory_layers = as_list(class_names), as_list(anomalies), as_list(memory_layers)
        pretrained = pretrained and str(pretrained)
        check(integer(1), image_prompts=image_prompts, pixel_prompts=pixel_prompts, num_suffixes=num_suffixes)
        check(integer(1), epochs=epochs)
        check(integer(0), training_seed=training_seed)
        check(RATE, alignment_weight=alignment_weight, sigma=sigma or 0.0, prompt_lr=prompt_lr)
        check_class_names(class_names)
        if anomalies is not None:
            _check_anomalies(anomalies, object_specific=object_specific)
        loaded = load_backbone(backbone, pretrained)
        visual = loaded.clip.visual
        super().__init__(self.pre_processor_around(loaded, pre_processor), post_processor, evaluator, visualizer)
        layers: Sequence[int] = ()
        if use_memory:
            of_paper = [PROMPTAD_MEMORY_LAYERS]
            layers = resolve_memory_layers(memory_layers, visual.depth, of_paper, "memory_layers")
        with seeded(training_seed):
            self.model = PromptADModel(
                loaded.clip,
                image_prompts=image_prompts,
                pixel_prompts=pixel_prompts,
                num_suffixes=num_suffixes,
                memory_layers=layers,
                alignment_weight=alignment_weight,
                sigma=visual.image_size[0] / 100 if sigma is None else sigma,
            )
        self.register_load_state_dict_pre_hook(check_weights)

    def configure_callbacks(self) -> Sequence[Callback]:
        """Let the trainer validate once, after the last step."""
        return [*cast("Sequence[Callback]", super().configure_callbacks()), TrainingRun()]

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """Arguments for the trainer: the default number of epochs, which gives way to the user's."""
        return TrainerArguments(self.hparams["epochs"])

    def prepare_texts(self, categories: str | Sequence[str]) -> None:
        """Set the texts of the prompts.

        Args:
            categories: One category or several; known ones become words, and tell their anomalies.

        Raises:
            ValueError: If there is no name, a name is empty, or a text is too long for the text tower.
        """
        categories = [categories] if isinstance(categories, str) else list(categories)
        given = self.hparams["anomalies"]
        texts: list[str] = []
        for category in categories:
            (name,) = clean_class_names(words_of_categories(category))
            own = templates_of(given) if given is not None else customized(category)
            if self.hparams["object_specific"] and not own:
                logger.warning("No anomalies are known for %s: give anomalies for prompts of its own.", category)
            templates = (*GENERIC, *own) if self.hparams["object_specific"] else GENERIC
            texts += [template.format(name) for template in templates]
        names = clean_class_names(words_of_categories(categories))
        texts = list(dict.fromkeys(texts))
        logger.info("Texts: normal %s, anomalies %s", names, texts)
        tokenize = get_tokenizer(self.hparams["backbone"])
        self.model.set_texts(tokenize(names), tokenize(texts))

    def configure_optimizers(self) -> OptimizerLRScheduler:  # type: ignore[override]  # the base has none
        """Configure SGD, its rate on a cosine to its end."""
        heads = [*self.model.image_head.parameters(), *self.model.pixel_head.parameters()]
        optimizer = torch.optim.SGD(heads, lr=self.hparams["prompt_lr"], momentum=0.9, weight_decay=5e-4)
        steps = self.trainer.estimated_stepping_batches
        if steps == float("inf"):
            return optimizer
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, int(steps), eta_min=_LAST_RATE)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_start(self) -> None:
        """Forget the features of an earlier run."""
        self.forget_shots()

    def on_train_epoch_start(self) -> None:
        """Mark prototypes and memory as out of date."""
        self.model.is_fitted.fill_(value=False)

    def training_step(self, batch: Batch, batch_idx: int) -> STEP_OUTPUT:
        """Keep the features of normal images, and compute the losses (4) to (6).

        Args:
            batch: Batch of normal images, normalized.
            batch_idx: Index of the batch.

        Returns:
            The loss (7) of both heads.
        """
        visual = self.model.encode(images_of(batch))
        self.keep_shots(batch, batch_idx, visual.memory_features)
        losses = self.model.losses(visual)
        require_finite(losses, where=f"In epoch {self.current_epoch + 1} the losses are")
        loss = torch.stack(list(losses.values())).sum()
        self.log_dict(
            {f"train_{name}": value.detach() for name, value in {"loss": loss, **losses}.items()},
            on_step=False,
            on_epoch=True,
            prog_bar=True,
            batch_size=len(images_of(batch)),
        )
        return loss

    @torch.no_grad()
    def finalize(self) -> None:
        """Compute the prototypes with the final prompts, and fill the memory."""
        self.model.refresh_prototypes()
        super().finalize()
        self.model.is_fitted.fill_(value=True)


def _check_anomalies(anomalies: Sequence[str], *, object_specific: bool) -> None:
    """Refuse words that make no templates, or that nobody would look at."""
    if not object_specific:
        msg = f"anomalies={anomalies!r} are for object_specific=True alone: leave one of both out."
        raise ValueError(msg)
    templates_of(anomalies)
