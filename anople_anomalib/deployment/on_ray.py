# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Images judged on a cluster of Ray, by an exported model in each of its workers.

The machines need this package, the model and the images at the same paths. Ray judges again the images that a worker
that died had not handed over; rows are written here, in the order of the images.
"""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from anople_anomalib.utils.cluster import import_ray, running

from .exported import ExportedModel
from .regions import Region
from .runtime import Frame, frame_of, row_of
from .table import message_of

_AT_ONCE = (
    64  # images that a worker takes, and has to judge again where it dies: about a second of Ray's time for 1,000
)


class _Worker:
    """A model in a process of Ray."""

    def __init__(self, graph: Path, pictures: Path | None, folder: str) -> None:
        if Path(folder).is_dir():  # that of the one who asked, for relative paths
            os.chdir(folder)
        self._model, self._pictures = ExportedModel(graph), pictures

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Judge images by their files and names."""
        frames = (frame_of(path, name) for path, name in zip(batch["path"], batch["name"], strict=True))
        return {"row": [json.dumps(message_of(row_of(frame, self._model, self._pictures))) for frame in frames]}


def rows_on_ray(
    frames: Sequence[Frame], model: ExportedModel, pictures: Path | None = None
) -> Iterator[tuple[Frame, dict[str, Any]]]:
    """Judge image files as :func:`.rows_of_frames` does, on the cluster of ``RAY_ADDRESS``, else on this machine.

    Raises:
        ImportError: If Ray or its part for data is not installed.
        RuntimeError: If a worker cannot judge, whatever the image is.
    """
    ray = import_ray()
    try:
        from ray import data
    except ImportError as error:
        msg = '--engine ray needs Ray and pyarrow: pip install "ray[data]" pyarrow.'
        raise ImportError(msg) from error
    if not frames:
        return
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # faults are raised
    context = data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    with running(ray):
        workers = max(1, min(int(ray.cluster_resources().get("CPU", 1)), len(frames)))
        items = [{"path": frame.path, "name": frame.name} for frame in frames]
        tasks = max(workers, len(items) // _AT_ONCE)
        judged = data.from_items(items, override_num_blocks=tasks).map_batches(
            _Worker,
            batch_size=None,
            compute=data.ActorPoolStrategy(min_size=1, max_size=workers),
            fn_constructor_args=(model.path.absolute(), pictures and pictures.absolute(), str(Path.cwd())),
            num_cpus=1,
        )
        try:
            for frame, found in zip(frames, judged.iter_rows(), strict=True):
                row = json.loads(found["row"])
                yield frame, {**row, "regions": [Region(**each) for each in row["regions"]]}
        except ray.exceptions.RayError as error:
            msg = f"The workers of Ray cannot judge: {str(error).strip().splitlines()[-1]}"  # below the traceback
            raise RuntimeError(msg) from error
