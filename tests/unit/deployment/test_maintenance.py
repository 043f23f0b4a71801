# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""New normal parts and new thresholds for a trained model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from anople_anomalib.anople import AnoPLe
from anople_anomalib.commands.main import main
from anople_anomalib.data.image_reading import image_digest
from anople_anomalib.deployment.journal import check
from helpers.miniature import IMAGE_SIZE, NUM_PATCHES
from helpers.training import make_datamodule, make_engine, make_model, read


@pytest.fixture(scope="module")
def checkpoint(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File of a finished training run."""
    engine = make_engine(tmp_path_factory.mktemp("training"))
    engine.fit(make_model(epochs=1), datamodule=make_datamodule(root))
    return Path(engine.best_model_path)


@pytest.fixture
def model(checkpoint: Path) -> AnoPLe:
    """The trained model."""
    return AnoPLe.load_from_checkpoint(checkpoint, visualizer=False).eval()


def memory_distance(model: AnoPLe, image: torch.Tensor) -> float:
    features = model.model.first_features(model.pre_processor.transform(image)).features
    return model.model.memory_bank(features).max().item()


def test_an_added_part_is_normal_from_now_on_and_nothing_else_changes(model: AnoPLe) -> None:
    new = torch.rand(2, 3, 80, 70)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert memory_distance(model, new[:1]) > 1e-3
    model.extend_memory_bank(new)
    assert memory_distance(model, new[:1]) < 1e-6
    for name, value in model.state_dict().items():
        kept = value[:NUM_PATCHES] if name == "model.memory_bank.features" else value
        assert torch.equal(kept, before[name]), name
    assert len(model.model.memory_bank) == 3 * NUM_PATCHES


def test_files_and_tensors_extend_alike(model: AnoPLe, checkpoint: Path, root: Path) -> None:
    folder = root / "bottle" / "test" / "good"
    model.extend_memory_bank(folder)
    other = AnoPLe.load_from_checkpoint(checkpoint, visualizer=False)
    other.extend_memory_bank(sorted(folder.glob("*.png")))
    assert torch.equal(model.model.memory_bank.features, other.model.memory_bank.features)


def test_an_image_is_added_once(model: AnoPLe, root: Path, caplog: pytest.LogCaptureFixture) -> None:
    new = sorted((root / "bottle" / "test" / "good").glob("*.png"))[:2]
    with Image.open(new[0]) as image:
        image.save(root / "copy.bmp")
    model.extend_memory_bank([*new, root / "copy.bmp", new[1]])
    assert len(model.model.memory_bank) == 3 * NUM_PATCHES
    model.extend_memory_bank(new)
    assert len(model.model.memory_bank) == 3 * NUM_PATCHES
    assert caplog.text.count("is in the memory already: nothing is added.") == 4


def test_thresholds_are_just_above_the_largest_normal_scores(model: AnoPLe) -> None:
    images = torch.rand(3, 3, *IMAGE_SIZE)
    raw = [model.model(model.pre_processor.transform(image[None])) for image in images]
    scores, maps = torch.stack([r.pred_score for r in raw]), torch.stack([r.anomaly_map for r in raw])
    model.recompute_thresholds(images)
    processor = model.post_processor
    assert_close(processor.image_threshold, 1.001 * scores.max())
    assert_close(processor.pixel_threshold, 1.001 * maps.max())
    assert_close(torch.stack([processor.image_min, processor.image_max]), torch.stack([scores.min(), scores.max()]))
    assert_close(torch.stack([processor.pixel_min, processor.pixel_max]), torch.stack([maps.min(), maps.max()]))
    labels = torch.cat([model(image[None]).pred_label.flatten() for image in images])
    assert not labels.any()  # the images themselves are normal
    model.recompute_thresholds(images[:2])  # and nothing of the first time is left
    assert_close(processor.image_threshold, 1.001 * scores[:2].max())


def test_a_changed_model_is_saved_and_tested_like_any_other(model: AnoPLe, root: Path, tmp_path: Path) -> None:
    model.extend_memory_bank(torch.rand(1, 3, *IMAGE_SIZE))
    model.recompute_thresholds(root / "bottle" / "test" / "good")
    path = tmp_path / "folder" / "changed.ckpt"
    model.save_checkpoint(path)
    assert not any(".clip." in name for name in read(path)["state_dict"])
    restored = AnoPLe.load_from_checkpoint(path, visualizer=False).eval()
    assert restored.drawn_samples == model.drawn_samples
    image = torch.rand(1, 3, *IMAGE_SIZE)
    assert all(torch.equal(*pair) for pair in zip(restored(image), model(image), strict=True))
    engine = make_engine(tmp_path)
    results = engine.test(make_model(), datamodule=make_datamodule(root), ckpt_path=path)
    assert "image_AUROC" in results[0]


def test_the_command_does_the_same_to_a_checkpoint(
    model: AnoPLe, checkpoint: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, others = (root / "bottle" / "test" / "good" / name for name in ("000.png", "001.png"))
    more = root / "bottle" / "test" / "hole"
    output = str(tmp_path / "new.ckpt")
    files = [str(images), "--reason", "a new lot", "--threshold_images", str(others), str(more)]
    assert main(["learn-more", *files, "--model", str(checkpoint), "--output", output]) == 0
    told = capsys.readouterr().out
    assert "16 features became 32" in told
    assert "Good images above the image threshold: 0 of 3" in told
    (line,) = map(json.loads, (tmp_path / "journal.jsonl").read_text().splitlines())
    assert line["images"].keys() == {"000.png", "001.png"}
    assert (line["action"], line["reason"]) == ("learn-more", "a new lot")
    model.extend_memory_bank(images)
    model.recompute_thresholds([others, more])
    restored = AnoPLe.load_from_checkpoint(tmp_path / "new.ckpt", visualizer=False)
    for name, value in model.state_dict().items():
        assert torch.equal(restored.state_dict()[name], value), name
    assert line["model"] == restored.model_id()
    known = restored.require_thresholds().known_images
    assert {image_digest(file) for file in (images, others, *more.iterdir())} <= {*known}, "no study may rest on them"
    assert main(["learn-more", "missing", "--model", str(checkpoint), "--output", str(tmp_path / "none.ckpt")]) == 1
    assert "error: There is no image or folder" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "none.ckpt").exists()


@pytest.mark.parametrize("call", ["extend_memory_bank", "recompute_thresholds"])
def test_bad_input_changes_nothing(model: AnoPLe, call: str) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="floating-point values in"):
        getattr(model, call)([torch.rand(3, *IMAGE_SIZE), 2 * torch.ones(3, *IMAGE_SIZE)])
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(
    ("arguments", "call", "message"),
    [
        ({"enabled": False}, "extend_memory_bank", "trained with memory.enabled false"),
        ({"post_processor": False}, "recompute_thresholds", "no post-processor"),
    ],
)
def test_a_model_without_the_part_is_refused(arguments: dict[str, Any], call: str, message: str) -> None:
    model = make_model(**arguments)
    model.model.is_fitted.fill_(value=True)
    with pytest.raises(RuntimeError, match=message):
        getattr(model, call)(torch.rand(2, 3, *IMAGE_SIZE))


def test_an_untrained_model_is_refused(tmp_path: Path) -> None:
    for change in (make_model().extend_memory_bank, make_model().recompute_thresholds, make_model().save_checkpoint):
        with pytest.raises(RuntimeError, match="not trained"):
            change(tmp_path / "model.ckpt")


def test_thresholds_need_images_that_the_memory_does_not_hold(model: AnoPLe, root: Path) -> None:
    shot = root / "bottle" / "train" / "good" / model.drawn_samples["bottle"][0]
    with pytest.raises(ValueError, match=rf"{shot.name}' is in the memory itself"):
        model.recompute_thresholds([root / "bottle" / "test" / "good" / "000.png", shot])
    with pytest.raises(ValueError, match="at least two normal images that are not in the memory, got 1"):
        model.recompute_thresholds(torch.rand(3, *IMAGE_SIZE))


def test_a_copy_counts_for_no_threshold(model: AnoPLe, checkpoint: Path, root: Path, tmp_path: Path) -> None:
    good = root / "bottle" / "test" / "good"
    Image.open(good / "000.png").save(tmp_path / "copy.bmp")
    with pytest.raises(ValueError, match=r"copy\.bmp' and '.*000\.png' are the same picture: a copy is no other part"):
        model.recompute_thresholds([good, tmp_path / "copy.bmp"])
    again = torch.rand(1, 3, *IMAGE_SIZE)
    with pytest.raises(ValueError, match="'tensor 2' and 'tensor 1' are the same picture"):
        model.recompute_thresholds([again, again])
    files = ["--model", str(checkpoint), "--output", str(tmp_path / "x.ckpt"), "--images", str(good), str(tmp_path)]
    assert main(["threshold", *files]) == 1
    assert not (tmp_path / "x.ckpt").exists()


def test_a_shot_is_known_in_a_memory_that_keeps_a_part_of_it(root: Path, tmp_path: Path) -> None:
    model = make_model(epochs=1, coreset_ratio=0.2)
    make_engine(tmp_path).fit(model, datamodule=make_datamodule(root))
    shot = root / "bottle" / "train" / "good" / model.drawn_samples["bottle"][0]
    Image.open(shot).save(tmp_path / "again.tiff")
    with pytest.raises(ValueError, match=r"again\.tiff' is in the memory itself"):
        model.recompute_thresholds([root / "bottle" / "test" / "good", tmp_path / "again.tiff"])


def test_a_command_changes_the_thresholds(
    checkpoint: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new.ckpt"
    files = ["threshold", "--model", str(checkpoint), "--output", str(new)]
    main([*files, "--image_threshold", "0.25"])
    restored = AnoPLe.load_from_checkpoint(new, visualizer=False)
    assert restored.post_processor.image_threshold.item() == 0.25
    main(
        [
            *files,
            "--images",
            str(root / "bottle" / "test" / "good"),
        ]
    )
    told = capsys.readouterr().out
    rate = "Good images above the image threshold: 0 of 2 (0 %; at most 77.6 % with 95 % confidence)."
    assert f"{rate} None of them wrong, so many more parts would do: 57 prove 5 %, 147 prove 2 %" in told
    assert AnoPLe.load_from_checkpoint(new, visualizer=False).post_processor.image_threshold.item() < 0.25
    good = str(root / "bottle" / "test" / "good")
    assert main([*files, "--images", good, "--false-alarms", "0.05"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(
        "error: At most 5 % of false alarms with 95 % confidence takes 59 good parts, there are 2: 57"
    )
    assert main([*files, "--images", good, "--false-alarms", "0.9", "--confidence", "0.8"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert [line["thresholds"][0] == pytest.approx(0.25) for line in lines] == [True, False, False]
    assert check(tmp_path / "journal.jsonl")[::2] == (3, "")
    with pytest.raises(SystemExit, match="2"):
        main([*files, "--false-alarms", "0.5"])
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: Give --images,")
