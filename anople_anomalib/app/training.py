# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Training runs of the page: one at a time, in their order, each with its progress."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from anomalib.data import Folder
from anomalib.engine import Engine
from lightning.pytorch import Callback, LightningModule, Trainer

from anople_anomalib.anople import AnoPLe
from anople_anomalib.config import TrainingConfig

from .messages import AppError


class Progress:
    """How far a training run is; read by one thread while another one trains.

    Attributes:
        step: Steps that are done.
        steps: Steps of the whole run; 0 before it starts.
        ahead: Runs of other people that come first.
        stopped: Whether somebody has asked it to stop.
    """

    def __init__(self) -> None:
        self.step = self.steps = self.ahead = 0
        self.stopped = False
        self.started: float | None = None

    def stop(self) -> None:
        """Let the run end after the present step."""
        self.stopped = True

    @property
    def seconds_left(self) -> float | None:
        """Seconds left at the pace so far; ``None`` before the first step."""
        if self.started is None or self.step == 0:
            return None
        return (time.monotonic() - self.started) / self.step * (self.steps - self.step)

    def __str__(self) -> str:
        """Say it in words."""
        if self.ahead:
            return f"Waiting: {self.ahead} training run{'s' if self.ahead > 1 else ''} of others first."
        if self.steps == 0:
            return "Getting ready."
        if self.step >= self.steps or self.stopped:
            return f"Step {self.step} of {self.steps}: memory and threshold are being made."
        left = self.seconds_left
        return f"Step {self.step} of {self.steps}" + (f", {left:.0f} seconds left." if left is not None else ".")


class Turns:
    """A queue for what only one may do at a time."""

    def __init__(self) -> None:
        self._waiting: deque[Progress] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def turn(self, progress: Progress) -> Iterator[None]:
        """Wait for the turn, and have it within the block.

        Args:
            progress: Told how many are ahead; asked to stop, it leaves the queue.

        Raises:
            AppError: If it was stopped while waiting.
        """
        with self._changed:
            self._waiting.append(progress)
        try:
            with self._changed:
                while progress.ahead or self._waiting[0] is not progress:
                    progress.ahead = self._waiting.index(progress)
                    if progress.stopped:
                        msg = "Stopped before the training run began."
                        raise AppError(msg)
                    if progress.ahead:
                        self._changed.wait(0.2)
            yield
        finally:
            with self._changed:
                self._waiting.remove(progress)
                self._changed.notify_all()


TURNS = Turns()
"""The turns of this process: it trains one model at a time."""


class ProgressCallback(Callback):
    """Tells a :class:`Progress` every step, and the trainer when to stop."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the number of steps."""
        del pl_module
        self._progress.steps, self._progress.started = int(trainer.estimated_stepping_batches), time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, *args: object, **kwargs: object) -> None:
        """Note a step; stop if somebody has asked for it."""
        del args, kwargs
        self._progress.step = trainer.global_step
        if self._progress.stopped:
            trainer.should_stop = True


def train(folder: Path, name: str, preset: str, epochs: int, progress: Progress, turns: Turns = TURNS) -> AnoPLe:
    """Train a model on the good images in ``folder / "good"``, when it is its turn.

    Args:
        folder: Folder of the session.
        name: What the part is called.
        preset: Preset of the model.
        epochs: Number of epochs.
        progress: Told every step.
        turns: Whose turn it is.

    Returns:
        The trained model; stopped early, one that has learnt up to there.
    """
    with turns.turn(progress):
        model = AnoPLe(preset, k_shot=None, training=TrainingConfig(epochs=epochs), visualizer=False)
        datamodule = Folder(
            name=name,
            root=folder,
            normal_dir="good",
            test_split_mode="none",
            val_split_mode="none",
            num_workers=0,
        )
        engine = Engine(
            callbacks=[ProgressCallback(progress)],
            default_root_dir=folder / "results",
            logger=False,
            devices=1,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        engine.fit(model=model, datamodule=datamodule)
    return model.cpu().eval()


def in_background(work: Callable[[], object]) -> Callable[[], bool]:
    """Run work in a thread of its own.

    Args:
        work: What to do.

    Returns:
        A function that waits a moment and tells whether it is done; what the work raised, it raises.
    """
    errors: list[BaseException] = []

    def run() -> None:
        """Work, and keep what is raised."""
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # raised again where it is waited for
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def is_done(seconds: float = 0.3) -> bool:
        """Wait a moment, and raise what was kept."""
        thread.join(seconds)
        if errors:
            raise errors[0]
        return not thread.is_alive()

    return is_done
