#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Lightning hands a photograph to the model only after it has fetched the next one, where a loader has no length.
#
# Guess: `Trainer.predict` over an iterable data set of a camera judges every picture when it is there.
# Seen: with a data set that has no `__len__`, picture 0 is judged after picture 1 was taken, and so on: the last part before a break
# waits for the first one after it. A `__len__`, even a wrong one, ends it: then every picture is judged at once. The fetcher
# prefetches one batch to learn whether the present one is the last, and needs that for nothing in a prediction.
# Who is hurt: a station that waits for the verdict before it releases the part: the next picture never comes, and it stands still.
# What helps: give the data set a length that is never reached.
# lightning 2.6.6, lightning/pytorch/loops/fetchers.py, _PrefetchDataFetcher.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/environment"
"$work/environment/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 lightning==2.6.6
cd "$work"
"$work/environment/bin/python" -W ignore - <<'PYTHON'
import logging

import lightning
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader, IterableDataset

logging.disable(logging.WARNING)
print("lightning", lightning.__version__, "torch", torch.__version__)
events = []


class Camera(IterableDataset):
    def __iter__(self):
        for number in range(3):
            events.append(f"{number} taken")
            yield torch.tensor([float(number)])


class CameraWithLength(Camera):
    def __len__(self):
        return 3


class Model(LightningModule):
    def predict_step(self, batch, batch_idx):
        events.append(f"{int(batch[0])} judged")


quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
seen = {}
for camera in (Camera(), CameraWithLength()):
    events.clear()
    Trainer(accelerator="cpu", **quiet).predict(Model(), DataLoader(camera, batch_size=None), return_predictions=False)
    seen[type(camera).__name__] = list(events)
    print(type(camera).__name__, events)
assert seen["Camera"] == ["0 taken", "1 taken", "0 judged", "2 taken", "1 judged", "2 judged"]
assert seen["CameraWithLength"] == ["0 taken", "0 judged", "1 taken", "1 judged", "2 taken", "2 judged"]
PYTHON
