# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""A comparison on a Ray cluster: every job runs on the machine that has room, and its row is written here.

The machines need this package and the data at the same paths, but no common disk: what a job writes comes back with its
row.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

from anomalib.pipelines.components.base import Runner
from anomalib.pipelines.types import GATHERED_RESULTS, PREV_STAGE_RESULT
from tqdm import tqdm

from anople_anomalib.utils.files import written_whole

from .console import announce
from .generator import FewShotJobGenerator
from .job import FewShotJob
from .results import FAILED, ResultsTable
from .settings import JobSettings

RETRIES = 1
"""How often a job runs again whose worker has died; a job that fails by itself is a row with its error at once."""
_SECONDS = 10
_LEFT_BEHIND = ("samples", "examples")  # folders of what a job writes beside its row


@dataclass(frozen=True)
class RayOptions:
    """Where a comparison runs, and what a job is given.

    Args:
        address: Address of a running cluster, or ``"auto"`` for the one of this machine; ``None`` takes that of the
            environment variable ``RAY_ADDRESS``, and without one starts Ray on this machine.
        cpus_per_job: CPU cores of a job, and its number of threads where it computes on them.
        gpus_per_job: GPUs of a job, less than 1 for a share of one; ``None`` for 1 where the cluster has GPUs and the
            accelerator is not ``cpu``.

    Raises:
        ValueError: If a number is out of range, or nobody listens at the address.
    """

    address: str | None = None
    cpus_per_job: int = 1
    gpus_per_job: float | None = None

    def __post_init__(self) -> None:
        """Check the numbers, and whether somebody listens at the address: Ray itself would try for minutes."""
        if self.cpus_per_job < 1:
            msg = f"cpus_per_job must be 1 or more, got {self.cpus_per_job}."
            raise ValueError(msg)
        if self.gpus_per_job is not None and self.gpus_per_job < 0:
            msg = f"gpus_per_job must be 0 or more, got {self.gpus_per_job}."
            raise ValueError(msg)
        host, _, port = (self.address or "").removeprefix("ray://").rpartition(":")
        if host and port.isdigit():
            try:
                socket.create_connection((host, int(port)), _SECONDS).close()
            except OSError as error:
                msg = f"There is no Ray cluster at '{self.address}' ({error}): `ray start --head` tells its address."
                raise ValueError(msg) from error


class RayRunner(Runner):
    """Runner of the jobs of a comparison on a Ray cluster.

    Args:
        generator: Generator of the jobs that are not done yet.
        options: Where they run, and what each is given.
    """

    generator: FewShotJobGenerator

    def __init__(self, generator: FewShotJobGenerator, options: RayOptions) -> None:
        super().__init__(generator)
        self._options = options

    def run(self, args: dict[str, Any], prev_stage_results: PREV_STAGE_RESULT = None) -> GATHERED_RESULTS:
        """Run all jobs; each row is written the moment its job ends.

        Args:
            args: The ``fewshot`` section.
            prev_stage_results: Not used.

        Returns:
            The rows as one table.
        """
        del prev_stage_results
        jobs, ray = self.generator.generate_jobs(args), import_ray()
        with _connected(ray, self._options.address):
            function = self._remote_function(ray)
            here, rows = str(Path.cwd()), []
            waiting = {function.remote(job.settings, job.position, here): job for job in jobs}
            with tqdm(total=len(waiting), desc=FewShotJob.name) as progress:
                while waiting:
                    (task, *_), _ = ray.wait(list(waiting), num_returns=1)
                    rows.append(_take(ray, task, waiting.pop(task)))
                    progress.update()
        return FewShotJob.collect(rows)

    def _remote_function(self, ray: ModuleType) -> Any:
        """Return the function that Ray runs elsewhere, with what a job is given."""
        options, has_gpus = self._options, ray.cluster_resources().get("GPU", 0) > 0
        gpus = options.gpus_per_job
        if gpus is None:
            gpus = 1 if has_gpus and self.generator.accelerator != "cpu" else 0
        run = _run_with_gpu if gpus else _run_on_cpus
        remote = ray.remote(num_cpus=options.cpus_per_job, num_gpus=gpus, max_retries=RETRIES, retry_exceptions=False)
        return remote(run)


def import_ray() -> ModuleType:
    """Import Ray, which then tells nobody that it is used, and gives up a job that takes too much memory.

    Raises:
        ImportError: If it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_task_oom_retries", str(RETRIES))  # of a worker that was ended to save memory: for ever
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        msg = '--engine ray needs Ray: pip install "anople-anomalib[ray]".'
        raise ImportError(msg) from error
    return ray


@contextmanager
def _connected(ray: ModuleType, address: str | None) -> Iterator[None]:
    """Connect to a cluster, and leave it; a connection that is there already stays."""
    if ray.is_initialized():
        yield
        return
    ray.init(address=address, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


def _take(ray: ModuleType, task: Any, job: FewShotJob) -> dict[str, Any]:
    """Take what a job has returned, write it here, and say so; of a job that got lost, that it did."""
    try:
        row, files = ray.get(task)
    except ray.exceptions.RayError as error:
        row, files = {**job.settings.describe(), "status": FAILED, "error": _reason(ray, error)}, {}
    for name, content in files.items():
        with written_whole(job.folder / name) as temporary:
            temporary.write_bytes(content)
    ResultsTable(job.folder).add(row)
    announce(row, job.position)
    return row


def _reason(ray: ModuleType, error: Exception) -> str:
    """Say why nothing came back: what a worker could not do, or that it was lost."""
    if isinstance(error, ray.exceptions.RayTaskError):  # such as a machine without this package
        return f"{type(error.cause).__name__}: {error.cause}"
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: the job lost its worker, and that of its retry. {first}"


def _run_with_gpu(settings: JobSettings, position: str, folder: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Run a job on a worker of Ray that shows it its GPUs alone."""
    return _run(settings, position, folder, threads=None)


def _run_on_cpus(settings: JobSettings, position: str, folder: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Run a job on a worker of Ray with as many threads as it has cores."""
    import ray

    cores = int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1))
    return _run(settings, position, folder, threads=max(1, cores))


def _run(
    settings: JobSettings, position: str, folder: str, threads: int | None
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Run a job, and return its row and the content of the files that it wrote.

    Args:
        settings: What to train and test.
        position: The job's place in the whole.
        folder: Working folder of the one who asked, for relative paths; left alone where this machine has none.
        threads: Number of torch's threads; ``None`` leaves the choice to torch.
    """
    if Path(folder).is_dir():
        os.chdir(folder)
    with TemporaryDirectory() as temporary:
        row = FewShotJob(settings, Path(temporary), position, threads).run()
        written = [path for name in _LEFT_BEHIND for path in (Path(temporary) / name).rglob("*") if path.is_file()]
        return row, {path.relative_to(temporary).as_posix(): path.read_bytes() for path in written}
