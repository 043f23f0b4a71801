# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The costs of a job: seconds, images per second, peak memory, trained parameters and the size of its checkpoint.

Costs are to be compared between rows, so that all jobs of a process start alike: the libraries are loaded and the
device has worked (:func:`warm_up`), memory counts from that of the process before the job (:class:`PeakMemory`), and
validation, for thresholds that nobody asks for here, is no part of training (:class:`Clock`).
"""

import ctypes
import gc
import logging
import time
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch
from anomalib.data import Batch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

from anople_anomalib.utils.batches import images_of
from anople_anomalib.utils.scoped import logged_from

MEGABYTE = 1e6
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@cache
def warm_up(accelerator: str, gpu: int | None) -> torch.device:
    """Let a process do once the work that only its first job would pay for: late imports, the start of the device.

    By Lightning's name of the accelerator, and the number of the CUDA device, ``None`` for another; return the device.
    """
    with warnings.catch_warnings(), logged_from(logging.ERROR, "lightning.pytorch"):
        warnings.simplefilter("ignore")
        trainer = Trainer(
            accelerator=accelerator,
            devices=1 if gpu is None else [gpu],
            max_epochs=1,
            limit_train_batches=2,
            limit_val_batches=2,
            barebones=True,
        )
        trainer.fit(BoringModel())
        device = trainer.strategy.root_device
        images = torch.zeros(1, 3, 64, 64, device=device)
        torch.nn.Conv2d(3, 8, 3).to(device)(images).sum().backward()
    return device


class Stopwatch:
    """Seconds since it was started: on the clock, and of the processor in all threads of the process."""

    def __init__(self) -> None:
        _finish()
        self._wall, self._processor = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        """Return seconds on the clock and seconds of the processor."""
        _finish()
        return time.perf_counter() - self._wall, time.process_time() - self._processor


class Clock(Callback):
    """Clock of the validation within a training run, and of the batches of a test.

    Validation is taken off the time of training; the building of a memory at its start stays in. A test batch is
    pre-processing on the device and the model, without data loading and metrics: the trainer calls the callbacks it is
    given before those of the model, so the clock starts before the pre-processor and stops before the post-processor,
    the evaluator and the visualizer.

    Attributes:
        validation: Seconds on the clock, and of the processor.
    """

    def __init__(self) -> None:
        self.validation = (0.0, 0.0)
        self._batches: list[tuple[int, float, float]] = []  # images, seconds, and those of the processor
        self._images = 0
        self._watch = Stopwatch()

    def images_per_second(self) -> tuple[float | None, float | None]:
        """Return images per second on the clock and of the processor, the fairer number on a busy machine.

        Over the test batches; ``None`` before the first one, and where a clock is too coarse.
        """
        batches = self._batches[1:] or self._batches  # the first one also warms up the device
        images, wall, processor = (sum(column) for column in zip((0, 0.0, 0.0), *batches, strict=True))
        return images / wall if wall else None, images / processor if processor else None

    def on_validation_epoch_start(self, *_: object) -> None:
        """Start the clock."""
        self._watch = Stopwatch()

    def on_validation_epoch_end(self, *_: object) -> None:
        """Add the time of the validation."""
        wall, processor = self._watch.read()
        self.validation = (self.validation[0] + wall, self.validation[1] + processor)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, *_: int, **__: int
    ) -> None:
        """Start the clock."""
        del trainer, pl_module
        self._images = len(images_of(batch))
        self._watch = Stopwatch()

    def on_test_batch_end(self, *_: object, **__: object) -> None:
        """Keep the time of the batch."""
        self._batches.append((self._images, *self._watch.read()))


class PeakMemory:
    """Peak memory of a ``with`` block beyond that before it, in megabytes of a million bytes.

    With CUDA it is the memory that torch allocated on the device; otherwise the resident memory of the process, as
    Linux counts it. Garbage is collected and given back to the system first.

    Args:
        gpu: Number of the CUDA device that is measured; ``None`` for the process.

    Attributes:
        megabytes: The peak; ``None`` where the system does not tell.
    """

    def __init__(self, gpu: int | None) -> None:
        self.gpu = gpu
        self.megabytes: float | None = None
        self._before: float | None = None

    def __enter__(self) -> "PeakMemory":
        """Forget earlier peaks."""
        gc.collect()
        if self.gpu is not None:
            torch.cuda.reset_peak_memory_stats(self.gpu)
            self._before = torch.cuda.memory_allocated(self.gpu) / MEGABYTE
        elif _STATUS.is_file():
            with suppress(AttributeError):  # a C library without it
                ctypes.CDLL(None).malloc_trim(0)
            with suppress(OSError):  # where that is not allowed
                _RESET.write_text("5", encoding="ascii")  # resets VmHWM, the peak of the resident memory (proc(5))
                self._before = _process_megabytes("VmRSS")
        return self

    def __exit__(self, *error: object) -> None:
        """Read the peak."""
        if self._before is not None:
            on_gpu = self.gpu is not None
            peak = torch.cuda.max_memory_allocated(self.gpu) / MEGABYTE if on_gpu else _process_megabytes("VmHWM")
            self.megabytes = max(0.0, peak - self._before)


def _process_megabytes(field: str) -> float:
    """Return a field of Linux's account of this process: ``VmRSS``, the resident memory, or ``VmHWM``, its peak."""
    line = next(line for line in _STATUS.read_text(encoding="ascii").splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024 / MEGABYTE


def trained_parameters(trainer: Trainer) -> int:
    """Return how many parameters the trainer's optimizers update: none for a model that only fills a memory."""
    groups = (group for optimizer in trainer.optimizers for group in optimizer.param_groups)
    parameters = {id(tensor): tensor.numel() for group in groups for tensor in group["params"] if tensor.requires_grad}
    return sum(parameters.values())


def checkpoint_megabytes(trainer: Trainer, folder: Path) -> float:
    """Return the size of the checkpoint that training left in a folder, or of one that is written there now."""
    saved = next(folder.rglob("*.ckpt"), None)
    if saved is None:
        saved = folder / "model.ckpt"
        trainer.save_checkpoint(saved)
    return saved.stat().st_size / MEGABYTE


def _finish() -> None:
    """Wait until the GPU has done its work, where one is in use."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
