# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""One job of a comparison: train a model on its shots, test it, and write its row."""

import gc
import io
import logging
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

import pandas as pd
import torch
from anomalib.data import AnomalibDataModule
from anomalib.models import AnomalibModule
from anomalib.pipelines.components import Job
from lightning import seed_everything

from anople_anomalib.data.sampling import write_sample_list

from .building import build_data, build_model, describe
from .console import announce, logged_from
from .examples import ExampleMaps, categories_of
from .measures import (
    InferenceSpeed,
    PeakMemory,
    Stopwatch,
    TrainingTime,
    checkpoint_megabytes,
    trained_parameters,
    warm_up,
)
from .results import EXAMPLES, FAILED, OK, ResultsTable
from .settings import JobSettings

logger = logging.getLogger(__name__)

_THREADS = torch.get_num_threads()  # before a job changed it


class FewShotJob(Job):
    """Job that trains and tests one model and adds one row to the results, also if that fails.

    Model and data are built within :meth:`run`: an error in their arguments becomes that row's error, and the job
    itself is plain data that any process can run.

    Args:
        settings: What to train and test.
        folder: Folder of the comparison.
        position: The job's place in the whole, such as ``"3/12"``, for the line on the console.
        threads: Number of torch's threads on a CPU; ``None`` leaves the choice to torch.
    """

    name = "fewshot"

    def __init__(self, settings: JobSettings, folder: Path, position: str = "1/1", threads: int | None = None) -> None:
        super().__init__()
        self.settings = settings
        self.folder = folder
        self.position = position
        self.threads = threads

    def run(self, task_id: int | None = None) -> dict[str, Any]:
        """Run the job and write its row.

        Args:
            task_id: Number of the process in a parallel run; with several GPUs also that of the GPU.

        Returns:
            The row: what was asked for, the metrics and the costs; after a failure ``status`` and ``error`` say so.
        """
        row = {"status": OK, **self.settings.describe(), "error": ""}
        try:
            # what models and trainers print or log would bury the one line per job
            with (
                redirect_stdout(io.StringIO()),
                redirect_stderr(io.StringIO()),
                logged_from(logging.WARNING, "anople_anomalib"),
            ):
                row.update(self._measure(task_id))
        except Exception as error:
            logger.exception("Job %s, %s, failed.", self.settings.job_id, self.settings.label)
            row.update(status=FAILED, error=_portable(f"{type(error).__name__}: {error}"))
        ResultsTable(self.folder).add(row)
        announce(row, self.position)
        gc.collect()  # trainer and model refer to each other, and would keep their memory during the next job
        return row

    @staticmethod
    def collect(results: list[dict[str, Any]]) -> pd.DataFrame:
        """Return the rows of a run as one table; rows may have different columns."""
        return pd.DataFrame(results)

    @staticmethod
    def save(results: pd.DataFrame) -> None:
        """Do nothing: every row was written when its job ended."""

    def _measure(self, task_id: int | None) -> dict[str, Any]:
        """Build, train and test; return the columns that are only known then."""
        torch.set_num_threads(self.threads or _THREADS)
        accelerator = self.settings.accelerator
        gpus = 0 if accelerator == "cpu" else torch.cuda.device_count()
        gpu = (task_id or 0) % gpus if gpus else None
        warm_up(accelerator, gpu)
        seed_everything(self.settings.seed, workers=True)
        datamodule = build_data(self.settings)
        datamodule.prepare_data()
        trainer = {"accelerator": accelerator, "devices": 1 if gpu is None else [gpu], **self.settings.trainer}
        examples = ExampleMaps(categories_of(datamodule))
        with TemporaryDirectory() as root, PeakMemory(gpu) as memory:
            model = build_model(self.settings, datamodule)
            results = _fit_and_test(model, datamodule, trainer, examples, Path(root))
        self._save_samples(model, datamodule)
        examples.save(self.folder / EXAMPLES / self.settings.job_id)
        costs = {
            "peak_memory_mb": memory.megabytes,
            "threads": torch.get_num_threads(),
            "batch_size": getattr(datamodule, "eval_batch_size", None),
        }
        return {**describe(model, datamodule), **results, **costs}

    def _save_samples(self, model: AnomalibModule, datamodule: AnomalibDataModule) -> None:
        """Write the list of the drawn shots beside the results, as a file that ``FewShot`` reads."""
        samples = getattr(datamodule, "drawn_samples", None) or getattr(model, "drawn_samples", None)
        if samples:
            write_sample_list(self.folder / "samples" / f"{self.settings.job_id}.yaml", samples)


def _fit_and_test(
    model: AnomalibModule,
    datamodule: AnomalibDataModule,
    trainer_arguments: dict[str, Any],
    examples: ExampleMaps,
    root: Path,
) -> dict[str, Any]:
    """Train and test with anomalib's engine.

    Args:
        model: The model.
        datamodule: The data.
        trainer_arguments: Arguments of the trainer.
        examples: Keeps an anomaly map per category.
        root: Empty folder for what the engine writes.

    Returns:
        The metrics and the costs, without the peak memory.
    """
    from anomalib.engine import Engine  # not at the top: the plugin is registered while the engine is imported

    speed, training = InferenceSpeed(), TrainingTime()
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    engine = Engine(callbacks=[speed, training, examples], default_root_dir=root, **{**quiet, **trainer_arguments})
    watch = Stopwatch()
    engine.fit(model, datamodule=datamodule)
    fit, fit_processor = (whole - part for whole, part in zip(watch.read(), training.validation, strict=True))
    costs: dict[str, float | None] = {
        "fit_seconds": fit,
        "fit_cpu_seconds": fit_processor,
        "trainable_parameters": trained_parameters(engine.trainer),
        "checkpoint_mb": checkpoint_megabytes(engine.trainer, root),
    }
    watch = Stopwatch()
    results = engine.test(model, datamodule=datamodule)
    costs["test_seconds"], costs["test_cpu_seconds"] = watch.read()
    costs["images_per_second"] = speed.images_per_second
    costs["images_per_cpu_second"] = speed.images_per_cpu_second
    return {**{name: value for result in results for name, value in result.items()}, **costs}


def _portable(text: str) -> str:
    """Return an error's text without the folders of this machine."""
    for folder, name in ((Path.cwd(), "."), (Path(gettempdir()), "<temporary folder>"), (Path.home(), "~")):
        if folder != Path(folder.anchor):
            text = text.replace(str(folder), name)
    return text
