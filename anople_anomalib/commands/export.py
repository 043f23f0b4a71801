# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Write a model as a file for another runtime: OpenVINO, ONNX or torch.

Usage:
    anople export --model bottle.ckpt --type openvino --output exported
"""

from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace

from .terminal import FINE


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument("--model", type=Path, required=True, help="checkpoint of anople teach or anomalib train")
    parser.add_argument("--type", type=Literal["openvino", "onnx", "torch"], default="openvino", help="kind of file")
    parser.add_argument("--output", type=Path, default=Path("exported"), help="folder of the files")
    parser.add_argument(
        "--input_size", type=tuple[int, int] | None, default=None, help="height and width of its images; any by default"
    )


def run(options: Namespace) -> int:
    """Export a checkpoint."""
    from anople_anomalib.anople import AnoPLe

    model = AnoPLe.load_from_checkpoint(options.model).cpu().eval()
    size = {} if options.type == "torch" else {"input_size": options.input_size}
    print(getattr(model, f"to_{options.type}")(options.output, **size))
    return FINE
