# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Speed, size and fidelity of AnoPLe's exports: torch, ONNX, and OpenVINO in float32, FP16 and INT8.

A model is trained on one shot of a category, exported in every format, and asked about every test image, one at a
time. The differences are the largest ones from the trained model, over normalized scores and maps in [0, 1].

Usage:
    python benchmarks/export.py
    python benchmarks/export.py --category grass --epochs 60
    python benchmarks/export.py --precision bf16        # OpenVINO in bfloat16, its default on CPUs that have it
    python benchmarks/export.py --any-size              # files for images of any size
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import openvino
import torch
from anomalib.data import ImageBatch
from anomalib.data.utils import read_image
from anomalib.deploy import CompressionType, OpenVINOInferencer, TorchInferencer
from anomalib.engine import Engine
from torchmetrics.functional.classification import binary_auroc

from anople_anomalib import AnoPLe, TrainingConfig
from anople_anomalib.data import SampleTextures

Predict = Callable[[torch.Tensor], ImageBatch]


def main() -> None:
    """Train, export, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--category", default="brick")
    parser.add_argument("--backbone", default="anople-tiny")
    parser.add_argument("--pretrained")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32", help="of OpenVINO's computations")
    parser.add_argument("--any-size", action="store_true", help="write files that take images of any size")
    arguments = parser.parse_args()
    os.environ["TRUST_REMOTE_CODE"] = "1"  # the torch file is written a moment before it is read
    datamodule = SampleTextures(category=arguments.category)
    model = AnoPLe(
        preset="offline",
        backbone=arguments.backbone,
        pretrained=arguments.pretrained,
        training=TrainingConfig(epochs=arguments.epochs),
        visualizer=False,
    )
    engine = Engine(logger=False, enable_progress_bar=False)
    engine.fit(model, datamodule=datamodule)
    samples = datamodule.test_data.samples
    images = [read_image(path, as_tensor=True).unsqueeze(0) for path in samples.image_path]
    labels = torch.tensor(samples.label_index.tolist()).int()

    versions = f"torch {torch.__version__}, OpenVINO {openvino.__version__}, {torch.get_num_threads()} threads"
    print(f"\n{arguments.backbone}, {arguments.category}, {len(images)} images, {versions}, {arguments.precision}\n")
    print("| file | MB | ms per image | score difference | map difference | image AUROC |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        os.chdir(folder)  # OpenVINO's inferencer keeps a cache where it runs
        expected = [model.eval()(image) for image in images]
        scores, maps = (torch.cat([getattr(one, name) for one in expected]) for name in ("pred_score", "anomaly_map"))
        size = None if arguments.any_size else tuple(images[0].shape[-2:])
        datamodule = SampleTextures(category=arguments.category)  # the trained one's images come resized
        for name, (path, predict) in exports(model, datamodule, Path(folder), size, arguments.precision).items():
            print(f"| {name} | {megabytes(path):.1f} | {compare(predict, images, scores, maps, labels)} |", flush=True)


def exports(
    model: AnoPLe, datamodule: SampleTextures, folder: Path, size: tuple[int, int] | None, precision: str
) -> dict[str, tuple[Path, Predict]]:
    """Write every format; its file and what predicts with it, by name."""
    config = {"INFERENCE_PRECISION_HINT": precision}
    torch_file = model.to_torch(folder)
    detector = TorchInferencer(torch_file, device="cpu")
    written = {"torch": (torch_file, detector.predict), "torch, bf16 autocast": (torch_file, _autocast(detector))}
    onnx_file = model.to_onnx(folder, input_size=size)
    written["ONNX, run by OpenVINO"] = (onnx_file, OpenVINOInferencer(onnx_file, "CPU", config).predict)
    for name, compression in {
        "OpenVINO": None,
        "OpenVINO FP16": CompressionType.FP16,
        "OpenVINO INT8 weights": CompressionType.INT8,
        "OpenVINO INT8 PTQ": CompressionType.INT8_PTQ,
    }.items():
        path = model.to_openvino(
            folder, str(compression), input_size=size, compression_type=compression, datamodule=datamodule
        )
        written[name] = path, OpenVINOInferencer(path, "CPU", config).predict
    return written


def _autocast(inferencer: TorchInferencer) -> Predict:
    def predict(image: torch.Tensor) -> ImageBatch:
        with torch.autocast("cpu", torch.bfloat16):
            return inferencer.predict(image)

    return predict


def megabytes(path: Path) -> float:
    """Return the size of a file and of those that belong to it."""
    return sum(part.stat().st_size for part in path.parent.glob(f"{path.stem}.*")) / 1e6


def compare(
    predict: Predict, images: list[torch.Tensor], scores: torch.Tensor, maps: torch.Tensor, labels: torch.Tensor
) -> str:
    """Return time, differences and AUROC as cells of the table."""
    predict(images[0])
    seconds, own_scores, map_difference = [], [], 0.0
    for image, expected in zip(images, maps, strict=True):
        start = time.perf_counter()
        prediction = predict(image)
        seconds.append(time.perf_counter() - start)
        own_scores.append(float(prediction.pred_score.reshape(-1)[0]))
        own_map = torch.as_tensor(prediction.anomaly_map).float().reshape(expected.shape)
        map_difference = max(map_difference, (own_map - expected).abs().max().item())
    own = torch.tensor(own_scores)
    cells = 1000 * statistics.median(seconds), (own - scores.flatten()).abs().max(), map_difference
    return "{:.1f} | {:.1e} | {:.1e} | {:.4f}".format(*cells, binary_auroc(own, labels))


if __name__ == "__main__":
    main()
