# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""INT8 for OpenVINO as anomalib's ``INT8_PTQ``, but as a transformer, with the method's own matmuls precise."""

import nncf
import openvino
from anomalib.data import AnomalibDataModule
from nncf.quantization.range_estimator import RangeEstimatorParametersSet
from torch.utils.data import DataLoader

from anople_anomalib.method.torch_model import AnoPLeModel

_LINEAR_LAYERS = 4  # of a block: queries, keys and values; the heads' output; two of the MLP


def quantized(graph: openvino.Model, model: AnoPLeModel, datamodule: AnomalibDataModule | None) -> openvino.Model:
    """Quantize a graph.

    Args:
        graph: The converted model.
        model: The model.
        datamodule: Where the images for the calibration come from: its validation images, else those for training.

    Raises:
        ValueError: If there is no datamodule.
    """
    if datamodule is None:
        msg = "INT8_PTQ calibrates on images: give the data that the model was trained on (--data, datamodule=)."
        raise ValueError(msg)
    datamodule.setup("fit")
    # of good parts alone there is no validation set: those for training are as good a sample of those to come
    sample = vars(datamodule).get("val_data") or datamodule.train_data
    images = DataLoader(sample, batch_size=1, collate_fn=sample.collate_fn)
    return nncf.quantize(
        graph,
        nncf.Dataset(images, lambda batch: batch.image.numpy()),
        model_type=nncf.ModelType.TRANSFORMER,
        # a map that is quantized where it is resized ends at the largest value of good parts: no defect has a region
        ignored_scope=nncf.IgnoredScope(
            names=[*_precise_matmuls(graph, model), *_precise_convolutions(graph, model)], types=["Interpolate"]
        ),
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX  # a mean would cut anomalies off
        ),
    )


def _precise_matmuls(graph: openvino.Model, model: AnoPLeModel) -> list[str]:
    """Name the matmuls that INT8 leaves alone.

    They are those that resize, project, and compare with texts and memory (a cosine distance is a small difference of
    numbers near 1, of which eight bits leave nothing), and the linear layers of the first block, where a few channels
    are so large that eight bits leave nothing of the others.

    Exporters give matmuls no names to know them by. Known are the shapes, the order, and that images are resized before
    the first convolution cuts them into patches.
    """
    factors = [model.text_features, model.clip.visual.visual.proj]
    if model.memory_bank is not None:
        factors += model.memory_bank.parts()
    if (second := model.second_memory) is not None:  # squared distances are small differences, too
        factors += [*second.memory_bank.parts(), *second.backbone.parameters()]
    shapes = {frozenset(factor.shape) for factor in factors}
    # from the sides that the model takes to those that CLIP sees, maybe after the second backbone's convolutions
    resized = zip(model.input_size, model.image_size, strict=True)
    shapes |= {frozenset(sides) for sides in resized if sides[0] != sides[1]}  # of one length: no matmul
    if model.tiling is not None and model.tiling.number > 1:  # the merging of their maps
        tiling, side = model.tiling, model.image_size
        counts = zip(tiling.canvas(side), (tiling.rows * side[0], tiling.columns * side[1]), strict=True)
        shapes |= {frozenset(sides) for sides in counts}
    precise, linear, in_patches = [], [], False
    for operation in graph.get_ordered_ops():
        in_patches = in_patches or operation.get_type_name() == "Convolution"
        if operation.get_type_name() != "MatMul":
            continue
        inputs = [source.get_partial_shape() for source in operation.input_values()]
        constants = [frozenset(shape.to_shape()) for shape in inputs if shape.is_static]
        sides = [list(shape)[-2:] for shape in inputs]  # without the batch
        known = {frozenset(side.get_length() for side in pair) for pair in sides if all(s.is_static for s in pair)}
        if not in_patches or known & shapes:
            precise.append(operation)
        elif constants:
            linear.append(operation)
    return [matmul.get_friendly_name() for matmul in (*precise, *linear[:_LINEAR_LAYERS])]


def _precise_convolutions(graph: openvino.Model, model: AnoPLeModel) -> list[str]:
    """Name the convolutions that INT8 leaves alone: all that are not CLIP's or the decoder's."""
    if model.second_memory is None:
        return []
    parts = (model.clip.visual, model.decoder)
    weights = [weight for part in parts if part is not None for weight in part.parameters()]
    known = {tuple(weight.shape) for weight in weights if weight.dim() == 4}
    names = []
    for operation in graph.get_ordered_ops():
        kind = operation.get_type_name()
        shape = tuple(operation.input(1).get_partial_shape().to_shape()) if kind == "Convolution" else None
        if kind == "GroupConvolution" or (kind == "Convolution" and shape not in known):
            names.append(operation.get_friendly_name())
    return names
