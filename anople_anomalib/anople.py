# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""AnoPLe: few-shot anomaly detection via bi-directional prompt learning with only normal samples.

Example:
    >>> from anomalib.data import MVTecAD
    >>> from anomalib.engine import Engine
    >>> from anople_anomalib import AnoPLe

    >>> datamodule = MVTecAD(category="bottle")
    >>> model = AnoPLe(preset="paper", k_shot=1)  # doctest: +SKIP
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
from typing import TYPE_CHECKING, Any, cast

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

from .backbones.clip_loading import get_tokenizer
from .config import MemoryConfig, PromptConfig, TrainingConfig
from .deployment.components import exact_pre_processor, resize_input
from .deployment.maintenance import Maintenance
from .method.building import build_backbone, build_model, build_second_memory, build_simulator, with_image_size
from .method.loss import AnoPLeLoss
from .method.prompt_templates import check_class_names, clean_class_names, prompt_texts, words_of_categories
from .method.state_checks import require_finite
from .method.torch_model import AnoPLeModel
from .metrics.per_category import RawScoreKeeper
from .metrics.post_processing import ExactPostProcessor
from .presets import resolve
from .training.steps import EvaluationPreProcessing, sgd_with_warmup
from .utils.arguments import K_SHOT, as_list, check, integer
from .utils.batches import datamodule_of, images_of, paths_of
from .utils.scoped import seeded

if TYPE_CHECKING:
    from .tiles.large_images import LargeImages

logger = logging.getLogger(__name__)


class AnoPLe(Maintenance, AnomalibModule):  # type: ignore[misc]  # our methods override anomalib's and Lightning's
    """AnoPLe Lightning model.

    Trains prompts and a decoder around a frozen CLIP on ``k_shot`` normal images per category and on anomalies
    simulated from them, then keeps the shots' patch features in a memory bank.

    Args:
        preset: Settings to start from: ``"paper"`` (for MVTec AD), ``"visa"``, ``"offline"`` (no download) or
            ``"dinov2"``, see ``docs/presets.md``. The other arguments change them; ``None`` is the preset's value.
        backbone: An open_clip model name, or ``"anople-tiny"``, which ships with the package.
        pretrained: Weights of the backbone: ``"default"``, a tag of open_clip, the path of a checkpoint file, or
            ``"random"``.
        k_shot: Normal images per category for training and memory; ``None`` for all. A
            :class:`anople_anomalib.data.FewShot` datamodule's own choice wins.
        seed: Seed of the draw of the shots.
        class_names: Names for the text prompts; ``None`` takes them from the datamodule, in words (``pcb1`` is
            "printed circuit board"), else ``"object"``.
        prompts: Changes of the prompts, see :class:`.PromptConfig`; a mapping of its options serves, too.
        training: Changes of the training, see :class:`.TrainingConfig`.
        memory: Changes of the memory and the fusion, see :class:`.MemoryConfig`.
        tiles: Tiles that large images are cut into, which overlap by a quarter: ``[rows, columns]``, ``"auto"`` for so
            many that the shots are shrunk to no less than half, or ``None`` for the image as a whole.
        roi: Region of interest, the rest of an image being as if it were not there: path of a mask that is white
            inside, corners ``[[x, y], ...]`` of a polygon as shares of width and height, or a folder with a mask per
            image, by its name.
        pre_processor: Pre-processor instance or flag to use the default.
        post_processor: Post-processor instance or flag to use the default,
            :class:`~anople_anomalib.deployment.ExactPostProcessor`; an instance's own settings beat a checkpoint's.
        evaluator: Evaluator instance or flag to use the default.
        visualizer: Visualizer instance or flag to use the default.

    Raises:
        ValueError: If an argument is out of range or unknown, or the method does not fit the backbone.
        FileNotFoundError: If the backbone's weights or the anomaly source are not there.
    """

    model: AnoPLeModel

    def __init__(
        self,
        preset: str = "paper",
        backbone: str | None = None,
        pretrained: str | Path | None = None,
        k_shot: int | None = 1,
        seed: int = 0,
        class_names: str | Sequence[str] | None = None,
        prompts: PromptConfig | None = None,
        training: TrainingConfig | None = None,
        memory: MemoryConfig | None = None,
        tiles: str | Sequence[int] | None = None,
        roi: str | Path | Sequence[Sequence[float]] | None = None,
        pre_processor: nn.Module | bool = True,
        post_processor: nn.Module | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        class_names, (tiles, roi) = as_list(class_names), _plain_places(tiles, roi)
        check(K_SHOT, k_shot=k_shot)
        check(integer(0), seed=seed)
        whole = roi is None and tiles in (None, [1, 1])
        settings = resolve(preset, backbone, pretrained, prompts, training, memory, whole=whole)
        settings = with_image_size(settings, k_shot)
        check_class_names(class_names)
        # anomalib saves the arguments as they are now for the checkpoint: complete, and plain data
        backbone, pretrained = settings["backbone"], settings["pretrained"]
        prompts, training, memory = settings["prompts"], settings["training"], settings["memory"]
        loaded = build_backbone(settings)
        second_memory = build_second_memory(settings, loaded)  # not below: a network draws weights when it is built
        with seeded(settings["training"]["seed"]):
            model, simulator = build_model(settings, loaded, second_memory), build_simulator(settings)
        if pre_processor is True:
            pre_processor = self.configure_pre_processor(model.input_size, loaded.mean, loaded.std)
        if type(post_processor) is PostProcessor:  # its thresholds lie on scores, where rounding decides
            post_processor = ExactPostProcessor(**post_processor.checkpoint_config())
        super().__init__(exact_pre_processor(pre_processor), post_processor, evaluator, visualizer)
        self.model, self.simulator = model, simulator
        if tiles is not None or roi is not None:
            from .tiles.large_images import LargeImages

            self.model = cast("AnoPLeModel", LargeImages(model))  # which answers for it
        self.epochs, self.training_seed = settings["training"]["epochs"], settings["training"]["seed"]
        self.stop_early = settings["training"]["stop_early"]
        self.loss = AnoPLeLoss(settings["training"]["alignment"])
        self.weights = loaded.weights
        self.class_names: list[str] = []
        self.drawn_samples: dict[str, list[str]] = {}
        if isinstance(tiles, list):
            self.set_tiles(tiles)

    # ------------------------------------------------------------------------------------------------ components

    def configure_callbacks(self) -> list[Callback]:
        """Let the pre-processor transform evaluation batches only; training batches need the larger image."""
        from .data.errors import ClearDataErrors
        from .deployment.predictions import PredictionTable
        from .training.collapse_monitor import CollapseWarning
        from .training.run import FewShotRun

        components = cast("Sequence[Callback]", super().configure_callbacks())
        pre_processor: object = self.pre_processor
        callbacks = [
            EvaluationPreProcessing(component) if component is pre_processor else component for component in components
        ]
        raw = RawScoreKeeper()
        return [raw, FewShotRun(), *callbacks, PredictionTable(raw), CollapseWarning(), ClearDataErrors()]

    @property
    def learning_type(self) -> LearningType:
        """One-class: anomalib's engine trains no model that calls itself few-shot."""
        return LearningType.ONE_CLASS

    # -------------------------------------------------------------------------------------------------- training

    def setup(self, stage: str) -> None:
        """Name the classes before a training run."""
        if stage == "fit":
            from .data.dataset_checks import class_names_of

            categories = class_names_of(datamodule_of(self.trainer))
            self.prepare_texts(self.hparams["class_names"] or words_of_categories(categories))
        super().setup(stage)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Configure SGD with a linear warm-up from zero (section 6.2)."""
        groups = [{"params": self.model.prompt_learner.parameters(), "lr": self.hparams["training"]["prompt_lr"]}]
        if self.model.decoder is not None:
            groups.append({"params": self.model.decoder.parameters(), "lr": self.hparams["training"]["decoder_lr"]})
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
        from .training.collapse_monitor import measure_soundness

        # seeded by the step alone: a resumed run sees the same anomalies as an uninterrupted one
        seeds = (self.training_seed, self.current_epoch, batch_idx, 0)
        with seeded(*seeds, device=self.device):
            views, masks = self.simulated_views(images_of(batch), self.regions_of(paths_of(batch)))
            normal = masks.flatten(1).amax(dim=1) == 0 if self.hparams["training"]["latent_anomalies"] else None
            output = self.model.training_forward(views, normal, rounded=True)
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

    def set_tiles(self, grid: Sequence[int]) -> None:
        """Judge images by so many rows and columns of tiles, and let the pre-processor resize to their canvas."""
        from .tiles.tiling import Tiling

        cast("LargeImages", self.model).set_tiling(Tiling(*grid))
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
        normal, abnormal = prompt_texts(self.class_names, self.hparams["prompts"]["state_word"])
        logger.info("Texts: normal %s, abnormal %s", normal, abnormal)
        self.model.set_texts(tokenize(normal), tokenize(abnormal))

    # ------------------------------------------------------------------------------------------------ evaluation

    def validation_step(self, batch: Batch, *args: Any, **kwargs: Any) -> STEP_OUTPUT:
        """Predict a batch; shots that stand in for validation images, by a memory that does not hold them."""
        del args, kwargs
        regions = self.regions_of(paths_of(batch))
        held_out = self.held_out
        if held_out is None:
            prediction = self.model(batch.image, regions)
        else:
            prediction = held_out.predict(cast("ImageBatch", batch), regions)
        batch.update(**prediction._asdict())
        if self.model.region is None:
            return cast("STEP_OUTPUT", batch)
        from .tiles.region import within_region

        return cast("STEP_OUTPUT", within_region(batch, self.model.region if regions is None else regions))

    test_step = predict_step = validation_step  # anomalib's own steps know of no region


def _plain_places(tiles: Any, roi: Any) -> tuple[Any, Any]:
    """Check tiles and region of interest, and return them as plain data; without either the room is not needed."""
    if tiles is None and roi is None:
        return None, None
    from .tiles.region import plain_roi
    from .tiles.tiling import plain_tiles

    return plain_tiles(tiles), plain_roi(roi)
