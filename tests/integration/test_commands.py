# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Every command of anomalib's engine and command line: with a fresh, a trained and a saved model."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from anomalib.data import MVTecAD, PredictDataset
from anomalib.deploy import ExportType, TorchInferencer
from anomalib.engine import Engine
from anomalib.models import AnomalibModule, get_model
from lightning_utilities.core.imports import module_available

from helpers.command_line import MODEL, anomalib, data_arguments
from helpers.training import make_datamodule, make_engine, make_model

pytestmark = pytest.mark.usefixtures("_quiet_process")
needs_onnx = pytest.mark.skipif(
    not (module_available("onnx") and module_available("onnxscript")), reason="needs the extra [export]"
)
needs_openvino = pytest.mark.skipif(not module_available("openvino"), reason="needs the extra [export]")
EXPORTS = [
    "torch",
    pytest.param("onnx", marks=needs_onnx),
    pytest.param("openvino", marks=[needs_onnx, needs_openvino]),
]
PREDICT = """
import sys
from anomalib.data import PredictDataset
from anomalib.engine import Engine
from anomalib.models import get_model
checkpoint, images, results = sys.argv[1:]
engine = Engine(logger=False, accelerator="cpu", default_root_dir=results, enable_progress_bar=False)
model = get_model("ano_p_le", backbone="anople-tiny", visualizer=False)
batches = engine.predict(model, dataset=PredictDataset(images), ckpt_path=checkpoint)
print("scores", *(batch.pred_score.item().hex() for batch in batches))
"""


class TestSequence:
    """The sequence that anomalib's integration tests run on each of its models."""

    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
        """Results of a training run by name, with default batch sizes and workers, and one epoch."""
        folder = tmp_path_factory.mktemp("sequence")
        model, _, engine = self.objects(folder, images)
        datamodule = MVTecAD(root=images, category="bottle", train_batch_size=2)
        engine.fit(model=model, datamodule=datamodule)
        return folder

    @staticmethod
    def objects(folder: Path, images: Path) -> tuple[AnomalibModule, MVTecAD, Engine]:
        model = get_model("ano_p_le", backbone="anople-tiny")
        datamodule = MVTecAD(root=images, category="bottle", train_batch_size=2, num_workers=0)
        engine = Engine(logger=False, default_root_dir=folder, max_epochs=1, devices=1, accelerator="cpu")
        return model, datamodule, engine

    @staticmethod
    def checkpoint(folder: Path) -> Path:
        return folder / "AnoPLe" / "MVTecAD" / "bottle" / "v0" / "weights" / "lightning" / "model.ckpt"

    @pytest.mark.parametrize("command", ["test", "train", "validate", "predict"])
    def test_commands_from_the_checkpoint(self, folder: Path, images: Path, command: str) -> None:
        model, datamodule, engine = self.objects(folder, images)
        result = getattr(engine, command)(model=model, datamodule=datamodule, ckpt_path=str(self.checkpoint(folder)))
        if command in {"test", "train"}:
            assert result[0]["image_AUROC"] > 0.5
            assert result[0]["pixel_AUROC"] > 0.5
        elif command == "predict":
            labels = torch.cat([batch.pred_label for batch in result])
            assert labels.numel() == 8
            assert labels.any()

    def test_a_test_says_where_its_images_are(
        self, folder: Path, images: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        model, datamodule, engine = self.objects(folder, images)
        with caplog.at_level("INFO", logger="anople_anomalib.training.hooks"):
            engine.test(model=model, datamodule=datamodule, ckpt_path=str(self.checkpoint(folder)))
        (said,) = [record.args[0] for record in caplog.records if record.msg.startswith("Heat maps")]
        assert (Path(said) / "hole" / "000.png").is_file()

    @pytest.mark.parametrize("export_type", EXPORTS)
    @pytest.mark.export
    @pytest.mark.slow
    def test_exports_from_the_checkpoint(self, folder: Path, images: Path, export_type: str) -> None:
        model, _, engine = self.objects(folder, images)
        path = engine.export(model=model, ckpt_path=str(self.checkpoint(folder)), export_type=ExportType(export_type))
        assert path.suffix == {"torch": ".pt", "onnx": ".onnx", "openvino": ".xml"}[export_type]
        assert LOADERS[export_type](path, images / "bottle" / "test" / "hole" / "000.png")

    def test_a_new_process_predicts_the_same(
        self, folder: Path, images: Path, tmp_path: Path, run_python: Callable
    ) -> None:
        model, _, engine = self.objects(tmp_path, images)
        dataset = PredictDataset(images / "bottle" / "test" / "hole")
        batches = engine.predict(model, dataset=dataset, ckpt_path=self.checkpoint(folder))
        process = run_python("-c", PREDICT, self.checkpoint(folder), dataset.image_filenames[0].parent, tmp_path)
        assert process.returncode == 0, process.stderr
        scores = [line.split()[1:] for line in process.stdout.splitlines() if line.startswith("scores")]
        assert scores == [[batch.pred_score.item().hex() for batch in batches]]


def _load_torch(path: Path, image: Path) -> bool:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRUST_REMOTE_CODE", "1")
        return TorchInferencer(path, device="cpu").predict(image).pred_score.isfinite().all().item()


def _load_onnx(path: Path, image: Path) -> bool:
    import onnx

    del image
    model = onnx.load(path)
    onnx.checker.check_model(path)
    return {"pred_score", "anomaly_map"} <= {output.name for output in model.graph.output}


def _load_openvino(path: Path, image: Path) -> bool:
    from anomalib.deploy import OpenVINOInferencer

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path.parent)  # anomalib's inferencer keeps a cache where it runs
        result = OpenVINOInferencer(path, device="CPU").predict(str(image))
    return bool((result.pred_score >= 0).all())


LOADERS = {"torch": _load_torch, "onnx": _load_onnx, "openvino": _load_openvino}


def test_a_model_in_memory_takes_every_command(images: Path, tmp_path: Path) -> None:
    model, datamodule = make_model(), make_datamodule(images)
    engine = make_engine(tmp_path)
    engine.fit(model, datamodule=datamodule)
    engine.validate(model, datamodule=datamodule)
    (tested,) = engine.test(model, datamodule=datamodule)
    predicted = engine.predict(model, datamodule=datamodule)
    assert engine.export(model, "torch", export_root=tmp_path).is_file()
    assert tested["image_AUROC"] > 0.5
    (alone,) = make_engine(tmp_path).test(model, datamodule=make_datamodule(images))  # another engine
    assert alone == tested
    (again,) = make_engine(tmp_path).predict(model, datamodule=make_datamodule(images))
    assert torch.equal(again.pred_score, predicted[0].pred_score)


class TestCommandLine:
    """``anomalib COMMAND --model AnoPLe``."""

    @pytest.fixture(scope="class")
    def checkpoint(self, tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
        """File of ``anomalib fit``."""
        results = tmp_path_factory.mktemp("command_line")
        anomalib("fit", *MODEL, *data_arguments(images), "--trainer.max_epochs", "1", results=results)
        return results / "AnoPLe" / "MVTecAD" / "bottle" / "v0" / "weights" / "lightning" / "model.ckpt"

    def test_train_writes_a_image_of_every_test_image_and_a_checkpoint(self, images: Path, tmp_path: Path) -> None:
        anomalib("train", *MODEL, *data_arguments(images), "--model.training.epochs", "1", results=tmp_path)
        folder = tmp_path / "AnoPLe" / "MVTecAD" / "bottle" / "latest"
        assert len(list(folder.rglob("images/*/*.png"))) == 8
        assert (folder / "weights" / "lightning" / "model.ckpt").is_file()

    @pytest.mark.parametrize("command", ["validate", "test", "predict"])
    def test_commands_from_a_checkpoint(self, checkpoint: Path, images: Path, tmp_path: Path, command: str) -> None:
        cli = anomalib(command, *MODEL, *data_arguments(images), "--ckpt_path", checkpoint, results=tmp_path)
        assert cli.model.is_finalized
        assert cli.model.drawn_samples["bottle"]

    @pytest.mark.parametrize(
        "data",
        [
            ("--data", "{}"),
            ("--data", "{}/000.png"),
            ("--data", "anomalib.data.PredictDataset", "--data.path", "{}"),
        ],
        ids=["folder", "image", "PredictDataset"],
    )
    def test_predict_takes_images(self, checkpoint: Path, images: Path, tmp_path: Path, data: tuple[str, ...]) -> None:
        source = images / "bottle" / "test" / "hole"
        data = [argument.format(source) for argument in data]
        anomalib("predict", *MODEL, *data, "--ckpt_path", checkpoint, results=tmp_path)
        written = {path.name for path in tmp_path.rglob("images/**/*.png")}
        assert written == ({"000.png"} if data[-1].endswith(".png") else {path.name for path in source.iterdir()})

    def test_export_from_a_checkpoint(self, checkpoint: Path, tmp_path: Path) -> None:
        anomalib("export", *MODEL, "--export_type", "torch", "--ckpt_path", checkpoint, results=tmp_path)
        assert (tmp_path / "weights" / "torch" / "model.pt").is_file()
