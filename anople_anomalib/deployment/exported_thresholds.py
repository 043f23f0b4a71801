# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Other thresholds for an exported model, without the checkpoint that it comes from.

An exported graph compares a raw score with a constant and divides another constant, the threshold, by it. Both are
found by what they do, not by their names, which exporters choose as they like.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from anople_anomalib.data.image_inputs import Images, each_image
from anople_anomalib.metrics.category_scores import IMAGE, PIXEL
from anople_anomalib.metrics.post_processing import ExactPostProcessor
from anople_anomalib.metrics.score_histogram import ScoreHistogram
from anople_anomalib.metrics.thresholds import check_rules, check_threshold, threshold_for, warn_of_few
from anople_anomalib.utils.files import READ_ERRORS, written_whole

from .export import Detector
from .graphs import Graph, OnnxGraph, OpenVinoGraph, Slot

_LABELS = {IMAGE: "pred_label", PIXEL: "pred_mask"}
_SCORES = {IMAGE: "pred_score", PIXEL: "anomaly_map"}
_TRUST = "TRUST_REMOTE_CODE"


class ExportedModel(ABC):
    """An exported model whose thresholds can be changed."""

    @abstractmethod
    def thresholds(self) -> dict[str, float]:
        """Return the raw thresholds by their level, ``"image"`` and ``"pixel"``."""

    @abstractmethod
    def raw_scores(self, image: torch.Tensor) -> tuple[float, float]:
        """Judge an image.

        Args:
            image: Shape ``(1, 3, H, W)``, values in [0, 1].

        Returns:
            The raw score of the image, and the largest value of its raw map.
        """

    @abstractmethod
    def set_thresholds(self, image: float | None = None, pixel: float | None = None) -> None:
        """Set raw thresholds; ``None`` leaves one.

        Args:
            image: Threshold of image scores.
            pixel: Threshold of the maps.

        Raises:
            ValueError: If a threshold is not a positive number.
        """

    @abstractmethod
    def save(self, path: str | Path) -> None:
        """Write the model whole, in the format that it was read from.

        Args:
            path: The file, which may be the one that was read.
        """

    def recompute_thresholds(
        self, images: Images, quantile: float | None = None, false_alarm_rate: float | None = None
    ) -> int:
        """Set the thresholds from good images, as :meth:`Maintenance.recompute_thresholds` does.

        Args:
            images: Good images, none of them a shot.
            quantile: Share of them below the thresholds; the fence of their scores if neither is given.
            false_alarm_rate: Wanted share of new good images above the thresholds.

        Returns:
            Their number.

        Raises:
            ValueError: If there are fewer than two, or one cannot be read.
        """
        check_rules(quantile, false_alarm_rate)
        found = torch.tensor([self.raw_scores(image) for image in each_image(images)])
        if len(found) < 2:
            msg = f"Thresholds need at least two normal images that are not in the memory, got {len(found)}."
            raise ValueError(msg)
        fitted = []
        for scores in found.T:
            histogram = ScoreHistogram()
            histogram.update(scores, torch.zeros(len(scores), dtype=torch.bool))
            fitted.append(threshold_for(histogram, quantile, false_alarm_rate))
        self.set_thresholds(*fitted)
        warn_of_few(len(found), false_alarm_rate)
        return len(found)


def read_exported(path: str | Path) -> ExportedModel:
    """Read an exported model.

    Args:
        path: Its file: ``.pt``, ``.onnx`` or ``.xml``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no exported model, or one whose thresholds cannot be found.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"There is no exported model '{path}': check the path."
        raise FileNotFoundError(msg)
    if path.suffix == ".pt":
        return TorchExport(path)
    kinds: dict[str, type[OnnxGraph] | type[OpenVinoGraph]] = {".onnx": OnnxGraph, ".xml": OpenVinoGraph}
    if path.suffix not in kinds:
        msg = f"An exported model is a file .pt, .onnx or .xml, got '{path}'; a checkpoint is given as --ckpt_path."
        raise ValueError(msg)
    try:
        graph = kinds[path.suffix](path)
    except ImportError:
        raise
    except Exception as error:  # protobuf and OpenVINO raise what they like
        msg = f"'{path}' cannot be read ({type(error).__name__}): export the model again."
        raise ValueError(msg) from error
    return GraphExport(path, graph)


class TorchExport(ExportedModel):
    """A model exported by torch, which is pickled.

    Args:
        path: Its file.

    Raises:
        ValueError: If the environment does not allow to unpickle it, or it is no exported AnoPLe.
    """

    def __init__(self, path: Path) -> None:
        if os.environ.get(_TRUST, "0").lower() not in {"1", "true"}:
            msg = (
                f"'{path}' is pickled and runs what is in it: set {_TRUST}=1 if you trust its source, as anomalib asks."
            )
            raise ValueError(msg)
        try:
            self._content = torch.load(path, map_location="cpu", weights_only=False)
            self._model: Detector = self._content["model"].eval()
        except READ_ERRORS as error:
            msg = f"'{path}' cannot be read ({type(error).__name__}): export the model again."
            raise ValueError(msg) from error
        processor = getattr(self._model, "post_processor", None)
        if not isinstance(processor, ExactPostProcessor):
            raise _without_thresholds(path)
        self._processor = processor

    def thresholds(self) -> dict[str, float]:
        """Return the raw thresholds."""
        return {IMAGE: float(self._processor.image_threshold), PIXEL: float(self._processor.pixel_threshold)}

    @torch.no_grad()
    def raw_scores(self, image: torch.Tensor) -> tuple[float, float]:
        """Judge an image."""
        pre_processor, detect = self._model.pre_processor, self._model.model
        found = detect(image if pre_processor is None else pre_processor(image))
        return float(found.pred_score), float(found.anomaly_map.max())

    def set_thresholds(self, image: float | None = None, pixel: float | None = None) -> None:
        """Set raw thresholds; ``None`` leaves one."""
        self._processor.set_thresholds(image, pixel)

    def save(self, path: str | Path) -> None:
        """Write the model whole."""
        with written_whole(path) as temporary:
            torch.save(self._content, temporary)


class _Slots(NamedTuple):
    """Where a threshold stands in a graph.

    Attributes:
        compared: What raw scores are compared with: the threshold, moved by the sensitivity.
        scaled: The threshold by which scores are normalized; ``None`` where they are not.
    """

    compared: Slot
    scaled: Slot | None

    @property
    def threshold(self) -> float:
        """The raw threshold; where nothing is normalized, the sensitivity is part of it."""
        return self.compared.value if self.scaled is None else self.scaled.value


class GraphExport(ExportedModel):
    """A model exported as a graph.

    Args:
        path: Its file.
        graph: The graph.

    Raises:
        ValueError: If it has no thresholds, or they are not where AnoPLe's exports have them.
    """

    def __init__(self, path: Path, graph: Graph) -> None:
        self._path, self._graph = path, graph
        self._slots = {level: _find(path, graph, level) for level in (IMAGE, PIXEL)}
        self._before: Mapping[str, _Slots] = dict(self._slots)  # by which the graph runs, once it has run

    def thresholds(self) -> dict[str, float]:
        """Return the raw thresholds."""
        return {level: slots.threshold for level, slots in self._slots.items()}

    def raw_scores(self, image: torch.Tensor) -> tuple[float, float]:
        """Judge an image."""
        try:
            found = self._graph.run(image.numpy())
        except RuntimeError as error:
            size = "x".join(map(str, image.shape[-2:]))
            msg = f"'{self._path}' does not take an image of {size}: give images of the size that it was exported for."
            raise ValueError(msg) from error
        return self._raw(found, IMAGE), self._raw(found, PIXEL)

    def set_thresholds(self, image: float | None = None, pixel: float | None = None) -> None:
        """Set raw thresholds; ``None`` leaves one."""
        for level, value in ((IMAGE, image), (PIXEL, pixel)):
            if value is None:
                continue
            check_threshold(value)
            compared, scaled = self._slots[level]
            moved = value * compared.value / self._slots[level].threshold
            self._graph.replace(compared, moved)
            if scaled is not None:
                self._graph.replace(scaled, value)
                scaled = scaled._replace(value=value)
            self._slots[level] = _Slots(compared._replace(value=moved), scaled)

    def save(self, path: str | Path) -> None:
        """Write the model whole."""
        path = Path(path)
        if path.suffix != self._path.suffix:
            msg = f"A model read from a file {self._path.suffix} is written to one, got '{path}'."
            raise ValueError(msg)
        self._graph.save(path)

    def _raw(self, found: Mapping[str, object], level: str) -> float:
        """Return the largest raw value of an output that may be normalized: y = x / (x + t)."""
        value = float(torch.as_tensor(found[_SCORES[level]]).max())
        slots = self._before[level]
        return value if slots.scaled is None else slots.threshold * value / max(1 - value, 1e-7)


def _find(path: Path, graph: Graph, level: str) -> _Slots:
    """Find a threshold in a graph."""
    label, score = graph.output(_LABELS[level]), graph.output(_SCORES[level])
    label = None if label is None else graph.behind(label)
    compared = None if label is None or graph.kind(label) != "Greater" else graph.slot(label, 1)
    if compared is None or compared.value != compared.value or score is None:  # NaN
        raise _without_thresholds(path)
    raw = graph.inputs(label)[0]
    divisions = [node for node in graph.back_to(score, graph.name(raw)) if graph.kind(node) in {"Div", "Divide"}]
    numerators = [slot for slot in (graph.slot(node, 0) for node in divisions) if slot is not None]
    # 1 / (1 + t / x), of which exporters make one division or two: the last on the way back is that by x
    return _Slots(compared, numerators[-1] if numerators else None)


def _without_thresholds(path: Path) -> ValueError:
    return ValueError(
        f"'{path}' has no thresholds that can be changed: change those of its checkpoint (--ckpt_path), export again."
    )
