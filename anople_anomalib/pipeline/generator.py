# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""The jobs of a comparison, for anomalib's runners."""

from pathlib import Path
from typing import Any

from anomalib.pipelines.components import JobGenerator
from anomalib.pipelines.types import PREV_STAGE_RESULT

from .job import FewShotJob
from .results import ResultsTable
from .settings import expand_jobs


class FewShotJobGenerator(JobGenerator):
    """Generator of the jobs that are not done yet.

    Args:
        accelerator: Lightning's name of the accelerator.
        folder: Folder of the comparison; what its results hold already is skipped.
        threads: Number of torch's threads per job on a CPU; ``None`` leaves the choice to torch.
    """

    def __init__(self, accelerator: str, folder: Path, threads: int | None = None) -> None:
        self.accelerator = accelerator
        self.folder = folder
        self.threads = threads

    @property
    def job_class(self) -> type[FewShotJob]:
        """The class of the jobs."""
        return FewShotJob

    def generate_jobs(  # type: ignore[override]  # anomalib's runners take any iterable, and show the length of a list
        self,
        args: dict[str, Any] | None = None,
        prev_stage_result: PREV_STAGE_RESULT = None,
    ) -> list[FewShotJob]:
        """Return the jobs of a ``fewshot`` section.

        Args:
            args: The section.
            prev_stage_result: Not used.

        Returns:
            The jobs, as a list: anomalib's runner shows how many there are.

        Raises:
            ValueError: If the section is not valid.
        """
        del prev_stage_result
        done = ResultsTable(self.folder).done()
        settings = [job for job in expand_jobs(args or {}, self.accelerator) if job.job_id not in done]
        return [
            FewShotJob(job, self.folder, f"{number}/{len(settings)}", self.threads)
            for number, job in enumerate(settings, start=1)
        ]
