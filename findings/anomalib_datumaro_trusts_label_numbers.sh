#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# anomalib's Datumaro takes label number 0 for good and number 1 for defective, whatever their names are, and drops the rest.
#
# Guess: labels are told apart by their names ("good", "Normal"), as everywhere else in anomalib; a label that fits neither is an error.
# Seen: with the labels exported in the order ("scratch", "good"), the scratched part is the training set, and the good ones are
# tested as defects. With ("Normal", "scratch", "dent"), the dented parts are in no subset, with no message. The number is the position
# in the file's list, which annotation tools fill in the order of creation.
# Who is hurt: whoever exports from an annotation tool where the defect was created first: the model learns the defect as good, and the
# image AUROC may even look fine with its sign turned.
# anomalib 2.7.0, data/datasets/image/datumaro.py, make_datumaro_dataset.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/environment"
"$work/environment/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 torchvision==0.29.1 anomalib==2.7.0
cd "$work"
"$work/environment/bin/python" -W ignore - <<'PYTHON'
import json
import logging
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

logging.disable(logging.WARNING)
from anomalib.data.datasets import DatumaroDataset

print("anomalib", version("anomalib"))


def export(root, labels, images):
    (root / "images/default").mkdir(parents=True)
    (root / "annotations").mkdir()
    items = []
    for name, label in images.items():
        Image.fromarray(np.zeros((32, 32, 3), dtype=np.uint8)).save(root / "images/default" / name)
        mark = {"id": 0, "type": "label", "label_id": labels.index(label)}
        items.append({"id": name, "image": {"path": name, "size": [32, 32]}, "annotations": [mark]})
    known = [{"name": label, "parent": "", "attributes": []} for label in labels]
    content = {"info": {}, "categories": {"label": {"labels": known, "attributes": []}}, "items": items}
    (root / "annotations/default.json").write_text(json.dumps(content))


def subsets(root):
    return {
        split: sorted(Path(path).stem for path in DatumaroDataset(root, split=split).samples.image_path)
        for split in ("train", "test")
    }


export(Path("turned"), ["scratch", "good"], {"good_0.png": "good", "good_1.png": "good", "scratched.png": "scratch"})
turned = subsets(Path("turned"))
print("labels scratch, good:", turned)
assert turned == {"train": ["scratched"], "test": ["good_0", "good_1"]}

three = {"good.png": "Normal", "scratched.png": "scratch", "dented.png": "dent"}
export(Path("three"), ["Normal", "scratch", "dent"], three)
kept = subsets(Path("three"))
print("labels Normal, scratch, dent:", kept)
assert kept == {"train": ["good"], "test": ["scratched"]}
PYTHON
