"""What a type checker knows of a function that imports from `runtime`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]

FUNCTION = """
from collections.abc import AsyncIterator
from typing import Any

from runtime import HTTPException, JSONResponse, Request, Response, StreamingResponse, WebSocket
from runtime import ai, wait_until
from runtime.testing import Call, FakeSession, FunctionClient

session = ai.Session("gte-small")
graph = ai.InferenceSession("model.onnx")


async def handler(request: Request) -> Any:
    if not request.auth.get("role"):
        raise HTTPException(403, "no role")
    reveal_type(await request.json())  # any
    reveal_type(request.auth)  # claims
    reveal_type(await session.run("a"))  # a text
    reveal_type(await session.run(["a", "b"]))  # texts
    reveal_type(await session.run(["a", "b"], mean_pool=False))  # tokens
    reveal_type(await session.run({"messages": []}))  # a body
    reveal_type(await session.run("a", stream=True, options={"seed": 1}))  # a stream
    reveal_type(await session.run({"messages": []}, stream=True, timeout=ai.Timeout(idle=5)))  # a stream too
    reveal_type((await session.embed(["a"])).dtype)  # bulk
    reveal_type(await session.rank("a", ["b", "c"], top=1))  # ranked
    reveal_type(await session.count("a"))  # a count
    reveal_type(await session.count(["a", "b"]))  # counts
    reveal_type((await graph.run({"x": [1.0]}, outputs=["y"]))["y"].shape)  # a shape
    reveal_type(graph.inputs)  # declared
    reveal_type(session.last_usage)  # usage
    reveal_type(wait_until(work()))  # later
    return JSONResponse({"a": 1}, 201)


async def work() -> int:
    return 1


async def websocket(ws: WebSocket) -> None:
    await ws.accept()


async def words() -> AsyncIterator[str]:
    async for chunk in await session.run("a", stream=True):
        reveal_type(chunk)  # a chunk
        yield chunk.response


def streaming(request: Request) -> Response:
    return StreamingResponse(words())


def test() -> None:
    def answer(call: Call) -> list[str]:
        return [call.prompt]

    fake = FakeSession(replies=["Hel", ai.IncompleteStream("cut")])
    with FunctionClient("hello", sessions={"mistral": fake, "m": FakeSession(replies=answer)}) as client:
        reveal_type(client.post("/", json={}))  # an answer
        reveal_type(client)  # a client
"""

REVEALED = {
    "any": "Any",
    "claims": "dict[str, Any]",
    "a text": "Any",
    "texts": "list[list[float]]",
    "tokens": "list[list[list[float]]]",
    "a body": "Chunk",
    "a stream": "Stream",
    "a stream too": "Stream",
    "bulk": "dtype[floating[_32Bit]]",
    "ranked": "list[Ranked]",
    "a count": "int",
    "counts": "list[int]",
    "a shape": "tuple[Any, ...]",
    "declared": "list[TensorInfo]",
    "usage": "Usage | None",
    "later": "Task[int]",
    "a chunk": "Chunk",
    "an answer": "Response",
    "a client": "FunctionClient",
}

WRONG = """
from runtime import Request, ai

session = ai.Session("gte-small")


async def handler(request: Request) -> None:
    request.aut
    await session.run("a", stream=True, timeout="soon")
    ai.Sesion
    vector: list[str] = await session.run(["a"])
"""


def mypy(folder: Path, source: str) -> str:
    """What mypy says about a function's file."""
    path = folder / "index.py"
    path.write_text(source)
    config = folder / "mypy.ini"
    config.write_text(f"[mypy]\nmypy_path = {REPOSITORY}\n")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", str(config), str(path)]
    cache = ["--cache-dir", str(folder.parent / "mypy")]
    return subprocess.run([*command, *cache], capture_output=True, text=True, check=False, cwd=folder).stdout


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> str:
    return mypy(tmp_path_factory.mktemp("function"), FUNCTION)


def test_a_function_is_checked_strictly_without_complaint(said: str) -> None:
    assert "error:" not in said, said


def test_the_checker_knows_what_comes_back(said: str) -> None:
    lines = FUNCTION.splitlines()
    found = {
        lines[int(number) - 1].rpartition("# ")[2]: re.sub(r"(?:\w+\.)+(?=\w)", "", kind)
        for number, kind in re.findall(r'index\.py:(\d+): note: Revealed type is "(.*)"', said)
    }
    assert found == REVEALED


def test_mistakes_are_found(tmp_path: Path) -> None:
    said = mypy(tmp_path, WRONG)
    assert '"Request" has no attribute "aut"' in said
    assert 'Module has no attribute "Sesion"' in said
    assert 'No overload variant of "run" of "Session" matches' in said
    assert "Incompatible types in assignment" in said
