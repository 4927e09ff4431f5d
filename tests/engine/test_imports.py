"""An engine that comes back under load: calls of every kind want its libraries at once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from runtime.ai.engine import EngineClient
from runtime.door import socket_pair
from runtime.frames import Connect
from runtime.tensors import pack

from . import graphs
from .process import Engine, running_engine

pytestmark = pytest.mark.anyio

RESTARTS = 4
SLOWLY = """
import sys, time

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name in ("numpy.version", "numpy.__config__", "onnxruntime.capi"):
            time.sleep(0.2)  # that others come in between is no matter of luck any more

sys.meta_path.insert(0, Slow())
"""
UNIMPORTABLE = """
import sys

class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            raise ImportError("cannot load module more than once per process")

sys.meta_path.insert(0, Broken())
"""


def customise(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    (folder / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder))


async def introduce(client: EngineClient, engine: Engine) -> None:
    ours, theirs = socket_pair()
    engine.door.send(Connect("worker"), [theirs.detach()])
    await client.attach(ours)


async def test_calls_of_both_kinds_that_wait_for_an_engine_are_answered_by_each_new_one(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    customise(tmp_path, monkeypatch, SLOWLY)
    paths, cargo = [str(graphs.echo(tmp_path / "m.onnx"))], pack({"x": np.ones((2, 2), "f4")})
    for _ in range(RESTARTS):
        client = EngineClient(patience=30)
        run = asyncio.ensure_future(client.run(paths, cargo, []))
        embeds = asyncio.gather(*(client.embed("tiny", ["hello"]) for _ in range(3)))
        with running_engine(models_dir) as engine:
            await introduce(client, engine)
            assert (await run)["y"].tolist() == [[1, 1], [1, 1]]
            assert [result.rows for result in await embeds] == [[1]] * 3
            engine.process.kill()


async def test_an_engine_whose_libraries_cannot_be_imported_says_so_and_ends(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    customise(tmp_path, monkeypatch, UNIMPORTABLE)
    with running_engine(models_dir) as engine:
        async with engine.connect() as client:
            refused = asyncio.create_task(client.warm("tiny"))
            assert await asyncio.to_thread(engine.process.wait, 10) == 1
            refused.cancel()
    assert "cannot load module more than once per process" in capfd.readouterr().err
