#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# anomalib's Folder with good parts alone sets a fifth of them aside for a test that has no defect, and another fifth every time.
#
# Guess: `Folder(normal_dir="good")` without test folders trains on all the photographs in `good`; a split, if any, is the same in
# every run, since everything else of a datamodule is.
# Seen: of 10 photographs 8 train. The 2 others are the test set: good ones alone, on which AUROC is not defined. Which 2 changes from one instance to
# the next, since the datamodule's own `seed` is None and nothing else seeds the split: two runs of one command
# train on different parts. `val_split_mode="none"`, which reads as "no splits", leaves it so; the argument is `test_split_mode="none"`.
# Who is hurt: the one with four photographs of good parts, and anybody who compares two runs, thresholds above all.
# anomalib 2.7.0, data/datamodules/base/image.py, _create_test_split; data/utils/split.py, random_split.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/environment"
"$work/environment/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 torchvision==0.29.1 anomalib==2.7.0
cd "$work"
"$work/environment/bin/python" -W ignore - <<'PYTHON'
import logging
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

logging.disable(logging.WARNING)
from anomalib.data import Folder

print("anomalib", version("anomalib"))
Path("good").mkdir()
for number in range(10):
    Image.fromarray(np.full((32, 32, 3), 10 * number, dtype=np.uint8)).save(f"good/{number}.png")

tests = set()
for _ in range(8):
    data = Folder("part", normal_dir="good", val_split_mode="none", num_workers=0)
    data.setup()
    assert len(data.train_data) == 8
    tests.add(tuple(sorted(Path(path).stem for path in data.test_data.samples.image_path)))
print("8 of 10 train; test sets of eight runs:", sorted(tests))
assert all(len(names) == 2 for names in tests)
assert len(tests) > 1

data = Folder("part", normal_dir="good", val_split_mode="none", test_split_mode="none", num_workers=0)
data.setup()
print("with test_split_mode none:", len(data.train_data))
assert len(data.train_data) == 10
PYTHON
