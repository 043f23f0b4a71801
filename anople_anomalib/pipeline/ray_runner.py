# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""A comparison on a Ray cluster: every job runs on the machine that has room, and its row is written here.

The machines need this package and the data at the same paths, but no common disk: files come back with the row.
"""

import os
import socket
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

from anomalib.pipelines.components.base import Runner
from anomalib.pipelines.types import GATHERED_RESULTS, PREV_STAGE_RESULT
from tqdm import tqdm

from anople_anomalib.utils.arguments import RATE, check, integer
from anople_anomalib.utils.cluster import RETRIES, import_ray, running
from anople_anomalib.utils.files import written_whole

from .job import FewShotJob, FewShotJobGenerator
from .results import EXAMPLES, FAILED, SAMPLES, SCORES
from .settings import JobSettings

_SECONDS = 10


class RayRunner(Runner):
    """Runner of the jobs of a comparison on a Ray cluster.

    Args:
        generator: Generator of the jobs that are not done yet.
        address: Address of a running cluster, or ``"auto"`` for the one of this machine; ``None`` takes that of the
            environment variable ``RAY_ADDRESS``, and without one starts Ray on this machine.
        cpus_per_job: CPU cores of a job, and its number of threads where it computes on them.
        gpus_per_job: GPUs of a job, less than 1 for a share of one; ``None`` for 1 where the cluster has GPUs and the
            accelerator is not ``cpu``.

    Raises:
        ImportError: If Ray is not installed.
        ValueError: If a number is out of range, or nobody listens at the address: Ray itself would try for minutes.
    """

    generator: FewShotJobGenerator

    def __init__(
        self,
        generator: FewShotJobGenerator,
        address: str | None = None,
        cpus_per_job: int = 1,
        gpus_per_job: float | None = None,
    ) -> None:
        super().__init__(generator)
        check(integer(1), cpus_per_job=cpus_per_job)
        check(RATE, gpus_per_job=gpus_per_job or 0)
        self._ray = import_ray()
        self._address, self._cpus, self._gpus = address, cpus_per_job, gpus_per_job
        host, _, port = (address or "").removeprefix("ray://").rpartition(":")
        if host and port.isdigit():
            try:
                socket.create_connection((host, int(port)), _SECONDS).close()
            except OSError as error:
                msg = f"There is no Ray cluster at '{address}' ({error}): `ray start --head` tells its address."
                raise ValueError(msg) from error

    def run(self, args: dict[str, Any], prev_stage_results: PREV_STAGE_RESULT = None) -> GATHERED_RESULTS:
        """Run all jobs of the ``fewshot`` section ``args``; each row is written the moment its job ends."""
        del prev_stage_results
        jobs, ray, gpus = self.generator.generate_jobs(args), self._ray, self._gpus
        with running(ray, self._address):
            if gpus is None:
                on_gpu = self.generator.accelerator != "cpu" and ray.cluster_resources().get("GPU", 0) > 0
                gpus = 1 if on_gpu else 0
            given = {"num_cpus": self._cpus, "num_gpus": gpus}
            function = ray.remote(**given, max_retries=RETRIES, retry_exceptions=False)(_run)
            here, threads, rows = str(Path.cwd()), None if gpus else self._cpus, []
            waiting = {function.remote(job.settings, job.position, here, threads): job for job in jobs}
            with tqdm(total=len(waiting), desc=FewShotJob.name) as progress:
                while waiting:
                    (task, *_), _ = ray.wait(list(waiting), num_returns=1)
                    rows.append(_take(ray, task, waiting.pop(task)))
                    progress.update()
        return FewShotJob.collect(rows)


def _take(ray: ModuleType, task: object, job: FewShotJob) -> dict[str, Any]:
    """Write the row and the files of a job here; of one that got lost, a failed row."""
    try:
        row, files = ray.get(task)
    except ray.exceptions.RayTaskError as error:  # such as a machine without this package
        row, files = _failed(job, f"{type(error.cause).__name__}: {error.cause}"), {}
    except ray.exceptions.RayError as error:
        first = next(iter(str(error).strip().splitlines()), "")
        text = f"{type(error).__name__}: the job lost its worker, and that of its retry. {first}"
        row, files = _failed(job, text), {}
    for name, content in files.items():
        with written_whole(job.folder / name) as temporary:
            temporary.write_bytes(content)
    job.finish(row)
    return row


def _failed(job: FewShotJob, error: str) -> dict[str, Any]:
    return {**job.settings.describe(), "status": FAILED, "error": error}


def _run(
    settings: JobSettings, position: str, folder: str, threads: int | None
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Run a job on a worker of Ray, and return its row and the content of the files that it wrote."""
    if Path(folder).is_dir():  # that of the one who asked, for relative paths
        os.chdir(folder)
    with TemporaryDirectory() as temporary:
        row = FewShotJob(settings, Path(temporary), position, threads).run()
        written = [path for name in (SAMPLES, EXAMPLES, SCORES) for path in (Path(temporary) / name).rglob("*.*")]
        return row, {path.relative_to(temporary).as_posix(): path.read_bytes() for path in written}
