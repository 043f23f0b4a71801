# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Several processes share out the images of an evaluation."""

from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader, DistributedSampler

from anople_anomalib.training.distributed import evaluated_once

PROCESSES = 2


def trainer_of(train_data: Any = None, world_size: int = PROCESSES) -> SimpleNamespace:  # noqa: ANN401
    """What is asked of a trainer."""
    datamodule = SimpleNamespace(train_data=train_data)
    return SimpleNamespace(world_size=world_size, strategy=DDPStrategy(), datamodule=datamodule)


def loader_of(data: range, rank: int, *, shuffle: bool = False, workers: int = 0) -> DataLoader:
    """A data loader as Lightning prepares it for one of the processes."""
    sampler = DistributedSampler(data, num_replicas=PROCESSES, rank=rank, shuffle=shuffle)
    return DataLoader(data, sampler=sampler, batch_size=2, num_workers=workers)


def shares(trainer: SimpleNamespace, data: range, **settings: Any) -> list[list[int]]:  # noqa: ANN401
    """What every process gets."""
    loaders = [loader_of(data, rank, **settings) for rank in range(PROCESSES)]
    processed = [trainer.strategy.process_dataloader(loader) for loader in loaders]
    return [[int(item) for batch in loader for item in batch] for loader in processed]


@pytest.mark.parametrize("number", [2, 3, 5, 8])
@pytest.mark.parametrize("workers", [0, 1])
def test_every_image_comes_once(number: int, workers: int) -> None:
    trainer = trainer_of()
    with evaluated_once(trainer):
        given = shares(trainer, range(number), workers=workers)
    assert given == [list(range(rank, number, PROCESSES)) for rank in range(PROCESSES)]


def test_training_images_are_shared_out_equally() -> None:
    data = range(5)
    trainer = trainer_of(train_data=data)
    with evaluated_once(trainer):
        for shuffle in (False, True):
            assert [len(share) for share in shares(trainer, data, shuffle=shuffle)] == [3, 3]
    assert [len(share) for share in shares(trainer_of(), range(5), shuffle=True)] == [3, 3]


def test_fewer_images_than_processes_are_repeated_as_by_lightning() -> None:
    trainer = trainer_of()
    with evaluated_once(trainer):
        assert shares(trainer, range(1)) == [[0], [0]]


@pytest.mark.parametrize("world_size", [1, PROCESSES])
def test_it_is_undone(world_size: int) -> None:
    trainer = trainer_of(world_size=world_size)
    with pytest.raises(ArithmeticError), evaluated_once(trainer):
        raise ArithmeticError
    assert [len(share) for share in shares(trainer, range(5))] == [3, 3]
    assert "process_dataloader" not in vars(trainer.strategy)
