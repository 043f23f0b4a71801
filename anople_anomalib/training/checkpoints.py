# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Lightning's checkpoint hooks of AnoPLe: the metadata of a checkpoint, and what is checked before it is taken."""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

import torch
from anomalib.data import AnomalibDataModule
from lightning.pytorch import LightningModule
from lightning.pytorch.core.saving import (
    _default_map_location,
    _load_state,
    load_hparams_from_tags_csv,
    load_hparams_from_yaml,
)
from lightning.pytorch.trainer.states import TrainerFn
from typing_extensions import Self

from anople_anomalib.backbones.timm_features import NO_BACKBONE
from anople_anomalib.method.anomaly_simulation import NOISE
from anople_anomalib.method.state_checks import check_names, check_weights
from anople_anomalib.method.torch_model import AnoPLeModel
from anople_anomalib.tiles.tiling import Tiling
from anople_anomalib.utils.trainers import trainer_of
from anople_anomalib.utils.version import __version__

from .checkpoint_files import check_metadata, read_checkpoint

_BEFORE = {
    "memory_backbone": None,
    "memory_position_weight": 0.0,
    "memory_subspace": 0.0,
    "fusion": "paper",
    "score_share": 0.0,
    "pixel_logits": "cosine",
}
"""Settings of checkpoints that were written before there were such settings."""


class CheckpointHooks(LightningModule):
    """Hooks mixed into the model, which a refused checkpoint leaves as it was.

    The model defines ``model``, ``weights``, ``class_names``, ``drawn_samples`` and the hyper-parameter ``backbone``.
    """

    model: AnoPLeModel
    weights: str
    class_names: list[str]
    drawn_samples: dict[str, list[str]]
    roi_folder: str | None
    _accepted: Mapping[str, Any] | None = None  # weights that were checked and are loaded next

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the backbone, settings that its weights do not show, the classes and the shots as metadata."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["anople"] = {
            "version": __version__,
            "backbone": self.hparams["backbone"],
            "weights": self.weights,
            **_settings_not_in_weights(self.model),
            "class_names": self.class_names,
            "drawn_samples": self.drawn_samples,
            "roi": self.hparams["roi"],
            "roi_folder": self.roi_folder,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint that does not fit, else restore the classes and the shots."""
        metadata = check_metadata(checkpoint)
        _add_missing_weights(self.model, checkpoint["state_dict"])
        self._check_settings(metadata)
        tiling = Tiling(*checkpoint["state_dict"]["model.tile_grid"].tolist())
        roi_folder = self._check_images(metadata, tiling)
        check_weights(self, checkpoint["state_dict"], strict=False)
        check_names(self.model, checkpoint["state_dict"], "model.")
        super().on_load_checkpoint(checkpoint)
        self.class_names, self.drawn_samples = metadata["class_names"], metadata["drawn_samples"]
        self.roi_folder = roi_folder
        self._adopt(tiling)
        self._accepted = checkpoint["state_dict"]

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:  # noqa: ANN401
        """Refuse weights that do not fit, else load them.

        Lightning comes here with what :meth:`on_load_checkpoint` has just accepted, anomalib's other loaders without.

        Args:
            state_dict: The weights.
            strict: Whether all names must be there and no others.
            assign: As for ``torch.nn.Module``.

        Returns:
            The missing and the unexpected names.

        Raises:
            ValueError: If the weights are of another backbone or do not fit.
        """
        if state_dict is not self._accepted:
            check_weights(self, state_dict, strict=strict)
        elif strict:
            check_names(self, state_dict)
        self._accepted = None
        return super().load_state_dict(state_dict, strict, assign)

    def _check_settings(self, metadata: Mapping[str, Any]) -> None:
        """Refuse a checkpoint of another backbone, or of other settings that its weights do not show."""
        if metadata["backbone"] != self.hparams["backbone"]:
            msg = (
                f"The checkpoint was trained over the backbone {metadata['backbone']} ({metadata['weights']}), this "
                f"model has {self.hparams['backbone']} ({self.weights}): build the model with that backbone."
            )
            raise ValueError(msg)
        for name, value in _settings_not_in_weights(self.model).items():
            saved = metadata.get(name, _BEFORE.get(name))
            if saved != value:
                msg = f"The checkpoint was trained with {name} {saved}, this model has {value}: give it the same."
                raise ValueError(msg)

    def _check_images(self, metadata: Mapping[str, Any], tiling: Tiling) -> str | None:
        """Refuse other tiles or another region than those of the checkpoint; return the folder of regions, if any."""
        tiles, roi = self.hparams["tiles"], self.hparams["roi"]
        saved, folder = metadata.get("roi"), metadata.get("roi_folder")
        if isinstance(tiles, list) and tuple(tiles) != (tiling.rows, tiling.columns):
            msg = (
                f"The checkpoint was trained with tiles [{tiling.rows}, {tiling.columns}], this model has {tiles}: "
                "give it the same, or none, to take the checkpoint's."
            )
            raise ValueError(msg)
        if folder is not None and isinstance(roi, str) and Path(roi).is_dir():
            return roi  # masks of other images
        if roi not in (None, saved):
            msg = f"The checkpoint was trained with roi {saved}, this model has {roi}: give it the same, or none."
            raise ValueError(msg)
        return folder

    def _adopt(self, tiling: Tiling) -> None:
        """Take the tiles of a checkpoint, and tell them to data that were set up before it was read."""
        trainer = trainer_of(self)
        if tiling == self.model.tiling:
            return
        if trainer is not None and trainer.state.fn == TrainerFn.FITTING:
            msg = (
                f"The checkpoint was trained with tiles [{tiling.rows}, {tiling.columns}]: resume with "
                f"tiles=[{tiling.rows}, {tiling.columns}]."
            )
            raise ValueError(msg)
        self.set_tiling(tiling)
        datamodule = getattr(trainer, "datamodule", None)
        if trainer is not None and isinstance(datamodule, AnomalibDataModule):
            datamodule.setup(trainer.state.fn)

    @abstractmethod
    def set_tiling(self, tiling: Tiling) -> None:
        """Judge images by these tiles."""

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: str | Path | IO[bytes],
        map_location: Any = None,  # noqa: ANN401
        hparams_file: str | Path | None = None,
        strict: bool | None = None,
        weights_only: bool | None = True,
        **kwargs: Any,  # noqa: ANN401
    ) -> Self:
        """Build the model of a checkpoint.

        Lightning's own reads a file and builds a model in one: here the file is read once and its content checked
        before a model is built, by what Lightning builds it with.

        Args:
            checkpoint_path: The file.
            map_location: Where its tensors are put, as for ``torch.load``.
            hparams_file: File with other hyper-parameters.
            strict: Whether all names must match.
            weights_only: Anything but ``False``: pickled code is never run.
            **kwargs: Constructor arguments that replace those of the checkpoint.

        Returns:
            The model.

        Raises:
            ValueError: If the checkpoint is damaged or does not fit, or ``weights_only`` is ``False``.
        """
        if weights_only is False:
            msg = "A checkpoint of AnoPLe is read with weights_only=True alone, as it holds nothing else."
            raise ValueError(msg)
        checkpoint = read_checkpoint(checkpoint_path, map_location or _default_map_location)
        if hparams_file is not None:
            checkpoint[cls.CHECKPOINT_HYPER_PARAMS_KEY] = _read_hparams(Path(hparams_file))
        if checkpoint["anople"]["version"].startswith("0.1."):
            _add_missing_arguments(checkpoint.setdefault(cls.CHECKPOINT_HYPER_PARAMS_KEY, {}))
        model = cast("Self", _load_state(cls, checkpoint, strict=strict, **kwargs))
        return model.to(next(iter(checkpoint["state_dict"].values())).device)


_ARGUMENTS_BEFORE = {
    "memory_backbone": NO_BACKBONE,
    "fusion": "paper",
    "paired_anomalies": False,
    "image_logit_scale": None,
    "pixel_logits": "cosine",
}
"""What version 0.1 did, whose checkpoints do not name these arguments."""


def arguments_of(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that a checkpoint's model was built with.

    Args:
        checkpoint: Content of a checkpoint of AnoPLe.
    """
    arguments = dict(checkpoint.get(LightningModule.CHECKPOINT_HYPER_PARAMS_KEY) or {})
    if checkpoint["anople"]["version"].startswith("0.1."):
        _add_missing_arguments(arguments)
    return arguments


def _add_missing_arguments(arguments: dict[str, Any]) -> None:
    """Add the arguments that a checkpoint of version 0.1 does not have."""
    for name, value in _ARGUMENTS_BEFORE.items():
        arguments.setdefault(name, value)
    if arguments.get("score_share", ...) is None:
        arguments["score_share"] = 0.0
    if arguments.get("anomaly_source_path", ...) is None:
        arguments["anomaly_source_path"] = NOISE


def _add_missing_weights(model: AnoPLeModel, weights: dict[str, Any]) -> None:
    """Add the weights that a checkpoint of version 0.1 does not have: it was trained at CLIP's own logit scale."""
    weights.setdefault("model.tile_grid", torch.ones(2, dtype=torch.long))
    weights.setdefault("model.region.mask", torch.zeros(0, 0, dtype=torch.bool))
    for name in ("image_logit_scale", "pixel_logit_scale"):
        weights.setdefault(f"model.{name}", model.clip.logit_scale.detach().cpu().clone())


def _settings_not_in_weights(model: AnoPLeModel) -> dict[str, Any]:
    """Return the settings that change what the weights mean, but not their names and shapes."""
    second = model.second_memory
    return {
        "memory_layers": list(model.memory_layers),
        "residual_decoder": model.residual_decoder,
        **({} if model.decoder is None else {"pixel_logits": model.pixel_logits}),
        "memory_backbone": None if second is None else second.backbone.name,
        "memory_position_weight": 0.0 if second is None else float(second.memory_bank.position_weight),
        "memory_subspace": 0.0 if second is None else float(second.subspace),
        "fusion": model.fusion.name,
        "score_share": float(model.fusion.top_share),
    }


def _read_hparams(path: Path) -> dict[str, Any]:
    """Read hyper-parameters from one of the kinds of files that Lightning writes."""
    if path.suffix.lower() not in {".csv", ".yml", ".yaml"}:
        msg = f"hparams_file must be a .yaml, .yml or .csv file, got '{path}'."
        raise ValueError(msg)
    return load_hparams_from_tags_csv(path) if path.suffix.lower() == ".csv" else load_hparams_from_yaml(path)
