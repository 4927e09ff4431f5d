"""The models in memory."""

from __future__ import annotations

import asyncio
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from runtime.engine import raw
from runtime.engine import registry as module
from runtime.engine.models.card import Card, StoredFile, Variant
from runtime.engine.models.pull import pull_folder
from runtime.engine.models.remove import remove
from runtime.engine.models.store import Store
from runtime.engine.registry import Registry, size_of
from runtime.errors import ModelNotFound, UsageError
from tests.engine.tiny import HIDDEN, random_weights, write_folder

pytestmark = pytest.mark.anyio


async def loaded(registry: Registry, name: str) -> Any:
    async with registry.use(name) as model:
        return model


async def test_a_model_folder_inside_the_project_is_loaded(tiny_folder: Path, models_dir: Path) -> None:
    registry = Registry(Store(models_dir), str(tiny_folder.parent))
    assert (await loaded(registry, str(tiny_folder))).dimensions > 0
    registry.close()


@pytest.mark.parametrize("path", ["{outside}", "{project}/../{name}", "{project}/link", "/", "{project}"])
async def test_a_folder_outside_the_project_is_not_read(
    path: str, tiny_folder: Path, models_dir: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.symlink_to(tiny_folder)
    project = tmp_path / "project"
    project.mkdir()
    (project / "link").symlink_to(tiny_folder)
    registry = Registry(Store(models_dir), str(project))
    with pytest.raises(ModelNotFound, match="outside the project"):
        await loaded(registry, path.format(outside=outside, project=project, name="outside"))
    registry.close()


async def test_a_replaced_model_is_loaded_anew(tmp_path: Path) -> None:
    store = Store(tmp_path / "models", {})
    pull_folder(write_folder(tmp_path / "a"), "mine", store, lambda *_: None)
    registry = Registry(store)
    first = await loaded(registry, "mine")
    registry.forget_replaced()
    assert await loaded(registry, "mine") is first
    remove(store, "mine")
    registry.forget_replaced()
    assert await loaded(registry, "mine") is first  # who has it may go on with it
    pull_folder(write_folder(tmp_path / "b", random_weights(3)), "mine", store, lambda *_: None)
    registry.forget_replaced()
    second = await loaded(registry, "mine")
    assert second.card == store.get("mine") != first.card
    registry.close()


# --- how many -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with the models "a", "b" and "c", of one size."""
    folder = tmp_path_factory.mktemp("three")
    store = Store(folder / "models", {})
    for seed, name in enumerate("abc"):
        pull_folder(write_folder(folder / name, random_weights(seed)), name, store, lambda *_: None)
    return store


def size(store: Store) -> int:
    return sum(file.size for file in store.get("a").files)


@pytest.fixture
def two_fit(three: Store) -> Iterator[Registry]:
    made = Registry(three, most=int(2.5 * size(three)))
    yield made
    made.close()


def test_a_model_is_as_large_as_the_files_that_it_is_run_from() -> None:
    files = {
        "model.onnx": 1,
        "model.onnx.data": 100,
        "packed.onnx": 2,
        "packed.int8.onnx": 3,
        "packed.int8.onnx.data": 30,
        "tokenizer.json": 5,
    }
    card = Card(
        name="m",
        dimensions=8,
        max_tokens=8,
        variants=(Variant("fp32", "packed.onnx"), Variant("int8", "packed.int8.onnx")),
        files=tuple(StoredFile(path, size, "") for path, size in files.items()),
    )
    assert size_of(card, "fp32") == 111
    assert size_of(card, "bf16") == 3 * 111
    assert size_of(card, "int8") == 30
    assert size_of(msgspec.structs.replace(card, variants=()), "fp32") == 141


def test_a_model_used_where_it_lies_is_as_large_as_its_graph(tmp_path: Path) -> None:
    for name in ("model.onnx", "model.onnx_data", "model_quantized.onnx", "pytorch_model.bin"):
        (tmp_path / name).write_bytes(b"12345")
    assert size_of(Card(name="m", dimensions=8, max_tokens=8, folder=str(tmp_path)), "fp32") == 10


async def test_without_a_bound_every_model_stays(three: Store) -> None:
    registry = Registry(three)
    for name in "abc":
        await loaded(registry, name)
    assert registry.names == ["a", "b", "c"]
    registry.close()


async def test_the_model_not_used_for_longest_makes_room(two_fit: Registry) -> None:
    first = await loaded(two_fit, "a")
    await loaded(two_fit, "b")
    assert await loaded(two_fit, "a") is first
    await loaded(two_fit, "c")
    assert two_fit.names == ["a", "c"]
    await loaded(two_fit, "b")
    assert two_fit.names == ["c", "b"]


async def test_a_model_in_use_is_never_unloaded(two_fit: Registry) -> None:
    async with two_fit.use("a") as first:
        await loaded(two_fit, "b")
        await loaded(two_fit, "c")
        assert two_fit.names == ["a", "c"]
        async with two_fit.use("b"), two_fit.use("c"):
            assert two_fit.names == ["a", "b", "c"]  # more than there is room for
        assert await loaded(two_fit, "a") is first
    assert len(two_fit.names) == 2


async def test_a_model_larger_than_the_bound_is_served_all_the_same(three: Store) -> None:
    registry = Registry(three, most=1)
    first = await loaded(registry, "a")
    assert await loaded(registry, "a") is first
    await loaded(registry, "b")
    assert registry.names == ["b"]
    registry.close()


class Gate:
    """Holds loads up, each on its thread, until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.reached = threading.Semaphore(0)
        self._load = module._open
        monkeypatch.setattr(module, "_open", self)

    def __call__(self, *card: Any) -> Any:
        self.reached.release()
        assert self.open.wait(10)
        return self._load(*card)

    async def hold(self) -> None:
        await asyncio.to_thread(self.reached.acquire)


async def test_models_load_side_by_side(three: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, registry = Gate(monkeypatch), Registry(three)
    loads = [asyncio.create_task(loaded(registry, name)) for name in "abc"]
    for _ in loads:
        await gate.hold()
    gate.open.set()
    assert len(set(map(id, await asyncio.gather(*loads)))) == 3
    registry.close()


async def test_who_leaves_during_a_load_does_not_end_it(
    three: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, registry = Gate(monkeypatch), Registry(three)
    first, second = (asyncio.create_task(loaded(registry, "a")) for _ in range(2))
    await gate.hold()
    first.cancel()
    await asyncio.wait([first])
    gate.open.set()
    assert (await second).dimensions > 0
    registry.close()


async def test_models_that_nobody_waits_for_any_more_keep_the_bound(
    two_fit: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    loads = [asyncio.create_task(loaded(two_fit, name)) for name in "abc"]
    for _ in loads:
        await gate.hold()
    for task in loads:
        task.cancel()
    await asyncio.wait(loads)
    gate.open.set()
    async with asyncio.timeout(10):
        while len(two_fit._models) > len(two_fit.names):  # noqa: ASYNC110 - until all are loaded
            await asyncio.sleep(0.001)
    await asyncio.sleep(0)
    assert len(two_fit.names) == 2


async def test_a_model_that_was_replaced_in_use_is_freed_on_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    freed: queue.SimpleQueue[str] = queue.SimpleQueue()

    class Graph:
        def __init__(self, *_: object) -> None: ...

        def __del__(self) -> None:
            freed.put(threading.current_thread().name)

    monkeypatch.setattr(raw, "RawGraph", Graph)
    path = tmp_path / "m.onnx"
    path.write_bytes(b"one")
    registry = Registry(Store(tmp_path, {}))

    async def use_while_it_is_replaced() -> None:
        async with registry.use_graph([str(path)]) as former:
            path.write_bytes(b"another")
            async with registry.use_graph([str(path)]) as graph:
                assert graph is not former
            assert freed.empty()

    await use_while_it_is_replaced()
    assert (await asyncio.to_thread(freed.get, timeout=10)).startswith("loading")
    registry.close()


async def test_a_failed_load_fails_all_who_wait_and_the_next_tries_again(
    three: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError("no memory for the weights")

    registry = Registry(three)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_open", fail)
        waiting = [asyncio.create_task(loaded(registry, "a")) for _ in range(3)]
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(result) for result in results] == [MemoryError] * 3
    assert registry.names == []
    assert (await loaded(registry, "a")).dimensions > 0
    registry.close()


async def test_a_folder_that_is_no_model_fails_and_is_forgotten(tmp_path: Path, three: Store) -> None:
    registry = Registry(three)
    with pytest.raises(UsageError):
        await loaded(registry, str(tmp_path))
    assert registry.names == []
    registry.close()


_TURNS = """
import asyncio, os, sys, psutil
from runtime.engine.memory import return_large_blocks
from runtime.engine.models.store import Store
from runtime.engine.registry import Registry

async def turns():
    registry = Registry(Store(sys.argv[1], {}), cores=2, most=1)
    sizes = []
    for turn in range(50):
        async with registry.use("ab"[turn % 2]) as model:
            model.infer([[2, 3, 4]], [sys.modules["runtime.engine.scheduler"].Form()], alone=True)
            del model
        sizes.append(psutil.Process().memory_info().rss)
    print(sizes[9], sizes[-1])

return_large_blocks()
asyncio.run(turns())
sys.stdout.flush()
os._exit(0)  # as the engine ends: a session may still be opening on a thread
"""


def test_fifty_loads_leave_no_memory_behind(tmp_path: Path) -> None:
    store = Store(tmp_path / "models", {})
    words = np.ones((200_000, HIDDEN), dtype=np.float32)  # 13 MB: what stayed behind would show
    for name in "ab":
        weights = random_weights() | {"embeddings.word_embeddings.weight": words}
        pull_folder(write_folder(tmp_path / name, weights), name, store, lambda *_: None)
    command = [sys.executable, "-c", _TURNS, str(tmp_path / "models")]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
    tenth, last = map(int, done.stdout.split())
    assert last <= 1.05 * tenth
