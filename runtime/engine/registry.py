"""The models in memory: each is loaded once, by whoever asks first, and leaves for want of room."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.engine.memory import return_free_memory
from runtime.engine.models.card import Card
from runtime.engine.models.precision import BFLOAT16
from runtime.engine.models.prepare import belongs, prepare
from runtime.engine.models.store import Store
from runtime.errors import ModelNotFound

if TYPE_CHECKING:
    from runtime.engine.model import EmbeddingModel
    from runtime.engine.raw import RawGraph


log = logging.getLogger("runtime.engine")


_AT_ONCE = 4  # loads, of different models
_LAST_WORDS_S = 0.1  # until what was logged has left the process
_BFLOAT16_TIMES = 3  # OpenVINO keeps copies: it was seen to take three to five times the files


class _Held:
    """A model in memory, or on its way there.

    Attributes:
        bytes: what it counts for; 0 until that is known.
        users: calls that need it now.
        stamp: of the file that a graph was read from.
    """

    def __init__(self) -> None:
        self.load: asyncio.Task[Any]
        self.bytes = self.users = 0
        self.stamp: object = None

    @property
    def loaded(self) -> bool:
        return self.load.done() and not self.load.cancelled() and self.load.exception() is None


_Load = Callable[[_Held], Coroutine[Any, Any, Any]]


class Registry:
    """Loaded models by name or folder.

    Args:
        root: folders outside it are not read: a function chooses the path, and the engine may
            read more than the function may. Empty: anywhere.
        cores: that a text alone may use.
        precisions: by model name; others run at "fp32".
        providers: what onnxruntime shall run models on, as `onnx.Session` has it.
        most: bytes that models may take together, as `size_of` counts them; beyond it those not
            used for longest leave, but never one in use, nor the last. 0: no bound.
    """

    def __init__(
        self,
        store: Store,
        root: str = "",
        *,
        cores: int = 1,
        precisions: Mapping[str, str] | None = None,
        providers: Sequence[str] = (),
        most: int = 0,
    ) -> None:
        self._store, self._root = store, os.path.realpath(root) if root else ""
        self._cores, self._precisions, self._most = cores, precisions or {}, most
        self._providers = tuple(providers)
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="loading")
        self._models: OrderedDict[str, _Held] = OrderedDict()  # the last one used at the end
        self._imports: asyncio.Task[None] | None = None

    @property
    def names(self) -> list[str]:
        """Models in memory, those not used for longest first."""
        return [name for name, held in self._models.items() if held.loaded]

    @asynccontextmanager
    async def use(self, name: str) -> AsyncIterator[EmbeddingModel]:
        """The model, loaded and warm; it stays in memory meanwhile.

        Raises:
            ModelNotFound: the store has no such model.
            UsageError: its files are missing, broken or not supported.
        """
        async with self._use(name, partial(self._load, name)) as model:
            yield model

    @asynccontextmanager
    async def use_graph(self, paths: Sequence[str]) -> AsyncIterator[RawGraph]:
        """The graph of the first of these files that exists, as `use` gives a model.

        Raises:
            ModelNotFound: there is none, or it may not be read.
            StartError: it does not load.
        """
        from runtime.engine.raw import find

        path = find(paths, self._root)
        name = str(path)
        held = self._models.get(name)
        if held is not None and held.loaded and held.stamp != _stamp(path):
            self._unload(name)
        async with self._use(name, partial(self._load_graph, path)) as graph:
            yield graph

    @asynccontextmanager
    async def _use(self, name: str, load: _Load) -> AsyncIterator[Any]:
        held = self._models.get(name) or self._begin(name, load)
        self._models.move_to_end(name)
        held.users += 1
        try:
            # Others wait for the same load: one that leaves must not end it.
            yield await asyncio.shield(held.load)
        finally:
            held.users -= 1
            if held.loaded and self._models.get(name) is not held:
                self._let_go(held)
            self._make_room()

    def forget_replaced(self) -> None:
        """Load anew, when they are next asked for, models of which the store has another version."""
        for name in self.names:
            card = self._store.find(name)
            if card is None or not card.prepared:
                continue
            if not card.same_weights(self._models[name].load.result().card):
                log.info("%s has been replaced: its new version is loaded with the next call", name)
                self._unload(name)

    def close(self) -> None:
        """Start no further load."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _begin(self, name: str, load: _Load) -> _Held:
        held = self._models[name] = _Held()
        held.load = asyncio.create_task(load(held))
        held.load.add_done_callback(lambda load: self._ended(name, load))
        return held

    async def _libraries(self) -> None:
        """Have the libraries imported, by whoever loads first and for all.

        Two threads that import numpy and onnxruntime at one time can meet so that neither can be
        imported in this process any more.
        """
        if self._imports is None:
            self._imports = asyncio.create_task(self._import())
        await asyncio.shield(self._imports)

    async def _import(self) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._pool, _import_libraries)
        except ImportError as error:
            log.critical("it ends: a library cannot be imported: %s", error, exc_info=error)
            await asyncio.sleep(_LAST_WORDS_S)
            os._exit(1)  # a new process may have better luck, this one never will

    async def _load(self, name: str, held: _Held) -> EmbeddingModel:
        await self._libraries()
        loop = asyncio.get_running_loop()
        precision = self._precisions.get(name, "fp32")
        card = await loop.run_in_executor(self._pool, self._prepare, name, precision)
        held.bytes = await loop.run_in_executor(self._pool, size_of, card, precision)
        self._make_room()
        return await loop.run_in_executor(self._pool, _open, card, precision, self._cores, self._providers)

    async def _load_graph(self, path: Path, held: _Held) -> RawGraph:
        from runtime.engine.raw import RawGraph, bytes_of

        held.stamp = _stamp(path)
        await self._libraries()
        loop = asyncio.get_running_loop()
        held.bytes = await loop.run_in_executor(self._pool, bytes_of, path)
        self._make_room()
        return await loop.run_in_executor(self._pool, RawGraph, path, self._providers)

    def _ended(self, name: str, load: asyncio.Task[Any]) -> None:
        # The next one who asks tries again: the person may have repaired the files.
        if load.cancelled() or load.exception() is not None:
            del self._models[name]
        self._make_room()  # all who asked for it may have left meanwhile

    def _make_room(self) -> None:
        taken = sum(held.bytes for held in self._models.values())
        for name in self.names if 0 < self._most < taken else ():
            held = self._models[name]
            if taken > self._most and not held.users and len(self._models) > 1:
                log.info("%s is unloaded: the models in memory take %d bytes", name, taken)
                taken -= held.bytes
                self._unload(name)

    def _unload(self, name: str) -> None:
        """Forget it; whoever has it may go on with it."""
        self._let_go(self._models.pop(name))

    def _let_go(self, held: _Held) -> None:
        """Free it once its last user has left. That takes a while, so a thread does it."""
        if not held.users:
            # With the loop's next turn: until then the user's own frames have it.
            asyncio.get_running_loop().call_soon(self._free_on_thread, [held.load.result()])

    def _free_on_thread(self, last: list[Any]) -> None:
        with suppress(RuntimeError):  # closed: the process ends
            self._pool.submit(_free, last)

    def _prepare(self, name: str, precision: str) -> Card:
        if os.path.isabs(name):
            self._check_inside(name)
        return prepare(name, self._store, precision=precision)

    def _check_inside(self, folder: str) -> None:
        inside = os.path.realpath(folder).startswith(f"{self._root}{os.sep}")
        if self._root and not inside:
            raise ModelNotFound(f"{folder} is outside the project: keep model folders below {self._root}")


def size_of(card: Card, precision: str) -> int:
    """Bytes that a model counts for: those of the files that it is run from at this precision.

    At "bf16" they are those of "fp32", and count three times.
    """
    if precision == BFLOAT16:
        return _BFLOAT16_TIMES * size_of(card, "fp32")
    if not card.files:  # it is used where it lies
        graph = Path(card.folder, card.graph)
        files = (path for path in graph.parent.iterdir() if path == graph or belongs(path.name, graph.name))
        return sum(path.stat().st_size for path in files)
    own = {
        variant.precision: sum(file.size for file in card.files if belongs(file.path, variant.graph))
        for variant in card.variants
    }
    return own.get(precision) or sum(file.size for file in card.files) - sum(own.values())


def _import_libraries() -> None:
    """On a thread, after the catalogue has gone out."""
    import runtime.engine.model  # noqa: F401 - it imports numpy, onnxruntime and tokenizers


def _open(card: Card, precision: str, cores: int, providers: Sequence[str]) -> EmbeddingModel:
    from runtime.engine.model import EmbeddingModel

    return EmbeddingModel(card, precision, cores, providers)


def _stamp(path: Path) -> object:
    """Another one when the file is another."""
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _free(models: list[Any]) -> None:
    models.clear()
    return_free_memory()
