# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Several processes evaluate every image once.

Lightning hands each process of an evaluation the same number of images. Where they do not divide, some come twice, and
count twice in the metrics and thresholds.
"""

from collections.abc import Iterator, Sized
from contextlib import contextmanager
from typing import cast

from lightning.pytorch import Trainer
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler

from anople_anomalib.utils.scoped import replaced


@contextmanager
def evaluated_once(trainer: Trainer) -> Iterator[None]:
    """Let the processes of a trainer share an evaluation's images without repeating any, within the block.

    Does nothing for one process, for data loaders that come without a datamodule, and for fewer images than processes.

    Args:
        trainer: The trainer, before it makes its data loaders.
    """
    strategy, datamodule = trainer.strategy, getattr(trainer, "datamodule", None)
    if trainer.world_size == 1 or datamodule is None:
        yield
        return
    process = type(strategy).process_dataloader

    def process_dataloader(loader: object) -> object:
        """Change an evaluation's data loader before the strategy does what it always does."""
        if isinstance(loader, DataLoader) and loader.dataset is not getattr(datamodule, "train_data", None):
            _repeat_nothing(loader)
        return process(strategy, loader)

    with replaced(strategy, "process_dataloader", process_dataloader):
        yield


def send_buffers(trainer: Trainer, *, send: bool) -> None:
    """Let torch's DistributedDataParallel send the first process's buffers around before each forward pass, or not.

    During a validation they are the same in every process anyhow, and one that has a batch less than the others would
    leave them waiting.
    """
    model = trainer.strategy.model
    if isinstance(model, DistributedDataParallel):
        model.require_forward_param_sync = send


def _repeat_nothing(loader: DataLoader) -> None:
    """Replace the sampler by which Lightning divides a data loader in a fixed order."""
    sampler = loader.sampler
    if type(sampler) is not DistributedSampler or sampler.shuffle:  # Lightning's own, not one that the user chose
        return
    if len(cast("Sized", sampler.dataset)) >= sampler.num_replicas:
        cast("BatchSampler", loader.batch_sampler).sampler = UnrepeatedDistributedSampler(
            sampler.dataset, num_replicas=sampler.num_replicas, rank=sampler.rank, shuffle=False
        )
