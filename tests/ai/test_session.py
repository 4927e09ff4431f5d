from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from runtime import ai
from runtime.ai import host
from runtime.frames import Cancel, ModelCard, Warm
from tests.ai.fake_engine import DIMENSIONS, FakeEngine, fake_engine, row, score

pytestmark = pytest.mark.anyio
CARD = ModelCard("gte-small", DIMENSIONS, 512)
LONG = "word " * 600


@asynccontextmanager
async def local(folder: str = "") -> AsyncIterator[FakeEngine]:
    async with fake_engine() as engine:
        await host.install([CARD], folder).engine.attach(await engine.connection())
        yield engine


async def test_a_text_becomes_a_list_of_floats_that_json_can_say() -> None:
    async with local():
        vector = await ai.Session("gte-small").run("hello", mean_pool=True, normalize=True)
        assert vector == row("hello")
        assert json.loads(json.dumps(vector)) == vector


async def test_a_list_becomes_a_list_of_vectors_in_one_trip() -> None:
    async with local() as engine:
        assert await ai.Session("gte-small").run(["a", "bb"]) == [row("a"), row("bb")]
        assert len(engine.seen) == 1


async def test_without_pooling_each_token_has_its_vector() -> None:
    async with local():
        session = ai.Session("gte-small")
        tokens = [row("a", 0), row("a", 1), row("a", 2)]
        assert await session.run("a", mean_pool=False) == tokens
        assert await session.run(["a", "b c"], mean_pool=False) == [tokens, [row("b c", t) for t in range(4)]]
        assert await session.run(["a"], mean_pool=False) == [tokens]


async def test_an_empty_list_gives_an_empty_list_and_asks_nobody() -> None:
    async with local() as engine:
        session = ai.Session("gte-small")
        assert await session.run([]) == []
        assert await session.run([], mean_pool=False) == []
        assert (await session.embed([])).shape == (0, DIMENSIONS)
        assert engine.seen == []


@pytest.mark.parametrize("normalize", [True, False])
async def test_pooling_and_normalising_are_asked_of_the_engine(normalize: bool) -> None:
    async with local() as engine:
        await ai.Session("gte-small").run("x", mean_pool=False, normalize=normalize)
        assert [(frame.mean_pool, frame.normalize) for frame in engine.embeds()] == [(False, normalize)]


@pytest.mark.parametrize("prompt", [None, 1, b"x", "", {"prompt": "x"}, ["a", 1], ["a", ""], {"a", "b"}])
async def test_what_is_no_text_is_refused_before_anything_is_sent(prompt: object) -> None:
    async with local() as engine:
        with pytest.raises(ai.InvalidInput, match="prompt"):
            await ai.Session("gte-small").run(prompt)
        assert engine.seen == []


async def test_ten_megabytes_of_text_are_refused_before_anything_is_sent() -> None:
    async with local() as engine:
        with pytest.raises(ai.InputTooLarge, match="10000000 bytes"):
            await ai.Session("gte-small").run("x" * 10_000_000)
        assert engine.seen == []


@pytest.mark.parametrize("option", [{"stream": True}, {"mode": "ollama"}, {"temperature": 0}])
async def test_what_only_an_llm_understands_is_refused_by_name(option: dict[str, Any]) -> None:
    async with local():
        with pytest.raises(ai.InvalidInput, match=f"takes no '{next(iter(option))}'"):
            await ai.Session("gte-small").run("x", **option)


async def test_truncation_is_reported_in_the_usage_and_in_one_log_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with local():
        session = ai.Session("gte-small")
        await session.run(["short", LONG, "short", LONG])
        assert session.last_usage == ai.Usage(tokens=3 + 512 + 3 + 512, truncated=(1, 3))
    (record,) = [record for record in caplog.records if record.name == "runtime.ai"]
    assert record.levelno == logging.WARNING
    assert "512 tokens" in record.message
    assert "2 of 4 texts" in record.message
    assert "texts[1]" in record.message


async def test_nothing_is_logged_when_nothing_was_cut(caplog: pytest.LogCaptureFixture) -> None:
    async with local():
        session = ai.Session("gte-small")
        await session.run("short")
        assert session.last_usage == ai.Usage(tokens=3, truncated=())
    assert [record for record in caplog.records if record.name == "runtime.ai"] == []


async def test_each_request_sees_its_own_usage() -> None:
    async with local():
        session, other = ai.Session("gte-small"), ai.Session("gte-small")

        async def request(text: str) -> ai.Usage | None:
            await session.run(text)
            await asyncio.sleep(0)
            await other.run("another session altogether")
            return session.last_usage

        usages = await asyncio.gather(*(request("word " * count) for count in (1, 2, 3)))
        assert [usage.tokens for usage in usages if usage is not None] == [3, 4, 5]
        assert session.last_usage is None


async def test_embed_gives_one_writable_float32_array() -> None:
    async with local():
        array = await ai.Session("gte-small").embed(["a", "bb", "ccc"])
        assert array.dtype == np.float32
        assert array.tolist() == [row("a"), row("bb"), row("ccc")]
        array += 1


async def test_embed_wants_a_list_of_texts() -> None:
    async with local():
        session = ai.Session("gte-small")
        with pytest.raises(ai.InvalidInput, match="texts is str"):
            await session.embed("a")
        with pytest.raises(ai.InvalidInput, match=r"texts\[1\] is int"):
            await session.embed(["a", 1])  # type: ignore[list-item]


async def test_the_timeout_bounds_a_local_run_and_takes_it_out_of_the_engine() -> None:
    async with local() as engine:
        engine.answering = False
        with pytest.raises(ai.InferenceTimeout, match=r"gte-small did not finish within 0\.05 s"):
            await ai.Session("gte-small").run("x", timeout=0.05)
        await engine.until(lambda engine: isinstance(engine.seen[-1], Cancel))


async def test_a_cancelled_handler_takes_its_text_out_of_the_engine() -> None:
    async with local() as engine:
        engine.answering = False
        handler = asyncio.create_task(ai.Session("gte-small").run("x"))
        await engine.until(lambda engine: len(engine.seen) == 1)
        handler.cancel()
        await engine.until(lambda engine: isinstance(engine.seen[-1], Cancel))


async def test_ready_waits_until_the_model_is_loaded() -> None:
    async with local() as engine:
        await ai.Session("gte-small").ready()
        assert [type(frame) for frame in engine.seen] == [Warm]


async def test_a_folder_is_a_local_model_under_its_absolute_path() -> None:
    async with local("/project") as engine:
        assert await ai.Session("./models/mine").run("x") == row("x")
        assert engine.embeds()[0].model == "/project/models/mine"


async def test_a_local_model_wins_over_the_llm_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AI_INFERENCE_API_HOST", "http://127.0.0.1:9")
    async with local():
        assert await ai.Session("gte-small").run("x") == row("x")


def test_an_unknown_model_without_an_llm_server_is_an_error_with_all_ways_out() -> None:
    host.install([CARD, ModelCard("other", 4, 8)])
    with pytest.raises(ai.ModelNotFound) as raised:
        ai.Session("gte-smal")
    ways = ("functions models list --all", "functions models pull gte-smal`", "AI_INFERENCE_API_HOST", ".env")
    for part in ("'gte-smal'", "gte-small, other", *ways):
        assert part in str(raised.value)


@pytest.mark.parametrize("model", [None, "", 7])
def test_a_model_without_a_name_is_refused(model: Any) -> None:
    with pytest.raises(ai.InvalidInput, match=r"model's name is (NoneType|empty|int)"):
        ai.Session(model)


# --- rank, count, dimensions -----------------------------------------------------------------


@asynccontextmanager
async def ranking() -> AsyncIterator[FakeEngine]:
    async with fake_engine() as engine:
        card = ModelCard("ranker", 0, 512, "ranking")
        await host.install([CARD, card]).engine.attach(await engine.connection())
        yield engine


async def test_documents_come_best_first_with_their_places() -> None:
    async with ranking():
        session = ai.Session("ranker")
        found = await session.rank("q", ["one", "three", "two", "seven"])
        assert [(ranked.index, ranked.document) for ranked in found] == [
            (1, "three"),
            (3, "seven"),
            (0, "one"),
            (2, "two"),
        ]
        assert [ranked.score for ranked in found] == [score("q", ranked.document) for ranked in found]
        assert await session.rank("q", ["one", "three", "two"], top=1) == [
            ai.Ranked(1, score("q", "three"), "three")
        ]
        assert len(await session.rank("q", ["one"], top=5)) == 1
        assert json.dumps([found[0].score, found[0].index])


async def test_a_document_that_is_cut_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    async with ranking():
        session = ai.Session("ranker")
        await session.rank("q", ["short", LONG])
        assert session.last_usage == ai.Usage(3 + 512, (1,))
    said = "1 of 2 pairs of query and document were longer and cut, the first is that of documents[1]"
    assert said in caplog.text


async def test_no_documents_are_ranked_without_asking() -> None:
    async with ranking() as engine:
        assert await ai.Session("ranker").rank("q", []) == []
        assert engine.seen == []


@pytest.mark.parametrize(
    ("query", "documents", "top", "says"),
    [
        ("", ["a"], None, "query is empty"),
        (7, ["a"], None, "query is int"),
        ("q", "a", None, "documents is str: give a list"),
        ("q", ["a", ""], None, r"documents\[1\] is empty"),
        ("q", [b"a"], None, r"documents\[0\] is bytes"),
        ("q", ["a"], 0, "top is 0: give a whole number of 1 or more"),
        ("q", ["a"], True, "top is True"),
    ],
)
async def test_what_cannot_be_ranked_is_refused_before_anything_is_sent(
    query: Any, documents: Any, top: Any, says: str
) -> None:
    async with ranking() as engine:
        with pytest.raises(ai.InvalidInput, match=says):
            await ai.Session("ranker").rank(query, documents, top=top)
        assert engine.seen == []


async def test_a_query_is_no_book() -> None:
    async with ranking() as engine:
        with pytest.raises(ai.InputTooLarge, match="query has 16385 characters; it may have 16384"):
            await ai.Session("ranker").rank("x" * 16385, ["a"])
        assert engine.seen == []


async def test_a_model_is_told_from_one_of_the_other_kind() -> None:
    async with ranking() as engine:
        with pytest.raises(ai.InvalidInput, match="embedding model and ranks nothing: take a cross-encoder"):
            await ai.Session("gte-small").rank("q", ["a"])
        with pytest.raises(ai.InvalidInput, match=r"gives no vectors: call rank\("):
            await ai.Session("ranker").run("a")
        with pytest.raises(ai.InvalidInput, match="gives no vectors"):
            await ai.Session("ranker").embed(["a"])
        assert engine.seen == []


async def test_tokens_are_counted() -> None:
    async with local():
        session = ai.Session("gte-small")
        assert await session.count("a text") == 4
        assert await session.count(["a", "a text"]) == [3, 4]
        assert await session.count([]) == []
        with pytest.raises(ai.InvalidInput, match=r"text\[1\] is empty"):
            await session.count(["a", ""])


async def test_the_engine_is_told_which_texts_are_questions() -> None:
    async with local() as engine:
        session = ai.Session("gte-small")
        await session.run("x", query=True)
        await session.run(["x"])
        await session.embed(["x"], query=True)
        assert [frame.query for frame in engine.embeds()] == [True, False, True]


async def test_dimensions_are_asked_of_the_engine() -> None:
    async with local() as engine:
        session = ai.Session("gte-small")
        await session.run(["x"], dimensions=2)
        await session.run("x")
        await session.embed(["x"], dimensions=3)
        assert [frame.dimensions for frame in engine.embeds()] == [2, None, 3]
        assert (await session.embed([], dimensions=3)).shape == (0, 3)
        wrong: Any
        for wrong in (0, -1, 2.0, "3", True):
            with pytest.raises(ai.InvalidInput, match="dimensions is"):
                await session.run("x", dimensions=wrong)
        for wrong in (2**70, -(2**70), 10**5000):
            with pytest.raises(ai.InvalidInput, match="dimensions is too large"):
                await session.run("x", dimensions=wrong)


@pytest.mark.parametrize("flag", ["mean_pool", "normalize", "query"])
@pytest.mark.parametrize("wrong", ["yes", 1, 0, None])
async def test_a_flag_is_true_or_false(flag: str, wrong: Any) -> None:
    async with local() as engine:
        with pytest.raises(ai.InvalidInput, match=f"{flag} is .*: give True or False"):
            await ai.Session("gte-small").run("x", **{flag: wrong})
        assert engine.seen == []


async def test_a_list_of_texts_for_a_model_that_was_not_pulled_says_how_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AI_INFERENCE_API_HOST", "http://localhost:1")
    with pytest.raises(ai.InvalidInput, match=r"prompt is list.*`functions models pull gte-base`"):
        await ai.Session("gte-base").run(["a"])


@pytest.mark.parametrize("option", [{"mode": "ollama"}, {"truncate": False}, {"mean_pool": False}])
async def test_embed_of_a_local_model_refuses_what_only_llm_servers_take(option: dict[str, Any]) -> None:
    async with local() as engine:
        with pytest.raises(ai.InvalidInput, match=f"takes no '{next(iter(option))}'"):
            await ai.Session("gte-small").embed(["x"], **option)
        assert engine.seen == []


@pytest.mark.parametrize("method", ["rank", "count"])
async def test_what_only_local_models_do_is_refused_of_others(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AI_INFERENCE_API_HOST", "http://localhost:1")
    arguments = (["a"],) if method != "rank" else ("q", ["a"])
    hint = r"if the catalogue has it: `functions models pull mistral`"
    with pytest.raises(ai.InvalidInput, match=rf"{method}\(\) works with local models; .*{hint}"):
        await getattr(ai.Session("mistral"), method)(*arguments)
