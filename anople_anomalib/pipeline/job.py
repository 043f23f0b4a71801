# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""One job of a comparison: train a model on its shots, test it, and write its row and its example maps."""

import gc
import io
import json
import logging
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from anomalib.data import AnomalibDataModule, ImageBatch
from anomalib.data.utils import ValSplitMode
from anomalib.models import AnomalibModule
from anomalib.pipelines.components import Job, JobGenerator
from anomalib.pipelines.types import PREV_STAGE_RESULT
from lightning import seed_everything
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image
from tqdm import tqdm

from anople_anomalib.anople import AnoPLe
from anople_anomalib.data import FewShot
from anople_anomalib.data.image_reading import open_image
from anople_anomalib.data.sampling import write_sample_list
from anople_anomalib.deployment.painting import with_heat, with_outline
from anople_anomalib.method.state_checks import check_weights
from anople_anomalib.metrics.per_category import PerCategoryEvaluator
from anople_anomalib.utils.files import written_whole
from anople_anomalib.utils.palette import SKY_BLUE
from anople_anomalib.utils.scoped import logged_from

from .building import build_data, build_model, categories_of, describe
from .image_scores import ImageScores
from .measures import Clock, PeakMemory, Stopwatch, checkpoint_megabytes, trained_parameters, warm_up
from .preparation import prepare
from .results import EXAMPLES, FAILED, MAIN_METRICS, OK, SAMPLES, SCORES, ResultsTable, name_of
from .robustness import Corruption
from .settings import JobSettings, expand_jobs

if TYPE_CHECKING:
    from anomalib.engine import Engine

logger = logging.getLogger(__name__)

_SIDE = 112  # pixels of an example
_THREADS = torch.get_num_threads()  # before a job changed it


@dataclass(eq=False)
class FewShotJob(Job):
    """Job that trains and tests one model and adds one row to the results, also if that fails.

    Model and data are built within :meth:`run`: an error in their arguments becomes that row's error, and the job
    itself is plain data that any process can run.
    """

    name = "fewshot"
    settings: JobSettings  # the model, the data and the trainer's arguments
    folder: Path  # folder of the comparison
    position: str = "1/1"  # the job's place in the whole, such as ``"3/12"``, for the line on the console
    threads: int | None = None  # number of torch's threads on a CPU; ``None`` leaves the choice to torch

    def run(self, task_id: int | None = None) -> dict[str, Any]:
        """Run the job and write its row: settings, metrics and costs, or its error.

        Args:
            task_id: Number of the process in a parallel run; with several GPUs also that of the GPU.
        """
        row = {"status": OK, **self.settings.describe(), "error": ""}
        try:
            # the messages of models and trainers would bury the one line per job
            with (
                redirect_stdout(io.StringIO()),
                redirect_stderr(io.StringIO()),
                logged_from(logging.WARNING, "anople_anomalib"),
            ):
                row.update(self._measure(task_id))
        except Exception as error:  # of any model: the other jobs go on
            logger.exception("Job %s, %s, failed.", self.settings.job_id, self.settings.label)
            row.update(status=FAILED, error=_portable(f"{type(error).__name__}: {error}"))
        self.finish(row)
        gc.collect()  # trainer and model refer to each other, and would keep their memory during the next job
        return row

    def finish(self, row: Mapping[str, Any]) -> None:
        """Write the job's row, and print one line for it, above the progress bar if there is one."""
        ResultsTable(self.folder).add(row)
        if row["status"] == FAILED:
            result = f"failed with {row['error']}"
        else:
            scores = (f"{name} {float(row[name]):.3f}" for name in MAIN_METRICS if name in row)
            result = ", ".join([*scores, f"{row['fit_seconds'] + row['test_seconds']:.1f} s"])
        tqdm.write(f"[{self.position}] {name_of(row)}, {row['k_shot'] or 'all'} shots, seed {row['seed']}: {result}")

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
        device = warm_up(accelerator, gpu)
        datamodule = build_data(self.settings)
        datamodule.prepare_data()
        prepared = prepare(self.settings, datamodule, device, gpu)
        seed_everything(self.settings.seed, workers=True)
        trainer = {"accelerator": accelerator, "devices": 1 if gpu is None else [gpu], **self.settings.trainer}
        examples, scores = ExampleMaps(datamodule), ImageScores(datamodule)
        corruption = Corruption()
        with TemporaryDirectory() as root:
            with PeakMemory(gpu) as memory:
                model = build_model(self.settings, datamodule)
                if prepared.state:
                    check_weights(model.model, prepared.state)
                    model.model.load_state_dict(prepared.state)
                callbacks: list[Callback] = [corruption, examples, scores]
                engine, results = _fit_and_test(model, datamodule, trainer, callbacks, Path(root))
            results["verdicts"] = _verdicts(model, datamodule)  # before further tests give others
            kinds = self.settings.robustness or ()
            results |= corruption.metrics(kinds, lambda: engine.test(model, datamodule=datamodule)[0])
        drawing = next((each for each in (datamodule, model) if isinstance(each, FewShot | AnoPLe)), None)
        if drawing is not None:  # as a file that FewShot reads
            write_sample_list(self.folder / SAMPLES / f"{self.settings.job_id}.yaml", drawing.drawn_samples)
        examples.save(self.folder / EXAMPLES / self.settings.job_id)
        scores.save(self.folder / SCORES / f"{self.settings.job_id}.parquet")
        return {
            **describe(model, datamodule),
            **results,
            **prepared.columns,
            "peak_memory_mb": memory.megabytes,
            "threads": torch.get_num_threads(),
            "batch_size": datamodule.eval_batch_size,
        }


@dataclass(eq=False)
class FewShotJobGenerator(JobGenerator):
    """Generator of the jobs on an accelerator that the results in a folder do not hold yet, see :class:`FewShotJob`."""

    job_class = FewShotJob
    accelerator: str
    folder: Path
    threads: int | None = None

    def generate_jobs(  # type: ignore[override]  # anomalib's runners take any iterable, and show the length of a list
        self, args: dict[str, Any] | None = None, prev_stage_result: PREV_STAGE_RESULT = None
    ) -> list[FewShotJob]:
        """Return the jobs of a ``fewshot`` section as a list: anomalib's runner shows how many there are."""
        del prev_stage_result
        done = ResultsTable(self.folder).done()
        settings = [job for job in expand_jobs(args or {}, self.accelerator) if job.job_id not in done]
        return [
            FewShotJob(job, self.folder, f"{number}/{len(settings)}", self.threads)
            for number, job in enumerate(settings, start=1)
        ]


class ExampleMaps(Callback):
    """Keeps the map of the first anomalous test image of every category.

    The first one by the order of the test set: the same for every method, and chosen by nobody's score. Given to the
    trainer in front of the model's own callbacks, it sees raw maps.
    """

    def __init__(self, datamodule: AnomalibDataModule) -> None:
        self._datamodule = datamodule
        self._examples: dict[str, tuple[str, np.ndarray | None, np.ndarray]] = {}  # path, mask or None, raw map

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: ImageBatch, *_: int, **__: int
    ) -> None:
        """Keep the maps of categories that have none yet."""
        del trainer, pl_module, outputs
        data, categories = self._datamodule, categories_of(self._datamodule)
        if batch.anomaly_map is None or batch.gt_label is None or len(self._examples) == len(categories):
            return
        for row in torch.as_tensor(batch.gt_label).flatten().nonzero().flatten().tolist():
            path = (batch.image_path or [])[row]
            category = data.category_of(path) if isinstance(data, FewShot) else categories[0]
            if category not in self._examples:
                truth = None if batch.gt_mask is None else _plane(batch.gt_mask[row]) > 0
                self._examples[category] = (path, truth, _plane(batch.anomaly_map[row]))

    def save(self, folder: Path) -> None:
        """Write the pictures, a JPEG file of 224 x 112 pixels per category."""
        for category, example in self._examples.items():
            with written_whole(folder / f"{category}.jpg") as temporary:
                _draw(*example).save(temporary, format="JPEG", quality=70)


def _draw(path: str, truth: np.ndarray | None, heat: np.ndarray) -> Image.Image:
    """Draw an image with its mask and its map side by side."""
    photo = np.asarray(open_image(path).convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BILINEAR))
    left = photo if truth is None else with_outline(photo, truth, SKY_BLUE)
    low, high = float(heat.min()), float(heat.max())
    right = with_heat(photo, ((heat - low) / max(high - low, 1e-12)).astype(np.float32))
    return Image.fromarray(np.concatenate([left, right], axis=1))


def _plane(tensor: torch.Tensor) -> np.ndarray:
    """Return a map or mask as an array of shape ``(h, w)``, dtype float32."""
    return tensor.reshape(tensor.shape[-2:]).float().numpy(force=True)


def _fit_and_test(
    model: AnomalibModule,
    datamodule: AnomalibDataModule,
    trainer: dict[str, Any],
    callbacks: list[Callback],
    root: Path,
) -> tuple["Engine", dict[str, Any]]:
    """Train and test with anomalib's engine, which writes to the folder ``root``; return it, metrics and costs."""
    from anomalib.engine import Engine  # not at the top: the plugin is registered while the engine is imported

    clock = Clock()
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    engine = Engine(callbacks=[clock, *callbacks], default_root_dir=root, **{**quiet, **trainer})
    watch = Stopwatch()
    engine.fit(model, datamodule=datamodule)
    fit, fit_processor = (whole - part for whole, part in zip(watch.read(), clock.validation, strict=True))
    trained = {
        "fit_seconds": fit,
        "fit_cpu_seconds": fit_processor,
        "trainable_parameters": trained_parameters(engine.trainer),
        "checkpoint_mb": checkpoint_megabytes(engine.trainer, root),
    }
    watch = Stopwatch()
    metrics = {name: value for result in engine.test(model, datamodule=datamodule) for name, value in result.items()}
    test, test_processor = watch.read()
    if isinstance(datamodule, FewShot) and (good := datamodule.other_good_parts()) is not None:
        engine.trainer.predict(model, dataloaders=good, return_predictions=False)
    per_second, per_cpu_second = clock.images_per_second()
    return engine, {
        **metrics,
        **trained,
        "test_seconds": test,
        "test_cpu_seconds": test_processor,
        "images_per_second": per_second,
        "images_per_cpu_second": per_cpu_second,
    }


def _verdicts(model: AnomalibModule, datamodule: AnomalibDataModule) -> str:
    """Return how many parts of every class of every category were called wrongly, of how many, as JSON.

    It is empty for models that label nothing: those without a post-processor, which is the default of a comparison.
    """
    rated = model.evaluator.verdicts if isinstance(model.evaluator, PerCategoryEvaluator) else {}
    first = categories_of(datamodule)[0]
    counted = {
        category or first: {name: [rate.k, rate.n] for name, rate in rates.items()}
        for category, rates in rated.items()
        if rates
    }
    if not counted:
        return ""
    fitted = datamodule.val_split_mode == ValSplitMode.SAME_AS_TEST
    return json.dumps({"fitted_to_these": fitted, "categories": counted})


def _portable(text: str) -> str:
    """Return an error's text without the folders of this machine."""
    for folder, name in ((Path.cwd(), "."), (Path(gettempdir()), "<temporary folder>"), (Path.home(), "~")):
        if folder != Path(folder.anchor):
            text = text.replace(str(folder), name)
    return text
