"""Small ONNX graphs, as their authors would save them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onnx import TensorProto, helper, save_model

TYPES = {
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "int8": TensorProto.INT8,
    "int16": TensorProto.INT16,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "uint8": TensorProto.UINT8,
    "uint16": TensorProto.UINT16,
    "uint32": TensorProto.UINT32,
    "uint64": TensorProto.UINT64,
    "bool": TensorProto.BOOL,
    "string": TensorProto.STRING,
}

Shape = Sequence[str | int | None] | None


def write(
    path: Path, nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any], **parts: Any
) -> Path:
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), **parts)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(model, str(path))
    return path


def value(name: str, dtype: str, shape: Shape) -> Any:
    return helper.make_tensor_value_info(name, TYPES[dtype], None if shape is None else list(shape))


def echo(path: Path, dtype: str = "float32", shape: Shape = ("n", 2)) -> Path:
    """`y` is `x`."""
    return write(
        path,
        [helper.make_node("Identity", ["x"], ["y"])],
        [value("x", dtype, shape)],
        [value("y", dtype, shape)],
    )


def classifier(path: Path) -> Path:
    """Which of three classes some numbers are of, and how surely: the class of its largest number."""
    return write(
        path,
        [
            helper.make_node("Softmax", ["features"], ["probabilities"], axis=1),
            helper.make_node("ArgMax", ["features"], ["label"], axis=1, keepdims=0),
        ],
        [value("features", "float32", ["n", 3])],
        [value("label", "int64", ["n"]), value("probabilities", "float32", ["n", 3])],
    )


def endless(path: Path) -> Path:
    """Runs for as long as `go` was true: for ever."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go_on"], ["on"]), helper.make_node("Add", ["v", "v"], ["w"])],
        "body",
        [value("i", "int64", []), value("go_on", "bool", []), value("v", "float32", [1])],
        [value("on", "bool", []), value("w", "float32", [1])],
    )
    return write(
        path,
        [helper.make_node("Loop", ["", "go", "x"], ["y"], body=body)],
        [value("go", "bool", []), value("x", "float32", [1])],
        [value("y", "float32", [1])],
    )


def unzipped(path: Path) -> Path:
    """One output is an array, the other a sequence of them."""
    sequence = helper.make_tensor_sequence_value_info("parts", TensorProto.FLOAT, None)
    return write(
        path,
        [helper.make_node("Identity", ["x"], ["y"]), helper.make_node("SequenceConstruct", ["x"], ["parts"])],
        [value("x", "float32", ["n"])],
        [value("y", "float32", ["n"]), sequence],
    )
