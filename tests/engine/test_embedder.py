"""Texts in, rows and scores out, with a model that only counts letters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.engine import embedder as module
from runtime.engine.embedder import MAX_QUERY, Embedder
from runtime.engine.models.store import Store
from runtime.engine.registry import Registry
from runtime.engine.scheduler import Form, Pair, Text
from runtime.engine.tokenizer import Encoded
from runtime.errors import EngineUnavailable, InputTooLarge, InvalidInput

pytestmark = pytest.mark.anyio


class Letters:
    """A token per letter, 50 at most; a text's row is its length, a pair's that of its document."""

    packs = True
    wide = False
    dimensions = 1
    card = SimpleNamespace(max_tokens=50)

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def check(self, form: Form) -> None:
        if form.dimensions > self.dimensions:
            raise InvalidInput("too many dimensions")

    def check_ranking(self) -> None:
        pass

    def encode(self, texts: Sequence[str], *, query: bool = False) -> list[Encoded]:
        return [Encoded([1] * len(text.strip()[:50]), len(text) > 50) for text in texts]

    def encode_pairs(self, query: str, documents: Sequence[str]) -> list[Encoded]:
        return [
            Encoded([1] * len(query + document), len(document) > 50, [0] * len(query) + [1] * len(document))
            for document in documents
        ]

    def count(self, texts: Sequence[str]) -> list[int]:
        return [len(text) for text in texts]

    def infer(
        self, batch: Sequence[Text], forms: Sequence[Form], *, alone: bool = False
    ) -> list[NDArray[np.float32]]:
        self.batches.append([len(text) for text in batch])
        sums = [sum(text.types) if isinstance(text, Pair) else len(text) for text in batch]
        return [np.full((1, 1), number, dtype=np.float32) for number in sums]


@pytest.fixture
def model() -> Letters:
    return Letters()


@pytest.fixture
def embedder(tmp_path: Path) -> Iterator[Embedder]:
    made = Embedder(Registry(Store(tmp_path, {})), threads=2)
    yield made
    made.close()


async def rows(embedder: Embedder, model: Letters, texts: list[str]) -> list[float]:
    data = b""
    with embedder.room(texts) as room:
        async for part in embedder.embed(cast(Any, model), texts, Form(), room):
            data += b"".join(part.pieces)
    return list(np.frombuffer(data, dtype="<f4"))


async def scores(embedder: Embedder, model: Letters, query: str, documents: list[str]) -> list[float]:
    with embedder.room(documents, query=query) as room:
        ranking = await embedder.rank(cast(Any, model), query, documents, room)
    assert len(ranking.pairs) == len(documents)
    return list(np.frombuffer(ranking.scores, dtype="<f4"))


async def test_a_large_call_comes_back_in_order_though_it_runs_by_length(
    embedder: Embedder, model: Letters
) -> None:
    texts = ["x" * (number * 7 % 50 + 1) for number in range(3000)]
    assert await rows(embedder, model, texts) == [len(text) for text in texts]
    assert min(batch[0] for batch in model.batches[:10]) >= 40  # the longest of its first thousand
    assert sum(map(len, model.batches)) == 3000
    assert all(sum(batch) <= 256 for batch in model.batches)


async def test_documents_are_scored_in_order(embedder: Embedder, model: Letters) -> None:
    documents = ["x" * (number * 7 % 50 + 1) for number in range(2000)]
    assert await scores(embedder, model, "query", documents) == [len(text) for text in documents]
    assert await scores(embedder, model, "query", []) == []


async def test_there_is_no_ranking_without_a_query(embedder: Embedder, model: Letters) -> None:
    with pytest.raises(InvalidInput, match="query is empty"):
        await scores(embedder, model, "", ["document"])


async def test_a_query_is_no_book(embedder: Embedder, model: Letters) -> None:
    with pytest.raises(InputTooLarge, match=f"{MAX_QUERY + 1} characters"):
        await scores(embedder, model, "x" * (MAX_QUERY + 1), ["document"])


async def test_an_empty_document_is_refused(embedder: Embedder, model: Letters) -> None:
    with pytest.raises(InvalidInput, match="Text 1 is empty"):
        await scores(embedder, model, "query", ["document", ""])


@pytest.mark.parametrize("text", ["short", "long " * 1000])
async def test_tokens_are_counted_without_running_anything(
    text: str, embedder: Embedder, model: Letters
) -> None:
    assert await embedder.count(cast(Any, model), [text, "x"]) == [len(text), 1]
    assert model.batches == []


async def test_what_the_model_cannot_give_is_not_run(embedder: Embedder, model: Letters) -> None:
    with pytest.raises(InvalidInput, match="too many dimensions"), embedder.room(["x"]) as room:
        await anext(embedder.embed(cast(Any, model), ["x"], Form(dimensions=2), room))
    assert model.batches == []


async def test_overload_is_refused_before_anything_is_tokenized(embedder: Embedder) -> None:
    texts = ["x" * 2048] * 256  # as much as one call of a client has in flight
    with (
        embedder.room(texts),
        embedder.room(texts),
        pytest.raises(EngineUnavailable, match="overloaded"),
        embedder.room(texts),
    ):
        pass


def test_a_single_thread_has_room_for_any_call_of_one_client(tmp_path: Path) -> None:
    made = Embedder(Registry(Store(tmp_path, {})), threads=1)
    with made.room(["x" * 4096] * 256), pytest.raises(EngineUnavailable), made.room(["x" * 4096] * 64):
        pass
    made.close()


@pytest.mark.parametrize("texts", [["   "], ["a text", "   "]])
async def test_a_text_without_tokens_is_refused_before_anything_runs(
    embedder: Embedder, model: Letters, texts: list[str]
) -> None:
    with pytest.raises(InvalidInput, match=rf"^Text {len(texts) - 1} has no tokens for this model"):
        await rows(embedder, model, texts)
    assert model.batches == []


async def test_texts_whose_every_token_has_a_vector_run_by_megabytes(
    embedder: Embedder, model: Letters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BYTES_AT_ONCE", 4 * 50 * 3)
    form, texts, sizes = Form(mean_pool=False), ["x" * 7] * 8, list[int]()
    with embedder.room(texts, form, owner="me") as room:
        async for part in embedder.embed(cast(Any, model), texts, form, room):
            sizes.append(len(part.texts))
            assert embedder._admission.results == {"me": 4 * 7 * len(part.texts)}
            assert embedder._admission.waiting == 0  # they have run: only their reader is waited for
    assert sizes == [3, 3, 2]
    assert not embedder._admission.results
