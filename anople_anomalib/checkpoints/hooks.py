# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Lightning's checkpoint hooks of AnoPLe: the metadata of a checkpoint, and what is checked before it is taken."""

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from typing_extensions import Self

from anople_anomalib.method.state_checks import check_state
from anople_anomalib.method.torch_model import AnoPLeModel, check_backbone
from anople_anomalib.utils.version import __version__

from .files import check_metadata, read_checkpoint


class CheckpointHooks(LightningModule):
    """Hooks mixed into the model, which a refused checkpoint leaves as it was.

    The model defines ``model``, ``weights``, ``class_names``, ``drawn_samples`` and the hyper-parameter ``backbone``.
    """

    model: AnoPLeModel
    weights: str
    class_names: list[str]
    drawn_samples: dict[str, list[str]]

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
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint that does not fit, else restore the classes and the shots."""
        check_metadata(checkpoint)
        metadata = checkpoint["anople"]
        if metadata["backbone"] != self.hparams["backbone"]:
            msg = (
                f"The checkpoint was trained over the backbone {metadata['backbone']} ({metadata['weights']}), this "
                f"model has {self.hparams['backbone']} ({self.weights}): build the model with that backbone."
            )
            raise ValueError(msg)
        for name, value in _settings_not_in_weights(self.model).items():
            if metadata[name] != value:
                msg = (
                    f"The checkpoint was trained with {name} {metadata[name]}, this model has {value}: "
                    "give it the same."
                )
                raise ValueError(msg)
        check_weights(self.model, checkpoint["state_dict"], "model.")
        super().on_load_checkpoint(checkpoint)
        self.class_names, self.drawn_samples = metadata["class_names"], metadata["drawn_samples"]

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: str | Path,
        map_location: Any = None,  # noqa: ANN401
        hparams_file: str | Path | None = None,
        strict: bool | None = None,
        weights_only: bool = True,
        **kwargs: Any,  # noqa: ANN401
    ) -> Self:
        """Build the model of a checkpoint.

        Args:
            checkpoint_path: The file.
            map_location: Where its tensors are put, as for ``torch.load``.
            hparams_file: File with other hyper-parameters.
            strict: Whether all names must match.
            weights_only: Nothing but ``True``: pickled code is never run.
            **kwargs: Constructor arguments that replace those of the checkpoint.

        Returns:
            The model.

        Raises:
            ValueError: If the checkpoint is damaged or does not fit, or ``weights_only`` is ``False``.
        """
        if not weights_only:
            msg = "A checkpoint of AnoPLe is read with weights_only=True alone, as it holds nothing else."
            raise ValueError(msg)
        read_checkpoint(checkpoint_path)
        return super().load_from_checkpoint(checkpoint_path, map_location, hparams_file, strict, **kwargs)


def _settings_not_in_weights(model: AnoPLeModel) -> dict[str, Any]:
    """Return the settings that change what the weights mean, but not their names and shapes."""
    return {"memory_layers": list(model.memory_layers), "residual_decoder": model.residual_decoder}


def check_weights(
    module: CheckpointHooks | AnoPLeModel,
    state_dict: dict[str, Any],
    prefix: str,
    _metadata: dict | None = None,
    strict: bool = True,
    *_args: object,
) -> None:
    """Check all weights (load-state-dict pre hook): thresholds load before the model, and must not be in vain.

    Args:
        module: What is to be loaded.
        state_dict: The weights.
        prefix: Prefix of the module's names in them.
        strict: Whether all names must be there and no others.

    Raises:
        ValueError: If the weights are of another backbone or do not fit.
    """
    if isinstance(module, AnoPLeModel):
        check_backbone(module, state_dict, prefix)
    else:
        check_backbone(module.model, state_dict, f"{prefix}model.")
    check_state(module, state_dict, prefix, strict)
