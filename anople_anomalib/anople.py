# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""AnoPLe: few-shot anomaly detection via bi-directional prompt learning with only normal samples.

Example:
    >>> from anomalib.data import MVTecAD
    >>> from anomalib.engine import Engine
    >>> from anople_anomalib import AnoPLe

    >>> datamodule = MVTecAD(category="bottle")
    >>> model = AnoPLe(k_shot=1)  # doctest: +SKIP
    >>> engine = Engine()
    >>> engine.train(model=model, datamodule=datamodule)  # doctest: +SKIP

Paper:
    AnoPLe: Few-Shot Anomaly Detection via Bi-directional Prompt Learning with Only Normal Samples

See Also:
    :class:`anople_anomalib.method.torch_model.AnoPLeModel`: the PyTorch model.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from anomalib import LearningType
from anomalib.data import Batch, ImageBatch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.visualization import Visualizer
from lightning.pytorch import Callback
from lightning.pytorch.utilities.types import STEP_OUTPUT, OptimizerLRScheduler
from torch import nn

from .backbones.clip_loading import TINY, get_tokenizer, load_backbone
from .backbones.timm_features import check_image_size, load_memory_backbone
from .data.errors import ClearDataErrors
from .data.wrapping import class_names_of
from .deployment.components import DefaultComponents
from .deployment.export import Export
from .deployment.maintenance import Maintenance
from .deployment.predictions import PredictionTable
from .deployment.preprocessing import exact_pre_processor, resize_input
from .method.anomaly_simulation import PHOTOGRAPHS, PixelAnomalySimulator
from .method.collapse_measures import measure_soundness
from .method.fusion import make_fusion
from .method.layers import PAPER_MEMORY_LAYERS, resolve_memory_layers, resolve_prompt_depth
from .method.loss import AnoPLeLoss
from .method.prompt_templates import check_texts, clean_class_names, prompt_texts, words_of_categories
from .method.second_memory import SecondMemory, larger_size, resolve_memory_backbone
from .method.state_checks import require_finite
from .method.subspace import resolve_subspace
from .method.torch_model import AnoPLeModel
from .method.views import num_views
from .metrics.post_processing import ExactPostProcessor
from .metrics.raw_scores import RawScoreKeeper
from .tiles.ground_truth import within_region
from .tiles.masks import plain_roi
from .tiles.tiling import Tiling, plain_tiles, resolve_rotations
from .tiles.training import LargeImageTraining
from .training.checkpoints import CheckpointHooks
from .training.collapse_monitor import CollapseWarning
from .training.hooks import FewShotTraining
from .training.run import FewShotRun
from .training.steps import EvaluationPreProcessing, sgd_with_warmup, simulated_views
from .utils.arguments import as_list, as_text, check_integer, check_k_shot, check_rates, check_scales
from .utils.batches import images_of
from .utils.seeding import seeded

logger = logging.getLogger(__name__)

IMAGE_LOGIT_SCALE = 1 / 0.07
"""The scale at which CLIP starts its own training. At the 100 at which it ends, the image loss of a normal view and of
its damaged copy is a hundred times their difference, and the texts answer by becoming the same."""


class AnoPLe(
    DefaultComponents, CheckpointHooks, LargeImageTraining, FewShotTraining, Maintenance, Export, AnomalibModule
):
    """AnoPLe Lightning model.

    Trains prompts and a decoder around a frozen CLIP on ``k_shot`` normal images per category and on anomalies
    simulated from them, then keeps the shots' patch features in a memory bank.

    Args:
        backbone: An open_clip model name, or ``"anople-tiny"``, which ships with the package.
        pretrained: Weights of the backbone: ``None`` for its default (``laion400m_e32`` for the paper's), a tag of
            open_clip, the path of a checkpoint file, or ``"random"``.
        k_shot: Normal images per category for training and memory; ``None`` for all. A
            :class:`anople_anomalib.data.FewShot` datamodule's own choice wins.
        seed: Seed of the draw of the shots.
        class_names: Names for the text prompts; ``None`` takes them from the datamodule, in words (``pcb1`` is
            "printed circuit board"), else ``"object"``.
        state_word: Word of the abnormal prompt, several words for their ensemble, or ``"compositional"``.
        text_context_length: Number C_t of text prompts per layer.
        visual_context_length: Number C_v of visual prompts per layer.
        prompt_depth: Number J of prompted layers.
        coupling: ``"bidirectional"``, ``"text_to_image"``, ``"image_to_text"``, ``"independent"``, ``"text_only"``
            or ``"image_only"`` (Table 3a).
        multi_view: Whether sub-images are views, too, at training.
        view_signal: Whether a signal c tells the views apart (Table 3b).
        alignment: ``"weighted_sum"``, ``"mean"`` or ``"none"`` (Table 3c).
        pixel_anomalies: Whether anomalies are simulated in the image.
        latent_anomalies: Whether anomalies are simulated on the embedding (Table 5).
        paired_anomalies: Whether a step sees an image both whole and damaged, as equation (9) has z+ and z-; else one
            image, damaged with probability one half.
        anomaly_source_path: What fills the simulated anomalies: ``"photographs"`` (of scikit-image, no download),
            ``"dtd"`` (as in DRAEM; downloaded once), ``"noise"``, or a folder of texture images.
        use_memory: Whether the memory bank takes part.
        memory_layers: 1-based numbers of the layers that make the memory; the default is scaled to the depth of the
            backbone.
        coreset_sampling_ratio: Share of the patch features that the memory keeps, chosen by k-center-greedy.
        memory_per_category: Whether an image is compared with the shots of one category, the one whose patches are
            nearest to it on average, instead of with those of all.
        memory_backbone: A second, frozen backbone whose features join the memory: a model name of timm, or
            ``"efficientnet-lite2"``, whose weights need no download; ``"none"`` for none. ``None`` is
            ``"efficientnet-lite2"`` for ``"anople-tiny"`` and none for every other backbone.
        memory_pretrained: Weights of the second backbone: ``None`` for its pretrained ones, the path of a file, or
            ``"random"``.
        memory_backbone_layers: 1-based numbers of its stages (convolutional) or blocks (transformer); ``None`` for the
            stages with strides 8 and 16, or for the last block.
        memory_image_size: Side of the images that it sees; ``None`` for its own.
        memory_position_weight: How much farther a patch of its memory counts at another place of the image; 0 for
            features alone.
        memory_rotations: Whether its memory holds the shots in all rotations by right angles, mirrored and not;
            ``None`` keeps those turned copies that are hardly farther from their shot than slightly moved ones.
        memory_subspace: Share of the variance of its features that is taken for the difference between normal patches:
            a patch counts as the farther, the more it leaves the subspace that explains this share. 0 for none;
            ``None`` is 0.95 for ``"efficientnet-lite2"`` and 0 for every other.
        fusion: ``"paper"`` for equations (12) and (14), or ``"weighted"``, by weights that the parts earn on anomalies
            simulated on the shots; ``None`` is ``"weighted"`` with a second backbone and ``"paper"`` without.
        score_share: Share of the largest values of the map whose mean stands for the image; 0 for the maximum.
        use_decoder: Whether there is a decoder; without it the loss is the image-level term alone.
        residual_decoder: Whether the decoder refines CLIP's own projection of the patch tokens instead of starting
            from random local features; ``None`` does so for ``"anople-tiny"`` only.
        epochs: Number of epochs where the trainer is given none.
        prompt_lr: Learning rate of the prompts.
        decoder_lr: Learning rate of the decoder.
        image_logit_scale: Factor of the cosines of equation (8), 1 / tau; ``None`` for CLIP's own.
        pixel_logits: How D(z) is compared with the texts: ``"dot"``, as equation (7) is written, or ``"cosine"``;
            ``None`` for the cosine where the decoder refines CLIP's projection, else the dot product.
        gradient_checkpointing: Whether the towers keep no values inside their blocks for the backward pass: less
            memory, more time, the same result.
        training_seed: Seed of the initial prompts, the simulated anomalies and the order of the shots.
        tiles: Tiles that large images are cut into, which overlap by a quarter: ``[rows, columns]``, ``"auto"`` for so
            many that the shots are shrunk to no less than half, or ``None`` for the image as a whole.
        roi: Region of interest, the rest of an image being as if it were not there: path of a mask that is white
            inside, corners ``[[x, y], ...]`` of a polygon as shares of width and height, or a folder with a mask per
            image, by its name.
        pre_processor: Pre-processor instance or flag to use the default.
        post_processor: Post-processor instance or flag to use the default,
            :class:`~anople_anomalib.deployment.ExactPostProcessor`; what is given to an instance beats a checkpoint.
        evaluator: Evaluator instance or flag to use the default.
        visualizer: Visualizer instance or flag to use the default.

    Raises:
        ValueError: If an argument is out of range or unknown, or the method does not fit the backbone.
        FileNotFoundError: If the backbone's weights or the anomaly source are not there.
    """

    model: AnoPLeModel

    def __init__(
        self,
        backbone: str = "ViT-B-16-plus-240",
        pretrained: str | None = None,
        k_shot: int | None = 1,
        seed: int = 0,
        class_names: str | Sequence[str] | None = None,
        state_word: str | Sequence[str] = "abnormal",
        text_context_length: int = 3,
        visual_context_length: int = 3,
        prompt_depth: int = 9,
        coupling: str = "bidirectional",
        multi_view: bool = True,
        view_signal: bool = True,
        alignment: str = "weighted_sum",
        pixel_anomalies: bool = True,
        latent_anomalies: bool = True,  # noqa: ARG002  # kept by save_hyperparameters
        paired_anomalies: bool = True,
        anomaly_source_path: str = PHOTOGRAPHS,
        use_memory: bool = True,
        memory_layers: Sequence[int] = PAPER_MEMORY_LAYERS,
        coreset_sampling_ratio: float = 1.0,
        memory_per_category: bool = False,
        memory_backbone: str | None = None,
        memory_pretrained: str | None = None,
        memory_backbone_layers: Sequence[int] | None = None,
        memory_image_size: int | None = None,
        memory_position_weight: float = 1.0,
        memory_rotations: bool | None = None,
        memory_subspace: float | None = None,
        fusion: str | None = None,
        score_share: float = 0.0,
        use_decoder: bool = True,
        residual_decoder: bool | None = None,
        epochs: int = 60,
        prompt_lr: float = 1e-3,
        decoder_lr: float = 2e-4,
        image_logit_scale: float | None = IMAGE_LOGIT_SCALE,
        pixel_logits: str | None = None,
        gradient_checkpointing: bool = False,
        training_seed: int = 0,
        tiles: str | Sequence[int] | None = None,
        roi: str | Path | Sequence[Sequence[float]] | None = None,
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        # plain data for the checkpoint's hyper-parameters
        class_names, state_word = as_list(class_names), as_list(state_word)
        memory_layers, memory_backbone_layers = as_list(memory_layers), as_list(memory_backbone_layers)
        pretrained, memory_pretrained = as_text(pretrained), as_text(memory_pretrained)
        anomaly_source_path, tiles, roi = as_text(anomaly_source_path), plain_tiles(tiles), plain_roi(roi)
        # cheap checks first: a backbone may have to be downloaded
        check_k_shot(k_shot)
        check_integer(1, epochs=epochs)
        check_integer(0, seed=seed, training_seed=training_seed)
        check_integer(0, text_context_length=text_context_length, visual_context_length=visual_context_length)
        check_rates(prompt_lr=prompt_lr, decoder_lr=decoder_lr)
        check_rates(memory_position_weight=memory_position_weight)
        check_scales(image_logit_scale=image_logit_scale)
        check_texts(class_names, state_word)
        check_image_size(memory_image_size)
        turns = resolve_rotations(tiles, roi, memory_rotations)
        second_name = resolve_memory_backbone(memory_backbone, tiny=backbone == TINY, memory=use_memory)
        subspace = resolve_subspace(memory_subspace, second_name)
        fusion_name = fusion or ("paper" if second_name is None else "weighted")
        fuser = make_fusion(fusion_name, score_share, memory=use_memory)
        loss = AnoPLeLoss(alignment)
        loaded = load_backbone(backbone, pretrained)
        second: SecondMemory | None = None
        if second_name is not None:
            features = load_memory_backbone(
                second_name, loaded.mean, loaded.std, memory_backbone_layers, memory_image_size, memory_pretrained
            )
            second = SecondMemory(
                features,
                coreset_sampling_ratio,
                memory_position_weight,
                {None: "auto", True: "right_angles", False: "none"}[turns],
                memory_per_category,
                subspace,
            )
        if pre_processor is True:
            size = larger_size(loaded.clip.visual.image_size, second)
            pre_processor = self.configure_pre_processor(size, loaded.mean, loaded.std)
        if type(post_processor) is PostProcessor:  # its thresholds lie on scores, where rounding decides
            post_processor = ExactPostProcessor.like(post_processor)
        super().__init__(
            pre_processor=exact_pre_processor(pre_processor),
            post_processor=post_processor,
            evaluator=evaluator,
            visualizer=visualizer,
        )
        loaded.clip.set_grad_checkpointing(gradient_checkpointing)
        visual, text = loaded.clip.visual, loaded.clip.text
        with seeded(training_seed):
            self.model = AnoPLeModel(
                loaded.clip,
                text_context_length=text_context_length,
                visual_context_length=visual_context_length,
                prompt_depth=resolve_prompt_depth(prompt_depth, visual.depth, text.depth),
                coupling=coupling,
                num_views=num_views(multi_view),
                view_signal=view_signal,
                use_decoder=use_decoder,
                memory_layers=resolve_memory_layers(memory_layers, visual.depth) if use_memory else (),
                residual_decoder=backbone == TINY if residual_decoder is None else residual_decoder,
                coreset_sampling_ratio=coreset_sampling_ratio,
                memory_per_category=memory_per_category,
                second_memory=second,
                fusion=fuser,
                image_logit_scale=image_logit_scale,
                pixel_logits=pixel_logits,
            )
            self.simulator = (
                PixelAnomalySimulator(anomaly_source_path, 1.0 if paired_anomalies else 0.5, paired_anomalies)
                if pixel_anomalies
                else None
            )
        self.loss = loss
        self.class_names: list[str] = []
        self.drawn_samples: dict[str, list[str]] = {}
        self.weights = loaded.weights
        if isinstance(tiles, list):
            self.set_tiling(Tiling(*tiles))

    # ------------------------------------------------------------------------------------------------ components

    def configure_callbacks(self) -> list[Callback]:
        """Let the pre-processor transform evaluation batches only; training batches need the larger image."""
        components = cast("Sequence[Callback]", super().configure_callbacks())
        pre_processor: object = self.pre_processor
        callbacks = [
            EvaluationPreProcessing(component) if component is pre_processor else component for component in components
        ]
        raw = RawScoreKeeper()
        return [raw, *callbacks, PredictionTable(raw), FewShotRun(), CollapseWarning(), ClearDataErrors()]

    @property
    def learning_type(self) -> LearningType:
        """One-class: anomalib's engine trains no model that calls itself few-shot."""
        return LearningType.ONE_CLASS

    # -------------------------------------------------------------------------------------------------- training

    def setup(self, stage: str) -> None:
        """Name the classes before a training run.

        Args:
            stage: Stage of the trainer.
        """
        if stage == "fit":
            datamodule = getattr(self.trainer, "datamodule", None)
            self.prepare_texts(self.hparams["class_names"] or words_of_categories(class_names_of(datamodule)))
        super().setup(stage)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Configure SGD with a linear warm-up from zero (section 6.2)."""
        groups = [{"params": self.model.prompt_learner.parameters(), "lr": self.hparams["prompt_lr"]}]
        if self.model.decoder is not None:
            groups.append({"params": self.model.decoder.parameters(), "lr": self.hparams["decoder_lr"]})
        return sgd_with_warmup(groups, self.trainer.estimated_stepping_batches)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Mark memory and text features as out of date, which they are from this step on."""
        del batch, batch_idx
        self.model.is_fitted.fill_(value=False)

    def training_step(self, batch: Batch, batch_idx: int) -> STEP_OUTPUT:
        """Damage a training image, cut it into views and compute the losses (7) to (11).

        Args:
            batch: Batch of normal images, values in [0, 1], not pre-processed.
            batch_idx: Index of the batch.

        Returns:
            The loss L.
        """
        # seeded by the step alone: a resumed run sees the same anomalies as an uninterrupted one
        seeds = (self.hparams["training_seed"], self.current_epoch, batch_idx, 0)
        with seeded(*seeds, device=self.device):
            views, masks = self._simulated_views(images_of(batch), self.regions_of(getattr(batch, "image_path", None)))
            normal = masks.flatten(1).amax(dim=1) == 0 if self.hparams["latent_anomalies"] else None
            output = self.model.training_forward(views, normal)
            losses = self.loss(
                masks=masks,
                image_embeddings=output.image_embeddings,
                image_logits=output.image_logits,
                latent_logits=output.latent_logits,
                local_features=output.local_features,
                pixel_logits=output.pixel_logits,
            )
        require_finite(losses, where=f"In epoch {self.current_epoch + 1} the losses are")
        loss = torch.stack(list(losses.values())).sum()
        for numbers, shown in (({"loss": loss, **losses}, True), (measure_soundness(output), False)):
            self.log_dict(
                {f"train_{name}": value.detach() for name, value in numbers.items()},
                on_step=False,
                on_epoch=True,
                prog_bar=shown,
                batch_size=len(images_of(batch)),
            )
        return loss

    def _simulated_views(
        self, images: torch.Tensor, regions: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return views and masks of damaged images, see :func:`.simulated_views`."""
        transform = getattr(self.pre_processor, "transform", None)
        return simulated_views(self.model, self.simulator, transform, images, regions)

    @torch.no_grad()
    def finalize(self) -> None:
        """Compute the text features and fill the memory banks, with the final prompts."""
        self.model.refresh_text_features()
        self.remember_shots()
        self.model.is_fitted.fill_(value=True)

    @property
    def is_finalized(self) -> bool:
        """Whether text features and memory belong to the present prompts."""
        return bool(self.model.is_fitted)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images that the model sees."""
        return self.model.image_size

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width that the pre-processor resizes to: those of the backbone that sees more."""
        return self.model.input_size

    def set_tiling(self, tiling: Tiling) -> None:
        """Judge images by these tiles, and let the pre-processor resize to what they cover."""
        self.model.set_tiling(tiling)
        resize_input(self.pre_processor, self.input_size)

    def prepare_texts(self, class_names: str | Sequence[str]) -> None:
        """Set the texts of the prompts.

        Args:
            class_names: One class name or several.

        Raises:
            ValueError: If there is no name or a name is empty.
        """
        self.class_names = clean_class_names(class_names)
        tokenize = get_tokenizer(self.hparams["backbone"])
        normal, abnormal = prompt_texts(self.class_names, self.hparams["state_word"])
        logger.info("Texts: normal %s, abnormal %s", normal, abnormal)
        self.model.set_texts(tokenize(normal), tokenize(abnormal))

    # ------------------------------------------------------------------------------------------------ evaluation

    def validation_step(self, batch: Batch, *args: Any, **kwargs: Any) -> STEP_OUTPUT:  # noqa: ANN401
        """Predict a batch; shots that stand in for validation images, by a memory that does not hold them.

        Args:
            batch: Batch of images.
            *args: Unused.
            **kwargs: Unused.

        Returns:
            The batch with ``pred_score`` and ``anomaly_map``.
        """
        del args, kwargs
        regions = self.regions_of(getattr(batch, "image_path", None))
        held_out = self.held_out
        if held_out is None:
            prediction = self.model(batch.image, regions)
        else:
            prediction = held_out.predict(cast("ImageBatch", batch), regions)
        batch.update(**prediction._asdict())
        return cast("STEP_OUTPUT", within_region(batch, self.model.region if regions is None else regions))

    def test_step(self, batch: Batch, batch_idx: int, *args: Any, **kwargs: Any) -> STEP_OUTPUT:  # noqa: ANN401
        """Predict a batch, as :meth:`validation_step` does; anomalib's own step knows of no region."""
        return self.validation_step(batch, batch_idx, *args, **kwargs)

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> STEP_OUTPUT:
        """Predict a batch, as :meth:`validation_step` does."""
        return self.validation_step(batch, batch_idx, dataloader_idx)
