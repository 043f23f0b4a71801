# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""What a job costs: images per second, peak memory, trained parameters and the size of its checkpoint."""

import time
from pathlib import Path
from typing import Any

import torch
from anomalib.data import Batch
from lightning.pytorch import Callback, LightningModule, Trainer

from anople_anomalib.utils.batches import images_of

MEGABYTE = 1e6
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class InferenceSpeed(Callback):
    """Clock of the test batches: pre-processing on the device and the model, without data loading and metrics.

    The trainer calls the callbacks it is given before those of the model, so the clock starts before the
    pre-processor and stops before the post-processor, the evaluator and the visualizer. The first batch, which also
    warms up the device, does not count where there are more.
    """

    def __init__(self) -> None:
        self._times: list[tuple[int, float]] = []  # images and seconds of every batch
        self._start = 0.0

    @property
    def images_per_second(self) -> float | None:
        """Images per second over the test batches; ``None`` before the first one."""
        times = self._times[1:] or self._times
        seconds = sum(second for _, second in times)
        return sum(images for images, _ in times) / seconds if seconds else None

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
        self._start = time.perf_counter()

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop the clock."""
        del trainer, outputs, batch_idx, dataloader_idx
        _finish(pl_module.device)
        self._times.append((len(images_of(batch)), time.perf_counter() - self._start))


class PeakMemory:
    """Peak memory of a ``with`` block, in megabytes of a million bytes.

    With CUDA it is what torch allocated on the device; otherwise the resident memory of the whole process, libraries
    included, as Linux counts it (``None`` where the system does not tell).

    Args:
        gpu: Number of the CUDA device that is measured; ``None`` for the process.
    """

    def __init__(self, gpu: int | None) -> None:
        self.gpu = gpu
        self.megabytes: float | None = None
        self._is_reset = False

    def __enter__(self) -> "PeakMemory":
        """Forget earlier peaks."""
        if self.gpu is not None:
            torch.cuda.reset_peak_memory_stats(self.gpu)
        else:
            self._is_reset = _reset_process_peak()
        return self

    def __exit__(self, *error: object) -> None:
        """Read the peak."""
        if self.gpu is not None:
            self.megabytes = torch.cuda.max_memory_allocated(self.gpu) / MEGABYTE
        elif self._is_reset:
            peak = next(line for line in _STATUS.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM:"))
            self.megabytes = int(peak.split()[1]) * 1024 / MEGABYTE


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
