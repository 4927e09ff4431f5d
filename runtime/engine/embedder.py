"""The life of a text: admitted, tokenized on a thread, queued, run, formed into rows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from runtime.engine.admission import TOKENS, Admission, Room
from runtime.engine.raw import Graphs
from runtime.engine.registry import Registry
from runtime.engine.scheduler import Form, Pair, Scheduler
from runtime.errors import InputTooLarge, InvalidInput

if TYPE_CHECKING:
    from runtime.engine.model import EmbeddingModel
    from runtime.engine.tokenizer import Encoded

MAX_TEXT = 512 * 1024
"""Bytes of one text in UTF-8."""

MAX_QUERY = 16 * 1024
"""Characters of a query: it is read again with every document."""

_SCORE = Form(normalize=False)
_SHORT = 2000  # characters that are tokenized sooner than handed to a thread
_AT_ONCE = 1024
_BYTES_AT_ONCE = 32 << 20  # where every token has a vector, of as many texts as give so much at most
_GUESSED_AT_ONCE = 32  # such texts; how many is known with the model

T = TypeVar("T")


class Part(NamedTuple):
    """The results of the next texts of a call: their rows as bytes, how many each has."""

    pieces: Iterator[bytes]
    rows: list[int]
    texts: list[Encoded]


class Ranking(NamedTuple):
    """The scores of a query's documents as float32 bytes, and the pairs as the model saw them."""

    scores: bytes
    pairs: list[Encoded]


class Embedder:
    """Models, and the threads that run them.

    Args:
        models: closed together with this.
        threads: that run inference; as many as there are cores.

    Attributes:
        graphs: runs graphs as they are, on the same threads.
    """

    def __init__(self, models: Registry, threads: int) -> None:
        self._admission = Admission(threads * TOKENS)
        self._models = models
        self._scheduler = Scheduler(threads)
        self._tokenizers = ThreadPoolExecutor(threads, thread_name_prefix="tokenizing")
        self.graphs = Graphs(models, self._scheduler)

    def room(
        self, texts: Sequence[str], form: Form = _SCORE, query: str = "", owner: Hashable = None
    ) -> AbstractContextManager[Room]:
        """Hold this while the call is in flight.

        Args:
            query: what each of the texts is read with.
            owner: whose reader takes the results: the call's connection.

        Raises:
            InvalidInput: a text is empty.
            InputTooLarge: a text is over `MAX_TEXT`, or the query over `MAX_QUERY`.
            EngineUnavailable: too much is waiting already.
        """
        if len(query) > MAX_QUERY:
            raise InputTooLarge(
                f"The query has {len(query)} characters; the limit is {MAX_QUERY}: shorten it"
            )
        for index, text in enumerate(texts):
            _check(index, text)
        at_once = _AT_ONCE if form.mean_pool else _GUESSED_AT_ONCE
        return self._admission.hold([len(query) + len(text) for text in texts], at_once, owner)

    def using(self, name: str) -> AbstractAsyncContextManager[EmbeddingModel]:
        """The model, loaded on first use, and kept in memory meanwhile.

        Raises:
            ModelNotFound: the store has no such model.
            UsageError: its files are missing, broken or not supported.
        """
        return self._models.use(name)

    async def embed(
        self,
        model: EmbeddingModel,
        texts: Sequence[str],
        form: Form,
        room: Room,
        turn: Hashable = None,
        *,
        query: bool = False,
    ) -> AsyncGenerator[Part, None]:
        """Rows of the texts, in order and in parts, so that a call of any size takes little memory.

        Args:
            query: the texts are questions.

        Raises:
            InvalidInput: the model gives no vectors of this form, or a text has no tokens.
        """
        from runtime.engine.vectors import pieces

        model.check(form)
        done = 0
        for part in _parts(texts, _at_once(model, form)):
            encoded = await self._tokenize(partial(model.encode, part, query=query), sum(map(len, part)))
            _check_tokens(encoded, done)
            lengths = [len(text.ids) for text in encoded]
            await room.results(4 * model.dimensions * (len(part) if form.mean_pool else sum(lengths)))
            room.known(lengths)
            rows = await self._scheduler.run(model, [text.ids for text in encoded], form, turn)
            room.known(())
            yield Part(pieces(rows), [len(matrix) for matrix in rows], encoded)
            done += len(part)

    async def rank(
        self, model: EmbeddingModel, query: str, documents: Sequence[str], room: Room, turn: Hashable = None
    ) -> Ranking:
        """How well each document answers the query.

        Raises:
            InvalidInput: the query is empty, a pair has no tokens, or the model is no cross-encoder.
        """
        from runtime.engine.vectors import pieces

        if not query:
            raise InvalidInput("The query is empty: nothing to rank the documents by")
        model.check_ranking()
        ranking = Ranking(b"", [])
        for part in _parts(documents, _AT_ONCE):
            work = sum(len(query) + len(document) for document in part)
            pairs = await self._tokenize(partial(model.encode_pairs, query, part), work)
            _check_tokens(pairs, len(ranking.pairs))
            room.known([len(pair.ids) for pair in pairs])
            texts = [Pair(pair.ids, pair.types) for pair in pairs]
            rows = await self._scheduler.run(model, texts, _SCORE, turn)
            ranking = Ranking(ranking.scores + b"".join(pieces(rows)), ranking.pairs + pairs)
        return ranking

    async def count(self, model: EmbeddingModel, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, also of an end that the model would not read."""
        return await self._tokenize(partial(model.count, texts), sum(map(len, texts)))

    async def _tokenize(self, work: Callable[[], T], characters: int) -> T:
        if characters <= _SHORT:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._tokenizers, work)

    def forget_replaced(self) -> None:
        """Load anew what the store has in another version now; calls in flight keep theirs."""
        self._models.forget_replaced()

    def refuse(self) -> None:
        """Admit no further call."""
        self._admission.close()
        self.graphs.refuse()

    def close(self) -> None:
        """Start nothing more on any thread."""
        self._scheduler.close()
        self._models.close()
        self._tokenizers.shutdown(wait=False, cancel_futures=True)


def _parts(texts: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (texts[start : start + size] for start in range(0, len(texts), size))


def _at_once(model: EmbeddingModel, form: Form) -> int:
    if form.mean_pool:
        return _AT_ONCE
    longest = 4 * model.dimensions * model.card.max_tokens
    return min(max(_BYTES_AT_ONCE // longest, 1), _AT_ONCE)


def _check_tokens(texts: Sequence[Encoded], before: int) -> None:
    for index, text in enumerate(texts, start=before):
        if not text.ids:
            raise InvalidInput(
                f"Text {index} has no tokens for this model: its tokenizer drops all of it (is it blank?)"
            )


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
