# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Exported models get other thresholds, in their own format."""

from inspect import signature
from math import ceil
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.deploy import CompressionType

from anople_anomalib.anople import AnoPLe
from anople_anomalib.commands.threshold import main
from anople_anomalib.data.image_inputs import each_image
from anople_anomalib.deployment.exported_thresholds import ExportedModel, read_exported
from anople_anomalib.metrics.post_processing import ExactPostProcessor
from anople_anomalib.metrics.score_histogram import ScoreHistogram
from anople_anomalib.metrics.thresholds import threshold_for
from helpers.folders import SIZE, write_category
from helpers.training import make_datamodule, make_model, train_model

pytestmark = pytest.mark.export


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of a tiny data set."""
    return write_category(tmp_path_factory.mktemp("data"), num_test=5)


@pytest.fixture(scope="module")
def model(root: Path, tmp_path_factory: pytest.TempPathFactory) -> AnoPLe:
    """A trained model of a sensitivity at which verdicts are not those of the threshold itself."""
    processor = ExactPostProcessor(image_sensitivity=0.4)
    return train_model(root, tmp_path_factory.mktemp("training"), post_processor=processor)


def export(model: AnoPLe, kind: str, folder: Path, root: Path) -> Path:
    if kind != "torch" and not signature(torch.onnx.export).parameters["optimize"].default:
        pytest.skip("this torch's exporter folds no constants, and leaves no threshold to be changed")
    half, weights, all_int8 = CompressionType.FP16, CompressionType.INT8, CompressionType.INT8_PTQ
    data = make_datamodule(root)
    data.setup()
    exports: dict[str, Any] = {
        "torch": lambda: model.to_torch(folder),
        "onnx": lambda: model.to_onnx(folder),
        "openvino": lambda: model.to_openvino(folder),
        "openvino_fp16": lambda: model.to_openvino(folder, compression_type=half),
        "openvino_int8": lambda: model.to_openvino(folder, compression_type=weights),
        "openvino_int8_ptq": lambda: model.to_openvino(
            folder, input_size=SIZE, compression_type=all_int8, datamodule=data
        ),
    }
    return exports[kind]()


def judged(path: Path, image: torch.Tensor) -> dict[str, torch.Tensor]:
    """Run an exported model as its users do."""
    if path.suffix == ".pt":
        with torch.no_grad():
            return torch.load(path, weights_only=False)["model"].eval()(image)._asdict()
    import openvino

    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled(image.numpy())
    return {next(iter(output.get_names())): torch.from_numpy(found[output].copy()) for output in compiled.outputs}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["torch", "onnx", "openvino", "openvino_fp16"])
def test_every_format_takes_thresholds_by_value_and_by_rule(
    model: AnoPLe, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    if kind != "torch":
        pytest.importorskip("openvino")
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    path = export(model, kind, tmp_path, root)
    folder, exported = root / "bottle" / "test" / "good", read_exported(path)
    rough = 0.01 if kind == "openvino_fp16" else 1e-4
    processor = model.post_processor
    assert exported.thresholds()["image"] == pytest.approx(float(processor.image_threshold), rel=rough)
    assert exported.thresholds()["pixel"] == pytest.approx(float(processor.pixel_threshold), rel=rough)

    images = list(each_image(folder))
    with torch.no_grad():
        raw = [model.model(model.pre_processor.transform(image)) for image in images]
    scores = [found.pred_score.item() for found in raw]
    assert [exported.raw_scores(image)[0] for image in images] == pytest.approx(scores, rel=rough)

    at, image = scores[0], images[0]  # the score itself is the threshold: a normalized score of one half
    arguments = ["--exported", str(path), "--output", str(path)]
    main([*arguments, "--image_threshold", str(at), "--pixel_threshold", str(2 * float(processor.pixel_threshold))])
    found = judged(path, image)
    assert found["pred_score"].item() == pytest.approx(0.5, abs=rough)
    assert not found["pred_label"].item()  # which takes 0.6
    highest = raw[0].anomaly_map.max().item()
    assert found["anomaly_map"].max().item() == pytest.approx(
        highest / (highest + 2 * float(processor.pixel_threshold)), abs=rough
    )
    main([*arguments, "--image_threshold", str(at / 2)])
    found = judged(path, image)
    assert found["pred_score"].item() == pytest.approx(2 / 3, abs=rough)
    assert found["pred_label"].item()

    main([*arguments, "--images", str(folder), "--quantile", "1"])
    assert read_exported(path).thresholds()["image"] == pytest.approx(1.001 * max(scores), rel=rough)
    main([*arguments, "--images", str(folder), "--false_alarm_rate", "0.5"])
    assert_follows_rate(read_exported(path), scores)
    assert [file.name for file in path.parent.iterdir() if file.name.startswith(".")] == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["openvino_int8", "openvino_int8_ptq"])
def test_int8_takes_thresholds_of_its_own_scores(
    model: AnoPLe, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    """The scores of INT8 are not those of the model, the threshold of a rule is."""
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    path = export(model, kind, tmp_path, root)
    folder, exported = root / "bottle" / "test" / "good", read_exported(path)
    assert exported.thresholds()["image"] == pytest.approx(float(model.post_processor.image_threshold), rel=1e-3)
    images = list(each_image(folder))
    scores = [exported.raw_scores(image)[0] for image in images]
    arguments = ["--exported", str(path), "--output", str(path)]
    for factor, bad in ((1.0, False), (0.5, True)):  # a normalized score of one half, of two thirds; 0.6 is NOT OK
        main([*arguments, "--image_threshold", str(factor * scores[0])])
        found = judged(path, images[0])
        assert found["pred_score"].item() == pytest.approx(1 / (1 + factor), abs=1e-3)
        assert bool(found["pred_label"].item()) == bad
    main([*arguments, "--images", str(folder), "--false_alarm_rate", "0.5"])
    assert_follows_rate(read_exported(path), scores)
    main([*arguments, "--images", str(folder), "--false_alarm_rate", "0.01"])
    assert "from 5 good images" in capsys.readouterr().out
    assert read_exported(path).thresholds()["image"] == pytest.approx(1.001 * max(scores), rel=1e-3)


def assert_follows_rate(exported: ExportedModel, scores: list[float]) -> None:
    """Assert that a threshold is the one by which half of new images are flagged."""
    histogram = ScoreHistogram()
    histogram.update(torch.tensor(scores), torch.zeros(len(scores)))
    threshold = exported.thresholds()["image"]
    assert threshold == pytest.approx(threshold_for(histogram, false_alarm_rate=0.5), rel=0.01)
    assert sum(score < threshold for score in scores) == ceil(0.5 * (len(scores) + 1))


def test_what_cannot_be_changed_says_what_to_do(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TRUST_REMOTE_CODE", raising=False)
    model = make_model(post_processor=False)
    model.prepare_texts("object")
    model.model.refresh_text_features()
    model.model.memory_bank.build(torch.randn(40, model.model.clip.visual.width))
    model.model.is_fitted.fill_(value=True)
    path = model.to_torch(tmp_path)
    with pytest.raises(ValueError, match="set TRUST_REMOTE_CODE=1 if you trust its source"):
        read_exported(path)
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    with pytest.raises(ValueError, match=r"change those of its checkpoint \(--ckpt_path\), export again"):
        read_exported(path)
    (tmp_path / "text.pt").write_text("no model")
    with pytest.raises(ValueError, match="cannot be read"):
        read_exported(tmp_path / "text.pt")
    with pytest.raises(FileNotFoundError, match="There is no exported model"):
        read_exported(tmp_path / "none.onnx")
    with pytest.raises(ValueError, match=r"is a file \.pt, \.onnx or \.xml"):
        read_exported(next((root / "bottle" / "test" / "good").iterdir()))
    with pytest.raises(SystemExit, match="There is no exported model"):
        main(["--exported", str(tmp_path / "none.xml"), "--output", str(tmp_path / "x.xml"), "--image_threshold", "1"])
    with pytest.raises(SystemExit, match=r"error: There is no checkpoint '/none.ckpt': check the path"):
        main(["--ckpt_path", "/none.ckpt", "--output", str(path), "--image_threshold", "1"])
    for wrong in (["--image_threshold", "1"], ["--exported", str(path), "--quantile", "1"]):
        with pytest.raises(SystemExit):
            main([*wrong, "--output", str(path)])
    assert "give --ckpt_path or --exported" in capsys.readouterr().err
