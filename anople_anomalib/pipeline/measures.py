# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""What a job costs: seconds, images per second, peak memory, trained parameters and the size of its checkpoint.

Costs are to be compared between rows, so that all jobs of a process start alike: the libraries are loaded and the
device has worked (:func:`warm_up`), memory counts from what the process had before the job (:class:`PeakMemory`), and
validation, which a model may need for thresholds that nobody asks for here, is no part of training
(:class:`TrainingTime`).
"""

import ctypes
import gc
import logging
import time
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch
from anomalib.data import Batch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

from anople_anomalib.utils.batches import images_of

from .console import logged_from

MEGABYTE = 1e6
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@cache
def warm_up(accelerator: str, gpu: int | None) -> None:
    """Let a process do once what only its first job would pay for: load what is loaded late, start the device.

    Args:
        accelerator: Lightning's name of the accelerator.
        gpu: Number of the CUDA device; ``None`` for another device.
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
        _finish(device)


class Stopwatch:
    """Seconds since it was started: on the clock, and of the processor in all threads of the process."""

    def __init__(self) -> None:
        self._wall, self._processor = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        """Return seconds on the clock and seconds of the processor."""
        return time.perf_counter() - self._wall, time.process_time() - self._processor


class TrainingTime(Callback):
    """Time that validation takes within a training run, which is taken off its time.

    What the start of a validation brings along, such as the building of a memory, stays in.
    """

    def __init__(self) -> None:
        self.validation = (0.0, 0.0)
        self._watch: Stopwatch | None = None

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        del trainer
        _finish(pl_module.device)
        self._watch = Stopwatch()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        del trainer
        if self._watch is not None:
            _finish(pl_module.device)
            self.validation = tuple(  # type: ignore[assignment]  # two numbers
                sum(pair) for pair in zip(self.validation, self._watch.read(), strict=True)
            )
            self._watch = None


class InferenceSpeed(Callback):
    """Clock of the test batches: pre-processing on the device and the model, without data loading and metrics.

    The trainer calls the callbacks it is given before those of the model, so the clock starts before the
    pre-processor and stops before the post-processor, the evaluator and the visualizer. The first batch, which also
    warms up the device, does not count where there are more.
    """

    def __init__(self) -> None:
        self._batches: list[tuple[int, float, float]] = []  # images, seconds, and those of the processor
        self._watch: Stopwatch | None = None

    @property
    def images_per_second(self) -> float | None:
        """Images per second over the test batches; ``None`` before the first one."""
        return self._rate(1)

    @property
    def images_per_cpu_second(self) -> float | None:
        """Images per second of the processor, in all its threads; on a busy machine the fairer number."""
        return self._rate(2)

    def _rate(self, column: int) -> float | None:
        batches = self._batches[1:] or self._batches
        seconds = sum(batch[column] for batch in batches)
        return sum(images for images, *_ in batches) / seconds if seconds else None

    def on_test_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Start the clock."""
        del trainer, batch, batch_idx, dataloader_idx
        _finish(pl_module.device)
        self._watch = Stopwatch()

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop the clock."""
        del trainer, outputs, batch_idx, dataloader_idx
        _finish(pl_module.device)
        if self._watch is not None:
            self._batches.append((len(images_of(batch)), *self._watch.read()))


class PeakMemory:
    """Peak memory of a ``with`` block beyond what was there before, in megabytes of a million bytes.

    With CUDA it is what torch allocated on the device; otherwise the resident memory of the process, as Linux counts it
    (``None`` where the system does not tell). Garbage is collected and given back to the system first.

    Args:
        gpu: Number of the CUDA device that is measured; ``None`` for the process.
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
        else:
            _give_back()
            self._before = _process_megabytes("VmRSS") if _reset_process_peak() else None
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


def _give_back() -> None:
    """Give freed memory back to the system, where the C library can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if _STATUS.is_file() else None
    if trim is not None:
        trim(0)


def _reset_process_peak() -> bool:
    """Let Linux count the peak memory of this process anew; return whether it does."""
    try:
        _RESET.write_text("5", encoding="ascii")  # resets VmHWM, the peak of the resident memory (proc(5))
    except OSError:
        return False
    return True


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


def _finish(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
