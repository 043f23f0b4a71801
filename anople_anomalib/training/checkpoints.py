# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Lightning's checkpoint hooks of AnoPLe: the metadata of a checkpoint, and what is checked before it is taken."""

import logging
import shlex
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

import torch
from anomalib.data import AnomalibDataModule
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from typing_extensions import Self

from anople_anomalib.config import NONE
from anople_anomalib.method.state_checks import check_names, check_weights, require_finite
from anople_anomalib.method.torch_model import AnoPLeModel
from anople_anomalib.presets import arguments_of as command_line
from anople_anomalib.utils.batches import datamodule_of
from anople_anomalib.utils.version import __version__

from .finalization import Finalization

logger = logging.getLogger(__name__)


class CheckpointHooks(Finalization):
    """Hooks mixed into the model, which a refused checkpoint leaves as it was.

    The model defines ``model``, ``weights``, ``class_names``, ``drawn_samples`` and the hyper-parameter ``backbone``.
    """

    model: AnoPLeModel
    weights: str
    class_names: list[str]
    drawn_samples: dict[str, list[str]]
    roi_folder: str | None
    roi_shape: list[int] | None
    teaching: str
    _resumed_from: str | None = None
    _accepted: Mapping[str, Any] | None = None  # weights that were checked and are loaded next

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the backbone, settings that its weights do not show, the classes and the shots as metadata."""
        super().on_save_checkpoint(checkpoint)
        complete_checkpoint(self, checkpoint)
        checkpoint["anople"] = self._metadata()

    def _metadata(self) -> dict[str, Any]:
        return {
            "version": __version__,
            "backbone": self.hparams["backbone"],
            "weights": self.weights,
            **_settings_not_in_weights(self.model),
            "class_names": self.class_names,
            "drawn_samples": self.drawn_samples,
            "roi": self.hparams["roi"],
            "roi_folder": self.roi_folder,
            "roi_shape": self.roi_shape,
            "teaching": self.teaching,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint that does not fit, else restore the classes and the shots."""
        from .checkpoint_files import check_metadata, require_undamaged

        if (trainer := _trainer_of(self)) is not None and trainer.ckpt_path:
            require_undamaged(trainer.ckpt_path)
        metadata = check_metadata(checkpoint)
        self._check_settings(checkpoint)
        grid = _tiles_of(checkpoint["state_dict"])
        roi_folder = self._check_images(metadata, grid or [1, 1])
        self._check_weights(checkpoint["state_dict"], strict=False)
        if odd := set(metadata) - set(self._metadata()):
            msg = f"The checkpoint is refused: its metadata hold {min(map(str, odd))!r:.80}, which none of ours do."
            raise ValueError(msg)
        super().on_load_checkpoint(checkpoint)
        self._keep_final_weights(checkpoint)
        trainer = _trainer_of(self)
        if trainer is None or trainer.state.fn != TrainerFn.FITTING:  # a resumed run ends with its own texts and shots
            self.class_names, self.drawn_samples = metadata["class_names"], metadata["drawn_samples"]
        self.roi_folder, self.roi_shape = roi_folder, metadata.get("roi_shape")
        self.teaching = str(metadata.get("teaching", ""))
        self._adopt(grid)
        self._accepted = checkpoint["state_dict"]

    def setup(self, stage: str) -> None:
        """Forget the checkpoint of an earlier training run."""
        super().setup(stage)
        if stage == TrainerFn.FITTING:
            self._resumed_from = None

    def _keep_final_weights(self, checkpoint: dict[str, Any]) -> None:
        """Let the test after a resumed training run keep the weights of its end.

        anomalib's ``Engine.train`` gives its ``ckpt_path`` to the test as well, which would undo the training run.
        """
        trainer = _trainer_of(self)
        if trainer is None:
            return
        if trainer.state.fn == TrainerFn.FITTING:
            self._resumed_from = str(trainer.ckpt_path)
        elif trainer.state.fn == TrainerFn.TESTING:
            if str(trainer.ckpt_path) == self._resumed_from and self.is_finalized:
                logger.info("Testing the weights at the end of the training run resumed from %s.", trainer.ckpt_path)
                checkpoint["state_dict"] = self.state_dict()
                checkpoint.pop("callbacks", None)  # else best_model_path would be the old file again
            self._resumed_from = None  # the next test is of the file that it names

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Refuse weights that do not fit, with a ``ValueError``, else load them as ``torch.nn.Module`` does.

        Lightning comes here with what :meth:`on_load_checkpoint` has just accepted, anomalib's other loaders without.
        """
        if state_dict is not self._accepted:
            self._check_weights(state_dict, strict)
        elif strict:
            check_names(self, state_dict)
        self._accepted = None
        return super().load_state_dict(state_dict, strict, assign)

    def _check_weights(self, state_dict: Mapping[str, Any], strict: bool) -> None:
        """Refuse weights that do not fit a model of large images, or of whole ones, as they are of one."""
        before, grid = self.model, _tiles_of(state_dict)
        if grid is not None and before.tiling is None:
            from anople_anomalib.tiles.large_images import LargeImages

            self.model = cast("AnoPLeModel", LargeImages(before))
        elif grid is None and before.tiling is not None:
            self.model = cast("AnoPLeModel", before.model)
        try:
            check_weights(self, state_dict, strict=strict)
            if not strict:
                check_names(self.model, state_dict, "model.")
        except ValueError:
            self.model = before
            raise

    def _check_settings(self, checkpoint: Mapping[str, Any]) -> None:
        """Refuse a checkpoint of another backbone, or of other settings that its weights do not show."""
        from .checkpoint_files import arguments_of

        metadata = checkpoint["anople"]
        remedy = "build the model with the settings of its training run"
        if arguments := arguments_of(checkpoint, type(self)):
            remedy = f"build the model with {shlex.join(command_line(arguments))}"
        if metadata["backbone"] != self.hparams["backbone"]:
            msg = (
                f"The checkpoint was trained over the backbone {metadata['backbone']} ({metadata['weights']}), this "
                f"model has {self.hparams['backbone']} ({self.weights}): {remedy}."
            )
            raise ValueError(msg)
        for name, value in _settings_not_in_weights(self.model).items():
            if (saved := metadata.get(name)) != value:
                msg = f"The checkpoint was trained with {name} {saved}, this model has {value}: {remedy}."
                raise ValueError(msg)

    def _check_images(self, metadata: Mapping[str, Any], grid: list[int]) -> str | None:
        """Refuse other tiles or another region than those of the checkpoint; return the folder of regions, if any."""
        tiles, roi, trainer = self.hparams["tiles"], self.hparams["roi"], _trainer_of(self)
        saved, folder = metadata.get("roi"), metadata.get("roi_folder")
        if isinstance(tiles, list) and tiles != grid:
            msg = (
                f"The checkpoint was trained with tiles {grid}, this model has {tiles}: give it the same, or none, to "
                "take the checkpoint's."
            )
            raise ValueError(msg)
        if grid != self._tiles and trainer is not None and trainer.state.fn == TrainerFn.FITTING:
            msg = f"The checkpoint was trained with tiles {grid}: resume with tiles={grid}."
            raise ValueError(msg)
        if folder is not None and isinstance(roi, str) and Path(roi).is_dir():
            return roi  # masks of other images
        if roi not in (None, saved):
            msg = f"The checkpoint was trained with roi {saved}, this model has {roi}: give it the same, or none."
            raise ValueError(msg)
        return folder

    @property
    def _tiles(self) -> list[int]:
        """Rows and columns of the tiles of this model."""
        return [1, 1] if self.model.tiling is None else [self.model.tiling.rows, self.model.tiling.columns]

    def _adopt(self, grid: list[int] | None) -> None:
        """Take the tiles of a checkpoint, and tell them to data that were set up before it was read."""
        trainer = _trainer_of(self)
        if grid is None or grid == self._tiles:
            return
        self.set_tiles(grid)
        datamodule = None if trainer is None else datamodule_of(trainer)
        if trainer is not None and isinstance(datamodule, AnomalibDataModule):
            datamodule.setup(trainer.state.fn)

    @abstractmethod
    def set_tiles(self, grid: Sequence[int]) -> None:
        """Judge images by these tiles."""

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # Lightning's hparams_file is refused with the checkpoint's own
        cls,
        checkpoint_path: str | Path | IO[bytes],
        map_location: Any = None,
        strict: bool | None = None,
        weights_only: bool | None = True,
        **kwargs: Any,
    ) -> Self:
        """Build the model of a checkpoint.

        Lightning's own looks in the file for what builds the model: here this class alone does, from arguments that it
        has, after the content was checked.

        Args:
            checkpoint_path: The file.
            map_location: Where its tensors are put, as for ``torch.load``.
            strict: Whether all names must match.
            weights_only: Anything but ``False``: pickled code is never run.
            **kwargs: Constructor arguments that replace those of the checkpoint.

        Raises:
            ValueError: If the checkpoint is damaged or does not fit, or ``weights_only`` is ``False``.
        """
        if weights_only is False:
            msg = "A checkpoint of AnoPLe is read with weights_only=True alone, as it holds nothing else."
            raise ValueError(msg)
        from .checkpoint_files import arguments_of, read_checkpoint

        checkpoint = read_checkpoint(checkpoint_path, map_location)
        model = cls(**{**arguments_of(checkpoint, cls), **kwargs})
        model.on_load_checkpoint(checkpoint)
        model.load_state_dict(checkpoint["state_dict"], strict=strict is not False)
        return model.to(next(iter(checkpoint["state_dict"].values())).device)


def complete_checkpoint(model: Finalization, checkpoint: dict[str, Any]) -> None:
    """Finalize a model before its last checkpoint, if a callback stopped training after the epoch; it gets the weights.

    Raises:
        ValueError: If weights are not finite.
    """
    trainer = _trainer_of(model)
    if trainer is not None and trainer.training and trainer.should_stop and not model.is_finalized:
        model.finalize()
        checkpoint["state_dict"] = model.state_dict()  # that of before is not finalized
    learned = {name: value for name, value in checkpoint["state_dict"].items() if name.startswith("model.")}
    require_finite(learned, where="The weights are")


def _tiles_of(state_dict: Mapping[str, Any]) -> list[int] | None:
    """Return rows and columns of the tiles that weights are of; ``None`` for those of whole images."""
    grid = state_dict.get("model.tile_grid")
    return grid.tolist() if isinstance(grid, torch.Tensor) else None


def _settings_not_in_weights(model: AnoPLeModel) -> dict[str, Any]:
    """Return the settings that change what the weights mean, but not their names and shapes."""
    second = model.second_memory
    return {
        "memory.layers": list(model.memory_layers),
        "training.decoder": NONE if model.decoder is None else "residual" if model.residual_decoder else "plain",
        **({} if model.decoder is None else {"training.pixel_logits": model.pixel_logits}),
        "memory.backbone": NONE if second is None else second.backbone.name,
        "memory.position_weight": 0.0 if second is None else float(second.memory_bank.position_weight),
        "memory.subspace": 0.0 if second is None else float(second.subspace),
        "memory.fusion": model.fusion.name,
        "memory.score_share": float(model.fusion.top_share),
    }


def _trainer_of(module: LightningModule) -> Trainer | None:
    """Return the trainer that a module is attached to, ``None`` outside of one."""
    try:
        return module.trainer
    except RuntimeError:  # Lightning's answer where there is none
        return None
