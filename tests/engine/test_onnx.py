"""Graphs of other people's making."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper, save_model

from runtime.engine.onnx import OnnxModel, Session
from runtime.errors import StartError

TABLE = np.arange(12, dtype=np.float32).reshape(4, 3)
"""What the graphs below look tokens up in, repeated as often as it takes."""


def write(
    path: Path,
    outputs: dict[str, list[Any]],
    inputs: Sequence[str] = ("input_ids",),
    kind: int = TensorProto.INT64,
    rows: int = len(TABLE),
) -> Path:
    """A graph that looks every token up; its outputs are told apart by what is added to them."""
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["tokens"])]
    for shift, (name, shape) in enumerate(outputs.items()):
        constant = numpy_helper.from_array(np.array(100 * shift, np.float32), f"shift_{shift}")
        nodes.append(helper.make_node("Constant", [], [f"shift_{shift}"], value=constant))
        nodes.append(helper.make_node("Add", ["tokens", f"shift_{shift}"], [f"added_{shift}"]))
        if len(shape) < 3:
            axes = numpy_helper.from_array(np.array([1, 2][: 3 - len(shape)]), f"axes_{shift}")
            nodes.append(helper.make_node("Constant", [], [f"axes_{shift}"], value=axes))
            nodes.append(
                helper.make_node("ReduceSum", [f"added_{shift}", f"axes_{shift}"], [name], keepdims=0)
            )
        else:
            nodes.append(helper.make_node("Identity", [f"added_{shift}"], [name]))
    graph = helper.make_graph(
        nodes,
        "lookup",
        [helper.make_tensor_value_info(name, kind, ["batch", "sequence"]) for name in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.resize(TABLE, (rows, 3)), "table")],
    )
    save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


PER_TOKEN = ["batch", "sequence", 3]
PER_TEXT = ["batch", 3]


@pytest.mark.parametrize("kind", [TensorProto.INT64, TensorProto.INT32])
def test_a_graph_gets_the_inputs_that_it_declares_in_its_own_types(tmp_path: Path, kind: int) -> None:
    names = ["input_ids", "attention_mask", "token_type_ids"]
    model = OnnxModel(write(tmp_path / "m.onnx", {"last_hidden_state": PER_TOKEN}, names, kind))
    assert [rows.tolist() for rows in model.run([[1, 2], [3, 0]])] == TABLE[[[1, 2], [3, 0]]].tolist()
    assert model.per_token


def test_the_last_hidden_state_is_preferred(tmp_path: Path) -> None:
    outputs = {"attentions": PER_TOKEN, "last_hidden_state": PER_TOKEN, "sentence_embedding": PER_TEXT}
    assert OnnxModel(write(tmp_path / "m.onnx", outputs)).run([[1]])[0][0, 0] == 103


def test_any_output_per_token_is_taken_before_one_per_text(tmp_path: Path) -> None:
    outputs = {"sentence_embedding": PER_TEXT, "token_embeddings": PER_TOKEN}
    assert OnnxModel(write(tmp_path / "m.onnx", outputs)).run([[1]])[0][0, 0] == 103


def test_a_graph_with_vectors_per_text_alone_gives_those(tmp_path: Path) -> None:
    outputs = {"pooler_output": PER_TEXT, "sentence_embedding": PER_TEXT}
    model = OnnxModel(write(tmp_path / "m.onnx", outputs))
    assert not model.per_token
    assert model.run([[1, 1]])[0].tolist() == [[206, 208, 210]]


def test_a_graph_that_wants_something_else_is_refused_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", {"y": PER_TOKEN}, ["input_ids", "pixels"])
    with pytest.raises(StartError, match="'pixels'"):
        OnnxModel(path)


def test_a_graph_without_text_or_vectors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="none of its outputs"):
        OnnxModel(write(tmp_path / "m.onnx", {"score": ["batch"]}))


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"no graph")
    with pytest.raises(StartError, match=str(path)):
        OnnxModel(path)


@pytest.mark.parametrize(("threads", "more"), [(1, 0), (2, 1), (3, 2)])
def test_a_session_has_no_threads_but_those_it_was_told_to_have(
    tmp_path: Path, threads: int, more: int
) -> None:
    """The one that calls it counts."""
    path = write(tmp_path / "m.onnx", {"last_hidden_state": PER_TOKEN})
    before = thread_ids()
    session = Session(path, threads)
    session.run("last_hidden_state", {"input_ids": np.array([[1, 2]])}, 2)
    assert len(thread_ids() - before) == more


def test_a_model_has_no_threads_of_its_own(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", {"last_hidden_state": PER_TOKEN})
    before = thread_ids()
    model = OnnxModel(path)
    model.run([[1, 2]])
    assert not thread_ids() - before


def thread_ids() -> set[int]:
    return {thread.id for thread in psutil.Process().threads()}
