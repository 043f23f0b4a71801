# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""A training run on two processes through anomalib's command line."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from anomalib.engine import Engine
from PIL import Image, ImageChops

from anople_anomalib import AnoPLe
from anople_anomalib.data.image_inputs import each_image
from helpers.folders import write_category
from helpers.miniature import NUM_PATCHES
from helpers.training import make_datamodule

SHOTS = 3
"""One more than the processes can share equally."""


@pytest.mark.slow
def test_two_processes_train_one_model(
    tmp_path: Path, run_python: Callable[..., subprocess.CompletedProcess[str]], repository: Path
) -> None:
    """One checkpoint, whose memory holds every shot once, and metrics as of one process."""
    root = write_category(tmp_path / "data")
    (root / "bottle" / "test" / "good" / "001.png").unlink()  # three are left, which two processes cannot share equally
    for mask in (root / "bottle" / "ground_truth" / "hole").iterdir():  # no model is right about these
        with Image.open(mask) as image:
            ImageChops.offset(image, 25, 10).save(mask)
    arguments = f"""
        train --model AnoPLe --model.backbone anople-tiny --model.k_shot {SHOTS} --model.visualizer false
        --data MVTecAD --data.root {root} --data.category bottle --data.num_workers 0 --data.eval_batch_size 1
        --trainer.accelerator cpu --trainer.strategy ddp --trainer.devices 2 --trainer.max_epochs 1
        --trainer.enable_progress_bar false --default_root_dir {tmp_path / "results"}
    """
    script = tmp_path / "train.py"  # what pip makes of anomalib's command; the second process starts it again
    script.write_text("from anomalib.cli.cli import main\n\nif __name__ == '__main__':\n    main()\n")
    result = run_python(script, *arguments.split(), path=repository)
    assert result.returncode == 0, result.stderr[-2000:]

    checkpoints = list((tmp_path / "results").rglob("*.ckpt"))
    assert len(checkpoints) == 1
    state = torch.load(checkpoints[0], weights_only=True)["state_dict"]
    model = AnoPLe.load_from_checkpoint(checkpoints[0], visualizer=False).eval()
    turns = int(state["model.second_memory.turns"].sum())  # which both processes have chosen together
    second = SHOTS * turns * 1024
    banks = {"model.memory_bank.features": SHOTS * 225, "model.second_memory.memory_bank.features": second}
    assert {name: len(state[name]) for name in banks} == banks
    model.extend_memory_bank([root / "bottle" / "train" / "good" / name for name in model.drawn_samples["bottle"]])
    for name, number in banks.items():
        again = model.state_dict()[name][number:]
        torch.testing.assert_close(state[name], again, atol=1e-4, rtol=1e-4)  # every shot once, in its order

    engine = Engine(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path / "test")
    restored = AnoPLe.load_from_checkpoint(checkpoints[0], visualizer=False)
    expected = engine.test(restored, datamodule=make_datamodule(root))[0]
    for name, value in expected.items():
        printed = re.search(rf"{name}\W+([0-9.]+)", result.stdout)
        assert printed is not None, result.stdout
        assert float(printed[1]) == pytest.approx(value, abs=1e-3), name


PER_CATEGORY = """
import sys
from pathlib import Path

from anople_anomalib.data import FewShot
from helpers.training import make_datamodule, make_engine, make_model

root, results = map(Path, sys.argv[1:])
second = {"memory_backbone": "efficientnet-lite0", "memory_image_size": 96, "memory_rotations": False}
model = make_model(memory_per_category=True, epochs=1, **second)
datamodule = FewShot(make_datamodule(root), categories=["screw", "cable", "bottle"], k_shot=1)
make_engine(results, strategy="ddp", devices=2, logger=False).fit(model, datamodule=datamodule)
"""


@pytest.mark.slow
def test_two_processes_keep_categories_apart(
    tmp_path: Path, run_python: Callable[..., subprocess.CompletedProcess[str]], repository: Path
) -> None:
    """Each shot is the nearest to itself, and in the memory of its own category; three do not divide by two."""
    for name in ("screw", "cable", "bottle"):
        write_category(tmp_path / "data", name, train_names=[f"{name} {number}" for number in range(2)])
    script = tmp_path / "train.py"
    script.write_text(PER_CATEGORY)
    result = run_python(script, tmp_path / "data", tmp_path, path=repository / "tests")
    assert result.returncode == 0, result.stderr[-2000:]

    (checkpoint,) = tmp_path.rglob("*.ckpt")
    model = AnoPLe.load_from_checkpoint(checkpoint, visualizer=False).eval()
    banks = {
        "first": (model.model.memory_bank, NUM_PATCHES),
        "second": (model.model.second_memory.memory_bank, 12 * 12),
    }
    for number, category in enumerate(model.drawn_samples):
        (name,) = model.drawn_samples[category]
        (image,) = each_image(tmp_path / "data" / category / "train" / "good" / name)
        features = model.model.shot_features(model.pre_processor.transform(image))
        for part, (bank, patches) in banks.items():
            assert bank.lengths.tolist() == 3 * [patches]
            rows = bank.features[number * patches : (number + 1) * patches]
            expected = bank._prepare(getattr(features, part)).flatten(end_dim=-2)  # as they are kept
            torch.testing.assert_close(rows, expected, atol=1e-4, rtol=1e-4)
