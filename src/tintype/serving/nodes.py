"""Writing an ONNX graph by hand: every call adds one operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, ValueInfoProto, helper, numpy_helper

Given = str | NDArray[Any] | np.generic
"""What an operator takes: the name of another's result, or a constant."""


class Nodes:
    """The operators of a graph in the making, in the order in which they run.

    Calling it adds an operator and gives the name of its result, so that a graph reads like the arithmetic it does::

        half = nodes("Mul", "images", np.float32(0.5))

    Args:
        name: Of the graph; the names of its operators begin with it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._nodes: list[NodeProto] = []

    def __call__(self, kind: str, *inputs: Given, result: str = "", **attributes: Any) -> str:
        """Add an operator.

        Args:
            kind: Its name in ONNX.
            inputs: Names of results (of this graph or one around it) and constants.
            result: Name of its result; one is made up otherwise.
            attributes: As ONNX defines them for the operator.
        """
        names = [item if isinstance(item, str) else self._constant(item) for item in inputs]
        name = self._name(kind)
        output = result or name
        self._nodes.append(helper.make_node(kind, names, [output], name=name, **attributes))
        return output

    def cast(self, value: Given, kind: type[np.generic]) -> str:
        """The value as another type."""
        return self("Cast", value, to=helper.np_dtype_to_tensor_dtype(np.dtype(kind)))

    def choose(self, condition: str, yes: Nodes, no: Nodes, outputs: tuple[str, str]) -> str:
        """The result of one of two graphs, of which only the one asked for runs.

        Args:
            condition: A boolean without axes.
            yes: Runs where it is true. It may use the results of this graph so far.
            no: Runs where it is not.
            outputs: The result of each.
        """
        branches = {
            "then_branch": yes.graph([], [_untyped(outputs[0])]),
            "else_branch": no.graph([], [_untyped(outputs[1])]),
        }
        return self("If", condition, **branches)

    def branch(self, name: str) -> Nodes:
        """An empty graph inside this one, for :meth:`choose`."""
        return Nodes(f"{self._name('If')}/{name}")

    def graph(self, inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto]) -> GraphProto:
        """The finished graph."""
        return helper.make_graph(self._nodes, self.name, inputs, outputs)

    def _constant(self, value: NDArray[Any] | np.generic) -> str:
        name = self._name("Constant")
        tensor = numpy_helper.from_array(np.asarray(value), name)
        self._nodes.append(helper.make_node("Constant", [], [name], name=name, value=tensor))
        return name

    def _name(self, kind: str) -> str:
        return f"{self.name}/{len(self._nodes)}_{kind}"


def _untyped(name: str) -> ValueInfoProto:
    """The result of a branch, whose type and shape follow from its operators."""
    info = ValueInfoProto()
    info.name = name
    return info
