from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime import ai
from runtime.ai import host
from runtime.frames import Open, Run
from tests.ai.fake_engine import FakeEngine, fake_engine

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def local() -> AsyncIterator[FakeEngine]:
    async with fake_engine() as engine:
        here = host.install([], "/project")
        here.settle("/project/functions/f", "/project/functions", "/tmp/worker/files")
        await here.engine.attach(await engine.connection())
        yield engine


async def test_arrays_go_and_come_back_under_their_names() -> None:
    async with local() as engine:
        session = ai.InferenceSession("model.onnx")
        x = np.array([[1.5, 2]], np.float32)
        assert (await session.run({"x": x}, outputs=["y"]))["x"].tolist() == [[1.5, 2]]
        (sent,) = engine.seen
        assert isinstance(sent, Run)
        assert sent.outputs == ["y"]


async def test_what_a_graph_takes_and_gives_is_known_when_it_is_loaded() -> None:
    async with local() as engine:
        session = ai.InferenceSession("model.onnx")
        with pytest.raises(ai.InvalidInput, match=r"`await session\.ready\(\)` first"):
            print(session.inputs)
        await session.ready()
        assert session.inputs == [ai.TensorInfo("x", "float32", ("n", None))]
        assert session.outputs == []
        assert isinstance(engine.seen[0], Open)


@pytest.mark.parametrize("value", [[[1, 2.5]], ((1, 2.5),), [[True, 2.5]]])
async def test_lists_become_arrays_of_the_declared_type(value: Any) -> None:
    async with local() as engine:
        session = ai.InferenceSession("model.onnx")
        for _ in range(2):
            answer = await session.run({"x": value})
            assert answer["x"].dtype == np.float32
            assert answer["x"].tolist() == [[1.0, 2.5]]
        assert [type(frame) for frame in engine.seen] == [Open, Run, Run]


@pytest.mark.parametrize("value", [["a"], [[1, 2], [3]], [1 + 2j], object()])
async def test_what_becomes_no_array_is_refused(value: Any) -> None:
    async with local():
        with pytest.raises(ai.InvalidInput, match="x cannot become an array of float32"):
            await ai.InferenceSession("model.onnx").run({"x": value})


@pytest.mark.parametrize(("value", "what"), [([1.5], "numbers with a fraction"), (["a"], "strings")])
async def test_numbers_with_a_fraction_are_not_cut_to_whole_ones(value: Any, what: str) -> None:
    async with local() as engine:
        engine.declared = "int64"
        with pytest.raises(ai.InvalidInput, match=f"x cannot become an array of int64: it has {what}$"):
            await ai.InferenceSession("model.onnx").run({"x": value})


@pytest.mark.parametrize("value", [[1.5, 2], [1, 2], 3, []])
async def test_lists_become_arrays_of_bfloat16(value: Any) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    async with local() as engine:
        engine.declared = "bfloat16"
        (answer,) = (await ai.InferenceSession("model.onnx").run({"x": value})).values()
        assert answer.dtype == ml_dtypes.bfloat16
        assert answer.tolist() == value


async def test_without_ml_dtypes_a_list_becomes_no_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    async with local() as engine:
        engine.declared = "bfloat16"
        with pytest.raises(ai.InvalidInput, match="install ml_dtypes"):
            await ai.InferenceSession("model.onnx").run({"x": [1.5]})


async def test_inputs_and_outputs_of_the_wrong_kind_are_refused() -> None:
    async with local() as engine:
        session: Any = ai.InferenceSession("model.onnx")
        with pytest.raises(ai.InvalidInput, match="inputs is NoneType: give arrays by name"):
            await session.run(None)
        with pytest.raises(ai.InvalidInput, match="outputs is str"):
            await session.run({}, outputs="y")
        with pytest.raises(ai.InvalidInput, match="outputs is int: give a list of names"):
            await session.run({}, outputs=5)
        with pytest.raises(ai.InvalidInput, match="outputs has a name that is int: give strings"):
            await session.run({}, outputs=[5])
        with pytest.raises(ai.InvalidInput, match="inputs has a name that is int: give strings"):
            await session.run({5: np.zeros(1)})
        assert engine.seen == []


@pytest.mark.parametrize("path", ["model", "./folder", "model.bin", 7])
def test_what_is_no_graph_is_refused_when_the_session_is_made(path: Any) -> None:
    with pytest.raises(ai.InvalidInput, match="path"):
        ai.InferenceSession(path)


@pytest.mark.parametrize(
    ("path", "paths"),
    [
        ("model.onnx", ["/project/functions/f/model.onnx", "/project/model.onnx"]),
        ("./m/model.onnx", ["/project/functions/f/m/model.onnx", "/project/m/model.onnx"]),
        ("../model.onnx", ["/project/functions/model.onnx", "/model.onnx"]),
        ("/project/models/model.onnx", ["/project/models/model.onnx"]),
        (Path("/tmp/worker/files/f/model.onnx"), ["/project/functions/f/model.onnx"]),
        ("/tmp/worker/model.onnx", ["/tmp/worker/model.onnx"]),
    ],
    ids=str,
)
async def test_a_path_starts_at_the_function_or_at_the_project(path: str | Path, paths: list[str]) -> None:
    async with local() as engine:
        await ai.InferenceSession(path).ready()
        assert engine.seen == [Open(engine.seen[0].id, paths)]


async def test_a_run_that_takes_too_long_is_ended() -> None:
    async with local() as engine:
        engine.answering = False
        session = ai.InferenceSession("model.onnx")
        with pytest.raises(ai.InferenceTimeout, match=r"model\.onnx did not finish within 0\.05 s"):
            await session.run({"x": np.zeros(1)}, timeout=0.05)
        await engine.until(lambda engine: len(engine.seen) == 2)
