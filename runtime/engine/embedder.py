"""The life of a text: admitted, tokenized on a thread, queued, run, formed into rows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, NamedTuple

from runtime.engine.admission import Admission
from runtime.engine.models.store import Store
from runtime.engine.registry import Registry
from runtime.engine.scheduler import Form, Scheduler
from runtime.errors import InputTooLarge, InvalidInput

if TYPE_CHECKING:
    from runtime.engine.model import EmbeddingModel
    from runtime.engine.tokenizer import Encoded

MAX_TEXT = 512 * 1024
"""Bytes of one text in UTF-8."""

_AT_ONCE = 1024
_AT_ONCE_PER_TOKEN = 32  # every token has a vector: 25 MB of them at 512 tokens and 384 dimensions


class Part(NamedTuple):
    """The results of the next texts of a call: their rows as bytes, how many each has."""

    pieces: Iterator[bytes]
    rows: list[int]
    texts: list[Encoded]


class Embedder:
    """Models, and the threads that run them.

    Args:
        threads: that run inference; as many as there are cores.
        root: the folder that models outside the store must lie in; empty: anywhere.
    """

    def __init__(self, store: Store, threads: int, root: str = "") -> None:
        self._admission = Admission()
        self._models = Registry(store, root)
        self._scheduler = Scheduler(threads)
        self._tokenizers = ThreadPoolExecutor(threads, thread_name_prefix="tokenizing")

    def room(self, texts: Sequence[str], form: Form) -> AbstractContextManager[None]:
        """Hold this while the call is in flight.

        Raises:
            InvalidInput: a text is empty.
            InputTooLarge: a text is over `MAX_TEXT`.
            EngineUnavailable: too much is waiting already.
        """
        for index, text in enumerate(texts):
            _check(index, text)
        return self._admission.hold(texts, _at_once(form))

    async def model(self, name: str) -> EmbeddingModel:
        """The model, loaded on first use.

        Raises:
            ModelNotFound: the store has no such model.
            UsageError: its files are missing, broken or not supported.
        """
        return await self._models.get(name)

    async def embed(
        self, model: EmbeddingModel, texts: Sequence[str], form: Form
    ) -> AsyncGenerator[Part, None]:
        """Rows of the texts, in order and in parts, so that a call of any size takes little memory."""
        from runtime.engine.vectors import pieces

        model.check(form)
        loop = asyncio.get_running_loop()
        for start in range(0, len(texts), _at_once(form)):
            part = texts[start : start + _at_once(form)]
            encoded = await loop.run_in_executor(self._tokenizers, model.encode, part)
            rows = await self._scheduler.run(model, [text.ids for text in encoded], form)
            yield Part(pieces(rows), [len(matrix) for matrix in rows], encoded)

    def forget_replaced(self) -> None:
        """Load anew what the store has in another version now; calls in flight keep theirs."""
        self._models.forget_replaced()

    def refuse(self) -> None:
        """Admit no further call."""
        self._admission.close()

    def close(self) -> None:
        """Start nothing more on any thread."""
        self._scheduler.close()
        self._models.close()
        self._tokenizers.shutdown(wait=False, cancel_futures=True)


def _at_once(form: Form) -> int:
    return _AT_ONCE if form.mean_pool else _AT_ONCE_PER_TOKEN


def _check(index: int, text: str) -> None:
    if not text:
        raise InvalidInput(f"Text {index} is empty: nothing to embed")
    # A character has at most four bytes: most texts need no encoding to be told short.
    if len(text) * 4 > MAX_TEXT:
        size = len(text.encode())
        if size > MAX_TEXT:
            raise InputTooLarge(
                f"Text {index} has {size} bytes; the limit is {MAX_TEXT}: split it into passages"
                " (a model reads only the first few hundred words anyway)"
            )
