"""The models in memory: each is loaded once, by whoever asks first."""

from __future__ import annotations

import asyncio
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from runtime.engine.models.prepare import prepare
from runtime.engine.models.store import Store
from runtime.errors import ModelNotFound

if TYPE_CHECKING:
    from runtime.engine.model import EmbeddingModel


log = logging.getLogger("runtime.engine")


class Registry:
    """Loaded models by name or folder.

    Args:
        root: folders outside it are not read: a function chooses the path, and the engine may
            read more than the function may. Empty: anywhere.
    """

    def __init__(self, store: Store, root: str = "") -> None:
        self._store, self._root = store, os.path.realpath(root) if root else ""
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="loading")
        self._loads: dict[str, asyncio.Future[EmbeddingModel]] = {}

    async def get(self, name: str) -> EmbeddingModel:
        """The model, loaded and warm.

        Raises:
            ModelNotFound: the store has no such model.
            UsageError: its files are missing, broken or not supported.
        """
        load = self._loads.get(name)
        if load is None:
            load = asyncio.get_running_loop().run_in_executor(self._pool, self._load, name)
            self._loads[name] = load
            load.add_done_callback(partial(self._forget_failure, name))
        # Others wait for the same load: one that leaves must not end it.
        return await asyncio.shield(load)

    def forget_replaced(self) -> None:
        """Load anew, when they are next asked for, models of which the store has another version."""
        loaded = {name: load for name, load in self._loads.items() if _succeeded(load)}
        for name, load in loaded.items():
            card = self._store.find(name)
            if card is not None and card.prepared and card != load.result().card:
                log.info("%s has been replaced: its new version is loaded with the next call", name)
                del self._loads[name]

    def close(self) -> None:
        """Start no further load."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _forget_failure(self, name: str, load: asyncio.Future[EmbeddingModel]) -> None:
        # The next one who asks tries again: the person may have repaired the files.
        if load.cancelled() or load.exception() is not None:
            del self._loads[name]

    def _load(self, name: str) -> EmbeddingModel:
        if os.path.isabs(name):
            self._check_inside(name)
        card = prepare(name, self._store)
        # numpy, onnxruntime and tokenizers are imported here, on a thread, after the
        # catalogue has gone out.
        from runtime.engine.model import EmbeddingModel

        return EmbeddingModel(card)

    def _check_inside(self, folder: str) -> None:
        inside = os.path.realpath(folder).startswith(f"{self._root}{os.sep}")
        if self._root and not inside:
            raise ModelNotFound(f"{folder} is outside the project: keep model folders below {self._root}")


def _succeeded(load: asyncio.Future[EmbeddingModel]) -> bool:
    return load.done() and not load.cancelled() and load.exception() is None
