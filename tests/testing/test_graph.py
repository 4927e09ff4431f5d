"""Graphs in tests: faked, or the project's own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime import ai
from runtime.testing import FakeInferenceSession, FunctionClient
from tests.engine import graphs
from tests.running import project

pytestmark = pytest.mark.anyio

CLASSIFY = """
from pathlib import Path

from runtime import ai

session, copy = ai.InferenceSession("model.onnx"), ai.InferenceSession(Path(__file__).with_name("model.onnx"))


async def handler(request):
    inputs = {"features": [[1, 5, 0]]}
    answers = [await session.run(inputs, outputs=["label"]), await copy.run(inputs, outputs=["label"])]
    return [answer["label"] for answer in answers]
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = project(tmp_path, {"classify": CLASSIFY})
    graphs.classifier(made / "functions" / "classify" / "model.onnx")
    return made


async def test_a_fake_gives_what_it_was_given() -> None:
    session = FakeInferenceSession({"label": [1, 2]})
    assert (await session.run({"x": np.zeros(3)}))["label"].tolist() == [1, 2]
    assert [call["x"].shape for call in session.calls] == [(3,)]
    await session.ready()
    assert session.inputs == []


async def test_a_fake_computes_or_fails() -> None:
    doubled = FakeInferenceSession(lambda inputs: {"y": inputs["x"] * 2, "z": 0})
    assert (await doubled.run({"x": np.arange(3)}, outputs=["y"]))["y"].tolist() == [0, 2, 4]
    with pytest.raises(ai.InvalidInput, match="no output 'w': it has y, z"):
        await doubled.run({"x": np.arange(3)}, outputs=["w"])
    with pytest.raises(ai.InferenceTimeout, match="too slow"):
        await FakeInferenceSession(ai.InferenceTimeout("too slow")).run({})


def test_a_function_finds_the_fake_by_the_files_name(root: Path) -> None:
    fake: Any = FakeInferenceSession({"label": [7]})
    with FunctionClient("classify", root=root, sessions={"model.onnx": fake}) as client:
        assert client.get("/").json() == [[7], [7]]
    assert [call["features"].tolist() for call in fake.calls] == [[[1, 5, 0]]] * 2


def test_a_function_runs_the_projects_graph(root: Path) -> None:
    with FunctionClient("classify", root=root) as client:
        assert client.get("/").json() == [[1], [1]]


def test_without_onnxruntime_the_way_out_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with FunctionClient("classify", root=root) as client:
        answer = client.get("/")
    assert answer.status_code == 400
    assert "FakeInferenceSession(" in answer.json()["message"]
