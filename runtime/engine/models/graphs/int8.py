"""A packed graph with weights of 8 bits, in which a text's vector is the same in any batch.

Weights have a scale per output, activations one per row. One scale for a whole batch, as
onnxruntime's own dynamic quantisation has it, would make a vector depend on what ran beside it.

Three things keep the loss small (on MiniLM, a mean cosine of 0.9987 instead of 0.9969). What comes
out of a LayerNormalization has a few channels much larger than all others: their size is moved
into the weights first, as in "SmoothQuant" (Xiao et al., 2022), but told by the normalisation's own
weights instead of by sample texts. Values do so apart from queries and keys, whose weights are
large for just those channels. And what comes out of Gelu is never below -0.17, so its 255 steps
begin there.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from runtime.engine.models.graphs.builder import CONTRIB
from runtime.engine.models.graphs.config import broken
from runtime.engine.models.graphs.data import Data

if TYPE_CHECKING:
    from numpy import float32, int8
    from numpy.typing import NDArray

    Array = NDArray[float32]

PACKED_INT8 = "packed.int8.onnx"
WEIGHTS_INT8 = "packed.int8.onnx.data"

_STEPS = 127  # of weights, on either side of zero
_ROWS = 4096  # of a table of words at a time
_LEAST = 1e-12  # a row of zeros is not divided by zero
_GELU = 0.17  # how far below zero Gelu goes, and no farther
_SPREAD = 3.0  # what comes out of a normalisation is this far from its middle, at most, as a rule

_WIDTH, _FLOOR, _LIFT = "int8.width", "int8.floor", "int8.lift"


class _Grid(NamedTuple):
    """How a row's numbers between -1 and 1, or 0 and 1, are told as 8 bits without a sign, which
    is what processors multiply fastest with signed ones: names of the step and of zero's place."""

    step: str
    zero: str


_SIGNED, _UNSIGNED = _Grid("int8.step", "int8.zero"), _Grid("int8.whole_step", "int8.no_zero")


def quantise(source: Path, target: Path) -> None:
    """Write the graph and its weights into `target`, beside each other.

    Args:
        source: a `packed.onnx` of ours, with its weights beside it.

    Raises:
        StartError: they are broken, or do not fit together.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load(str(source), load_external_data=False)
        with open(target / WEIGHTS_INT8, "wb") as file:
            nodes = _Rewriting(model.graph, source.parent, file).nodes()
    except (ValueError, LookupError, DecodeError) as error:
        raise broken(source, f"the graph and its weights do not fit together: {error}") from error
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save_model(model, str(target / PACKED_INT8))


def _read(folder: Path, tensor: Any) -> Array:
    """A tensor of the file of weights, not read before it is used: a table of words is large.

    The library's own way refuses files with a second name, which every backup of hard links has.
    """
    import numpy as np

    told = {entry.key: entry.value for entry in tensor.external_data}
    return np.memmap(folder / told["location"], "<f4", "r", int(told["offset"]), tuple(tensor.dims))


class _Rewriting:
    """Replaces a graph's products and its look-up of words, and moves all weights to another file."""

    def __init__(self, graph: Any, folder: Path, file: IO[bytes]) -> None:
        self._graph, self._data = graph, Data(WEIGHTS_INT8, file)
        self._external = {
            tensor.name: _read(folder, tensor) for tensor in graph.initializer if tensor.external_data
        }
        self._makers = {output: node for node in graph.node for output in node.output}
        self._small = [tensor for tensor in graph.initializer if tensor.name not in self._external]

    def nodes(self) -> list[Any]:
        """The nodes instead of the graph's; its constants have been replaced."""
        nodes = [new for node in self._graph.node for new in self._instead(node)]
        for name, array in self._external.items():
            self._data.add(name, array)
        tensors = [self._data.tensor(name) for name in self._data]
        del self._graph.initializer[:]
        self._graph.initializer.extend([*self._small, *_constants(), *tensors])
        return nodes

    def _instead(self, node: Any) -> Iterator[Any]:
        if node.op_type == "Gemm" and node.input[1].endswith(".qkv"):
            yield from self._joined(node)
        elif node.op_type == "Gemm" and not node.input[1].startswith("head."):
            value, weight, *bias = node.input
            yield from self._product(value, weight, bias, node.output[0])
        elif node.op_type == "Gather" and node.input[0] == "words":
            yield from self._look_up(node)
        else:
            yield node

    def _joined(self, node: Any) -> Iterator[Any]:
        """The product for query and key apart from that for value."""
        from onnx.helper import make_node

        value, *names = node.input
        border = self._external[names[0]].shape[1] // 3 * 2
        arrays = {name: self._external.pop(name) for name in names}
        outputs = []
        for part, columns in (("qk", slice(border)), ("v", slice(border, None))):
            self._external |= {f"{name}.{part}": array[..., columns] for name, array in arrays.items()}
            weight, *bias = (f"{name}.{part}" for name in names)
            outputs.append(f"{node.output[0]}_{part}")
            yield from self._product(value, weight, bias, outputs[-1])
        yield make_node("Concat", outputs, [node.output[0]], axis=1)

    def _product(self, value: str, weight: str, bias: list[str], output: str) -> Iterator[Any]:
        from onnx.helper import make_node

        maker = self._makers[value].op_type
        even, row, shares, numbers, product, scaled = (
            f"{output}_{part}" for part in ("even", "row", "shares", "numbers", "product", "scaled")
        )
        grid = _SIGNED
        if maker == "LayerNormalization":
            yield make_node("Mul", [value, self._evened(weight, self._makers[value])], [even])
        elif maker == "Gelu":
            yield make_node("Add", [value, _LIFT], [even])
            grid = _UNSIGNED
        else:
            even = value
        yield from self._largest(even, row, grid)
        yield make_node("Div", [even, row], [shares])
        yield make_node("QuantizeLinear", [shares, *grid], [numbers])
        rounded, scales = _rounded(self._external.pop(weight), axis=0)
        self._data.add(weight, rounded)
        self._data.add(f"{weight}.scales", scales[0])
        factors = [numbers, weight, grid.step, f"{weight}.scales", grid.zero]
        yield make_node("MatMulIntegerToFloat", factors, [product], domain=CONTRIB)
        if maker == "Gelu":
            bias = [self._lowered(weight, rounded.sum(axis=0, dtype="i8") * scales[0], *bias)]
        yield make_node("Mul", [product, row], [scaled if bias else output])
        if bias:
            yield make_node("Add", [scaled, *bias], [output])

    def _largest(self, value: str, row: str, grid: _Grid) -> Iterator[Any]:
        """The largest number of each row."""
        from onnx.helper import make_node

        sizes = value
        if grid is _SIGNED:
            yield make_node("Abs", [value], [sizes := f"{row}_sizes"])
        yield make_node("ReduceMax", [sizes, _WIDTH], [f"{row}_largest"], keepdims=1)
        yield make_node("Max", [f"{row}_largest", _FLOOR], [row])

    def _evened(self, weight: str, norm: Any) -> str:
        """What each channel is multiplied by before it is rounded; the weights make up for it."""
        import numpy as np

        scale, shift = (np.abs(self._external[name]) for name in norm.input[1:3])
        matrix = self._external[weight]
        sizes = _SPREAD * scale + shift
        factors = np.sqrt(np.maximum(sizes, 1e-6) / np.maximum(np.abs(matrix).max(axis=1), 1e-6))
        self._external[weight] = matrix * factors[:, None]
        self._data.add(f"{weight}.even", (1 / factors).astype(np.float32))
        return f"{weight}.even"

    def _lowered(self, weight: str, sums: Array, bias: str) -> str:
        """The bias without what comes of lifting Gelu's numbers above zero."""
        name = f"{weight}.lowered"
        self._data.add(name, (self._external.pop(bias) - _GELU * sums).astype("float32"))
        return name

    def _look_up(self, node: Any) -> Iterator[Any]:
        import numpy as np
        from onnx.helper import make_node

        table, indices = node.input
        output = node.output[0]
        rows = self._external.pop(table)
        parts = [_rounded(rows[at : at + _ROWS], axis=1) for at in range(0, len(rows), _ROWS)]
        for name, arrays in zip((table, f"{table}.scales"), zip(*parts, strict=True), strict=True):
            self._data.add(name, np.concatenate(arrays))
        yield make_node("Gather", [table, indices], [f"{output}_numbers"])
        yield make_node("Cast", [f"{output}_numbers"], [f"{output}_floats"], to=1)
        yield make_node("Gather", [f"{table}.scales", indices], [f"{output}_scales"])
        yield make_node("Mul", [f"{output}_floats", f"{output}_scales"], [output])


def _rounded(matrix: Array, axis: int) -> tuple[NDArray[int8], Array]:
    """A matrix as numbers of 8 bits, and a scale for each place along its other axis."""
    import numpy as np

    largest = np.maximum(np.abs(matrix).max(axis=axis, keepdims=True), np.float32(_LEAST))
    scales = (largest / _STEPS).astype(np.float32)
    return np.clip(np.rint(matrix / scales), -_STEPS, _STEPS).astype(np.int8), scales


def _constants() -> list[Any]:
    import numpy as np
    from onnx.numpy_helper import from_array

    arrays: dict[str, NDArray[Any]] = {
        _SIGNED.step: np.array(1 / 127, np.float32),
        _SIGNED.zero: np.array(128, np.uint8),
        _UNSIGNED.step: np.array(1 / 255, np.float32),
        _UNSIGNED.zero: np.array(0, np.uint8),
        _LIFT: np.array(_GELU, np.float32),
        _FLOOR: np.array(_LEAST, np.float32),
        _WIDTH: np.array([1], np.int64),
    }
    return [from_array(array, name) for name, array in arrays.items()]
