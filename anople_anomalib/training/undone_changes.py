# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The end of what a callback changes for a run of the trainer."""

from contextlib import ExitStack

from lightning.pytorch import Callback, LightningModule, Trainer


class UndoneChanges(Callback):
    """Callback whose changes, entered into :attr:`changes` while it is set up, are undone whatever ends the run.

    Lightning tears nothing down after a failure: hence ``on_exception``.

    Attributes:
        changes: The changes, context managers that are closed at the end.
    """

    def __init__(self) -> None:
        self.changes = ExitStack()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Undo the changes."""
        del trainer, pl_module, stage
        self.changes.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Undo the changes."""
        del trainer, pl_module, exception
        self.changes.close()
