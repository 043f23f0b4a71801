# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Questions to Lightning that have no one-word answer."""

from lightning.pytorch import LightningModule, Trainer


def trainer_of(module: LightningModule) -> Trainer | None:
    """Return the trainer that a module is attached to, ``None`` outside of one."""
    try:
        return module.trainer
    except RuntimeError:  # Lightning's answer where there is none
        return None
