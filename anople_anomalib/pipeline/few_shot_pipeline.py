# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""``anomalib fewshot --config FILE``: compare models on the same shots, see ``configs/benchmark`` for examples."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from anomalib.pipelines.components.base import Pipeline, Runner
from anomalib.pipelines.components.runners import ParallelRunner, SerialRunner
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch.accelerators import AcceleratorRegistry

from anople_anomalib.utils.arguments import check, integer

from .job import FewShotJob, FewShotJobGenerator
from .ray_runner import RayRunner
from .results import FAILED, MAIN_METRICS, ResultsTable, name_of, short_categories, write_plan
from .settings import LOCAL, RAY, SECTION_KEYS, add_arguments, check_keys, expand_jobs

TOP_LEVEL_KEYS = ("accelerator", "processes", FewShotJob.name)
COSTS = {
    "preparation_seconds": "prep.\ns",
    "fit_seconds": "fit\ns",
    "test_seconds": "test\ns",
    "images_per_second": "images\n/s",
    "peak_memory_mb": "MB",
}
SHOWN = {name: name.replace("_", "\n") for name in MAIN_METRICS} | COSTS  # columns of the results, with their headings


class FewShotPipeline(Pipeline):
    """Comparison of few-shot models, one result row per job.

    The configuration has a section ``fewshot`` with the grids of ``seed``, ``model`` and ``data`` as in ``anomalib
    benchmark``, and these keys:

    - ``fewshot.trainer``, or ``trainer`` within a model: arguments of the trainer.
    - ``label`` within a model: its name in tables and plots.
    - ``auxiliary`` within a model: data that it learns from before it sees the shots, for a model that does; a
      ``datamodule`` and its ``categories``, all others than those that are tested by default.
    - ``fewshot.robustness``: kinds of corruptions, ``all`` or some of lamp, blur, jpeg, glare and shift, under which
      every model is tested again at five severities.
    - ``fewshot.runs``: a list of such sections, each completed by the keys beside it.
    - ``fewshot.folder``, or ``--folder``: folder of the results, ``runs/fewshot/<time>`` by default. Started again on
      the same folder, the pipeline skips the jobs that are done.
    - ``fewshot.published_tables``: the paper's tables that a report shows beside the results, Tables 1 and 6 to 8 by
      default.
    - ``accelerator``: one or a list of Lightning's; ``auto`` by default.
    - ``processes``: number of jobs that run side by side; the number of GPUs by default.

    ``--engine ray`` runs the jobs on a Ray cluster instead.
    """

    def __init__(self) -> None:
        self.folder = Path()
        self.plan_name = "config"
        self.published_tables: list[str] = []
        self.ray: tuple[str | None, int, float | None] | None = None  # address, CPUs and GPUs of a job

    @staticmethod
    def get_parser(parser: ArgumentParser | None = None) -> ArgumentParser:
        """Return the parser of the command line, with ``--config``, ``--folder`` and the place where the jobs run."""
        parser = Pipeline.get_parser(parser)
        add_arguments(parser)
        return parser

    def run(self, args: Namespace | None = None) -> None:
        """Run the comparison of ``args.config``, and show its results; ``None`` reads the command line.

        Raises:
            ImportError: If the jobs are to run on Ray, which is not installed.
            FileNotFoundError: If there is no such configuration.
            ValueError: If the configuration is not valid.
        """
        super().run(args or self.get_parser().parse_args())
        rows = ResultsTable(self.folder).rows()
        show(rows)
        failed = sum(row["status"] == FAILED for row in rows)
        print(f"{len(rows)} jobs are in {ResultsTable(self.folder).path}; {failed} of them failed.")

    def _get_args(self, args: Namespace | None) -> dict[str, Any]:
        """Read the configuration and take the keys that are no part of a job out of its section."""
        args = args or self.get_parser().parse_args()
        if args.get("engine", LOCAL) == RAY:
            self.ray = (args.get("ray_address"), args.get("cpus_per_job", 1), args.get("gpus_per_job"))
        config = super()._get_args(args)
        section = config.get(FewShotJob.name) if isinstance(config, Mapping) else None
        if not isinstance(section, Mapping):
            msg = f"{args.config} has no section '{FewShotJob.name}:' with the keys {', '.join(SECTION_KEYS)}."
            raise ValueError(msg)
        check_keys(str(args.config), config, known=TOP_LEVEL_KEYS)
        section = dict(section)
        default = Path("runs") / FewShotJob.name / datetime.now().strftime("%Y-%m-%d-%H_%M_%S")
        folder = section.pop("folder", None)
        self.folder = Path(args.get("folder") or folder or default)
        self.plan_name = Path(args.config).stem
        self.published_tables = [str(table) for table in section.pop("published_tables", None) or ()]
        return {"accelerator": "auto", "processes": None, **config, FewShotJob.name: section}

    def _setup_runners(self, args: dict[str, Any]) -> list[Runner]:
        """Write the plan and return one runner per accelerator."""
        accelerators = args["accelerator"] if isinstance(args["accelerator"], list) else [args["accelerator"]]
        runners = [self._runner(accelerator, args["processes"]) for accelerator in accelerators]
        jobs = [job for accelerator in accelerators for job in expand_jobs(args[FewShotJob.name], accelerator)]
        write_plan(self.folder, self.plan_name, [job.describe() for job in jobs], self.published_tables)
        done = ResultsTable(self.folder).done().intersection(job.job_id for job in jobs)
        print(f"{len(jobs)} jobs, {len(done)} of them done already; results in {self.folder}.")
        return runners

    def _runner(self, accelerator: str, processes: int | None) -> Runner:
        """Return anomalib's serial or parallel runner, or that of Ray, for the jobs on one accelerator."""
        known = ("auto", "gpu", *AcceleratorRegistry.available_accelerators())
        if accelerator not in known:
            msg = f"Unknown accelerator {accelerator!r}: known are {', '.join(sorted(set(known)))}."
            raise ValueError(msg)
        if self.ray is not None:
            return RayRunner(FewShotJobGenerator(accelerator, self.folder), *self.ray)
        gpus = 0 if accelerator == "cpu" else torch.cuda.device_count()
        processes = max(1, gpus) if processes is None else processes
        check(integer(1), processes=processes)
        if processes == 1:
            return SerialRunner(FewShotJobGenerator(accelerator, self.folder))
        # jobs side by side on a CPU share its cores, or each would start a thread per core
        threads = None if gpus else max(1, torch.get_num_threads() // processes)
        return ParallelRunner(FewShotJobGenerator(accelerator, self.folder, threads), n_jobs=processes)


def show(rows: Sequence[Mapping[str, str]]) -> None:
    """Print a table of rows with the main metrics and the costs that there are, then the error of each that failed."""
    names = [name for name in SHOWN if any(row.get(name) for row in rows)]
    cells = [
        [row["model"], f"{row['dataset']} {short_categories(row['categories'])}", row["k_shot"], row["seed"]]
        + [_short_number(row.get(name, "")) for name in names]
        + [row["status"]]
        for row in rows
    ]
    headings = ["model", "data", "k", "seed", *(SHOWN[name] for name in names), "status"]
    table = pd.DataFrame(cells, columns=headings).to_markdown(index=False, tablefmt="simple", disable_numparse=True)
    print(f"Few-shot comparison\n\n{table}\n")
    for row in rows:
        if row["status"] == FAILED:
            print(f"Failed: {name_of(row)}, seed {row['seed']}: {row['error']}")


def _short_number(cell: str) -> str:
    """Return a number with three digits after the point, or one where it is large."""
    return cell and (f"{float(cell):.3f}" if abs(float(cell)) <= 1 else f"{float(cell):.1f}")
