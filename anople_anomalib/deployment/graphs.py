# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Exported graphs as nodes with constant inputs that can be replaced, alike for ONNX and OpenVINO."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from anople_anomalib.utils.files import written_whole

_PASSING = ("Cast", "Convert", "Identity", "FakeQuantize", "Reshape", "Unsqueeze")
"""What may stand between a constant and its use, or between an output and what it shows."""


class Slot(NamedTuple):
    """A constant input of a node.

    Attributes:
        node: The node.
        number: Number of the input.
        value: The constant.
    """

    node: Any
    number: int
    value: float


class Graph(ABC):
    """An exported graph whose outputs have the names that anomalib gives them."""

    @abstractmethod
    def output(self, name: str) -> Any | None:  # noqa: ANN401  # a node of either library
        """Return the node that makes an output, or ``None`` if there is no such output."""

    @abstractmethod
    def inputs(self, node: Any) -> list[Any]:  # noqa: ANN401
        """Return the nodes that make the inputs of a node, ``None`` for what no node makes."""

    @abstractmethod
    def kind(self, node: Any) -> str:  # noqa: ANN401
        """Return the name of a node's operator."""

    @abstractmethod
    def name(self, node: Any) -> str:  # noqa: ANN401
        """Return the name of a node, which no other node has."""

    @abstractmethod
    def constant(self, node: Any, index: int) -> np.ndarray | None:  # noqa: ANN401
        """Return a constant input of a node, ``None`` if it is no constant."""

    @abstractmethod
    def replace(self, slot: Slot, value: float) -> None:
        """Give a node another constant, which no other node shares."""

    @abstractmethod
    def run(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Run the graph in single precision, as it was when it was read.

        Args:
            image: Shape ``(1, 3, H, W)``, values in [0, 1].

        Returns:
            The outputs by their names.
        """

    @abstractmethod
    def save(self, path: Path) -> None:
        """Write the graph whole, under a name of its own kind."""

    def slot(self, node: Any, index: int) -> Slot | None:  # noqa: ANN401
        """Return a constant input of a single number."""
        value = self.constant(node, index)
        return None if value is None or value.size != 1 else Slot(node, index, float(value.reshape(-1)[0]))

    def behind(self, node: Any) -> Any:  # noqa: ANN401
        """Return a node, or the one behind those that only pass a value on."""
        while node is not None and self.kind(node) in _PASSING:
            node = self.inputs(node)[0]
        return node

    def back_to(self, node: Any, last: str) -> Iterator[Any]:  # noqa: ANN401
        """Go back from a node, breadth first, as far as the node of a name.

        Args:
            node: Where to begin.
            last: Name of the node behind which nothing is of interest.
        """
        level, seen = [node], set()
        while level:
            fresh = [each for each in level if each is not None and self.name(each) not in seen]
            seen |= {self.name(each) for each in fresh} | {last}
            yield from (each for each in fresh if self.name(each) != last)
            level = [before for each in fresh if self.name(each) != last for before in self.inputs(each)]


class OnnxGraph(Graph):
    """The graph of an ONNX file.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        import onnx

        self._path, self._model = path, onnx.load(path)
        graph = self._model.graph
        self._makers = {name: node for node in graph.node for name in node.output}
        self._constants = {each.name: each for each in graph.initializer}
        self._session: Any = None

    def output(self, name: str) -> Any | None:  # noqa: ANN401
        """Return the node that makes an output, or ``None`` if there is no such output."""
        return self._makers.get(name)

    def inputs(self, node: Any) -> list[Any]:  # noqa: ANN401
        """Return the nodes that make the inputs of a node."""
        return [self._makers.get(name) for name in node.input]

    def kind(self, node: Any) -> str:  # noqa: ANN401
        """Return the name of a node's operator."""
        return str(node.op_type)

    def name(self, node: Any) -> str:  # noqa: ANN401
        """Return the name of its first output."""
        return str(node.output[0])

    def constant(self, node: Any, index: int) -> np.ndarray | None:  # noqa: ANN401
        """Return a constant input of a node, ``None`` if it is no constant."""
        from onnx import numpy_helper

        held = self._constants.get(node.input[index])
        return None if held is None else numpy_helper.to_array(held)

    def replace(self, slot: Slot, value: float) -> None:
        """Give a node another constant, which no other node shares."""
        from onnx import numpy_helper

        before = numpy_helper.to_array(self._constants[slot.node.input[slot.number]])
        name = f"{slot.node.output[0]}_constant_{slot.number}"
        if name not in self._constants:
            self._constants[name] = self._model.graph.initializer.add()
        self._constants[name].CopyFrom(numpy_helper.from_array(np.full_like(before, value), name))
        slot.node.input[slot.number] = name

    def run(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Run the graph as it was when it was read."""
        if self._session is None:
            self._session = OpenVinoGraph(self._path)  # which reads ONNX as well
        return self._session.run(image)

    def save(self, path: Path) -> None:
        """Write the graph whole."""
        import onnx

        with written_whole(path) as temporary:
            onnx.save(self._model, temporary)


class OpenVinoGraph(Graph):
    """The graph of an OpenVINO model.

    Args:
        path: Its ``.xml`` file.
    """

    def __init__(self, path: Path) -> None:
        import openvino

        self._model = openvino.Core().read_model(path)
        self._compiled: Any = None

    def output(self, name: str) -> Any | None:  # noqa: ANN401
        """Return the node that makes an output, or ``None`` if there is no such output."""
        found = [output for output in self._model.outputs if name in output.get_names()]
        return found[0].get_node().input_value(0).get_node() if found else None

    def inputs(self, node: Any) -> list[Any]:  # noqa: ANN401
        """Return the nodes that make the inputs of a node."""
        return [value.get_node() for value in node.input_values()]

    def kind(self, node: Any) -> str:  # noqa: ANN401
        """Return the name of a node's operator."""
        return str(node.get_type_name())

    def name(self, node: Any) -> str:  # noqa: ANN401
        """Return a node's own name."""
        return str(node.get_name())

    def constant(self, node: Any, index: int) -> np.ndarray | None:  # noqa: ANN401
        """Return a constant input of a node, perhaps converted from half precision; ``None`` if it is none."""
        source = self.behind(node.input_value(index).get_node())
        return source.data if source.get_type_name() == "Constant" else None

    def replace(self, slot: Slot, value: float) -> None:
        """Give a node another constant, which no other node shares."""
        from openvino import opset8

        given = slot.node.input_value(slot.number)
        constant = np.full(tuple(given.get_shape()), value, given.get_element_type().to_dtype())
        slot.node.input(slot.number).replace_source_output(opset8.constant(constant).output(0))

    def run(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Run the graph in single precision, as it was when it was first run."""
        import openvino

        if self._compiled is None:
            precise = {"INFERENCE_PRECISION_HINT": "f32"}
            self._compiled = openvino.Core().compile_model(self._model, "CPU", precise)
        found = self._compiled(image)
        return {name: found[output] for output in self._compiled.outputs for name in output.get_names()}

    def save(self, path: Path) -> None:
        """Write both files whole, the weights first."""
        import openvino

        with written_whole(path.with_suffix(".bin")) as weights, written_whole(path) as temporary:
            written = temporary.with_name(f"{temporary.name}.xml")
            openvino.save_model(self._model, written, compress_to_fp16=False)
            written.with_suffix(".bin").replace(weights)
            written.replace(temporary)
