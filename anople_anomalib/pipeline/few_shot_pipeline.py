# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""``anomalib fewshot --config FILE``: compare models on the same shots.

Example config::

    accelerator: cpu
    fewshot:
      seed:
        grid: [0, 1, 2, 3, 4]
      model:
        grid:
          - class_path: AnoPLe
          - class_path: Patchcore
            init_args:
              coreset_sampling_ratio: 1.0
      data:
        class_path: FewShot
        init_args:
          datamodule: MVTecAD
          categories: all
          k_shot:
            grid: [1, 2, 4]
"""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import torch
from anomalib.pipelines.components.base import Pipeline, Runner
from anomalib.pipelines.components.runners import ParallelRunner, SerialRunner
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch.accelerators import AcceleratorRegistry

from .console import show
from .generator import FewShotJobGenerator
from .job import FewShotJob
from .ray_runner import RayOptions, RayRunner, import_ray
from .results import FAILED, ResultsTable, write_plan
from .settings import SECTION_KEYS, check_keys, expand_jobs

TOP_LEVEL_KEYS = ("accelerator", "processes", FewShotJob.name)
LOCAL, RAY = "local", "ray"


class FewShotPipeline(Pipeline):
    """Comparison of few-shot models, one result row per job.

    The configuration has a section ``fewshot`` with the grids of ``seed``, ``model`` and ``data`` as in ``anomalib
    benchmark``, and these keys:

    - ``fewshot.trainer``, or ``trainer`` within a model: arguments of the trainer.
    - ``label`` within a model: its name in tables and plots.
    - ``fewshot.runs``: a list of such sections, each completed by the keys beside it.
    - ``fewshot.folder``, or ``--folder``: folder of the results, ``runs/fewshot/<time>`` by default. Started again on
      the same folder, the pipeline skips what is done.
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
        self.ray: RayOptions | None = None

    @staticmethod
    def get_parser(parser: ArgumentParser | None = None) -> ArgumentParser:
        """Return the parser of the command line, with ``--config``, ``--folder`` and where the jobs run."""
        parser = Pipeline.get_parser(parser)
        parser.add_argument("--folder", type=str | None, default=None, help="Folder of the results, to resume a run.")
        parser.add_argument("--engine", type=Literal["local", "ray"], default=LOCAL, help="What runs the jobs.")
        parser.add_argument("--ray_address", type=str | None, default=None, help="Address of a running Ray cluster.")
        parser.add_argument("--cpus_per_job", type=int, default=1, help="With Ray: CPU cores of a job.")
        parser.add_argument("--gpus_per_job", type=float | None, default=None, help="With Ray: GPUs of a job.")
        return parser

    def run(self, args: Namespace | None = None) -> None:
        """Run the comparison and show its results.

        Args:
            args: ``config``, the path of the configuration, and ``folder``; ``None`` reads the command line.

        Raises:
            FileNotFoundError: If there is no such configuration.
            ValueError: If the configuration is not valid.
        """
        super().run(args or self.get_parser().parse_args())
        rows = ResultsTable(self.folder).rows()
        show(rows)
        failed = sum(row["status"] == FAILED for row in rows)
        print(f"{len(rows)} jobs are in {ResultsTable(self.folder).path}; {failed} of them failed.")

    def _get_args(self, args: Namespace | None) -> dict[str, Any]:
        """Read the configuration and take out of its section what is not part of a job.

        Args:
            args: ``config`` and ``folder``; ``None`` reads the command line.

        Returns:
            The configuration with the keys ``accelerator``, ``processes`` and ``fewshot``.

        Raises:
            ImportError: If the jobs are to run on Ray, which is not installed.
            ValueError: If a key is missing or not known.
        """
        args = args or self.get_parser().parse_args()
        if args.get("engine", LOCAL) == RAY:
            import_ray()  # missing, it is an error now
            self.ray = RayOptions(args.get("ray_address"), args.get("cpus_per_job", 1), args.get("gpus_per_job"))
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
        """Write down the plan and return one runner per accelerator.

        Args:
            args: The configuration as :meth:`_get_args` returns it.

        Returns:
            Serial runners, parallel ones for more than one process, or Ray's.

        Raises:
            ValueError: If the accelerator, the number of processes or the section is not valid.
        """
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
            return RayRunner(FewShotJobGenerator(accelerator, self.folder), self.ray)
        gpus = 0 if accelerator == "cpu" else torch.cuda.device_count()
        processes = max(1, gpus) if processes is None else processes
        if isinstance(processes, bool) or not isinstance(processes, int) or processes < 1:
            msg = f"processes must be an integer, 1 or more, got {processes!r}."
            raise ValueError(msg)
        if processes == 1:
            return SerialRunner(FewShotJobGenerator(accelerator, self.folder))
        # jobs side by side on a CPU share its cores, or each would start a thread per core
        threads = None if gpus else max(1, torch.get_num_threads() // processes)
        return ParallelRunner(FewShotJobGenerator(accelerator, self.folder, threads), n_jobs=processes)
