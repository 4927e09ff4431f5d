"""An ONNX graph under construction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.engine.models.graphs.data import Data

if TYPE_CHECKING:
    from numpy.typing import NDArray

_OPSET = 20  # the first with Gelu
_IR = 9
CONTRIB = "com.microsoft"
"""Operators of onnxruntime's own."""

Shape = Sequence[str | int]


class Builder:
    """Takes one node after the other; a value is named by the node that makes it.

    Args:
        data: where the weights are; a graph names those that it uses.
    """

    def __init__(self, data: Data) -> None:
        self.data = data
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}
        self._inputs: list[Any] = []
        self._count = 0

    def input(self, name: str, shape: Shape, kind: type = int) -> str:
        """A value that every run is given: whole numbers of 64 bits, floats of 32, or truths."""
        from onnx import TensorProto, helper

        kinds = {int: TensorProto.INT64, float: TensorProto.FLOAT, bool: TensorProto.BOOL}
        self._inputs.append(helper.make_tensor_value_info(name, kinds[kind], shape))
        return name

    def op(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """A node with one output."""
        return self.ops(1, kind, *inputs, domain=domain, **attributes)[0]

    def ops(self, outputs: int, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> list[str]:
        """A node with several outputs."""
        from onnx import helper

        name = self._fresh(kind)
        values = [name] if outputs == 1 else [f"{name}_{index}" for index in range(outputs)]
        self._nodes.append(helper.make_node(kind, inputs, values, name=name, domain=domain, **attributes))
        return values

    def choice(self, condition: str, then: Callable[[], str], otherwise: Callable[[], str]) -> str:
        """The value of one of two branches; what the other one is made of is not computed."""
        branches = {"then_branch": self._branch(then), "else_branch": self._branch(otherwise)}
        return self.op("If", condition, **branches)

    def weight(self, name: str) -> str:
        """A tensor of the data file."""
        self._constants[name] = self.data.tensor(name)
        return name

    def ints(self, *values: int) -> str:
        """A list of whole numbers, such as a shape."""
        import numpy as np

        return self.inline("_".join(["ints", *map(str, values)]), np.array(values, dtype=np.int64))

    def number(self, value: int) -> str:
        """A single whole number."""
        import numpy as np

        return self.inline(f"number_{value}", np.array(value, dtype=np.int64))

    def range(self, name: str, start: int, count: int, *, column: bool = True) -> str:
        """Whole numbers one after the other; below one another as a column."""
        import numpy as np

        numbers = np.arange(start, start + count, dtype=np.int64)
        return self.inline(name, numbers[:, None] if column else numbers)

    def inline(self, name: str, array: NDArray[Any]) -> str:
        """A small constant, kept in the graph itself."""
        from onnx import numpy_helper

        self._constants[name] = numpy_helper.from_array(array, name)
        return name

    def save(self, path: Path, value: str, name: str, shape: Shape) -> None:
        """Write the graph whose output is this value, under this name."""
        from onnx import TensorProto, helper, save_model

        self._nodes.append(helper.make_node("Identity", [value], [name]))
        output = helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        graph = helper.make_graph(
            self._nodes, path.stem, self._inputs, [output], list(self._constants.values())
        )
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(CONTRIB, 1)]
        save_model(helper.make_model(graph, opset_imports=opsets, ir_version=_IR), str(path))

    def _branch(self, make: Callable[[], str]) -> Any:
        from onnx import TensorProto, helper

        outside, self._nodes = self._nodes, []
        value = make()
        output = helper.make_tensor_value_info(value, TensorProto.FLOAT, None)
        graph = helper.make_graph(self._nodes, self._fresh("branch"), [], [output])
        self._nodes = outside
        return graph

    def _fresh(self, kind: str) -> str:
        self._count += 1
        return f"{kind}_{self._count}"
