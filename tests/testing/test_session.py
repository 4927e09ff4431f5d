"""What `FakeSession` adds to `ai.Session`: scripts, a memory, and vectors out of nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from runtime import ai
from runtime.ai.llm import client
from runtime.testing import Call, FakeSession
from runtime.testing.llm import ScriptedServer

pytestmark = pytest.mark.anyio


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


async def test_it_is_a_session() -> None:
    assert isinstance(FakeSession(), ai.Session)
    assert repr(FakeSession("mistral", replies=["a"])) == "Session('mistral')"


@pytest.mark.parametrize(
    ("model", "options", "dimensions"), [("gte-small", {}, 384), ("x", {}, 384), ("x", {"dimensions": 5}, 5)]
)
async def test_vectors_are_as_long_as_asked(model: str, options: dict[str, int], dimensions: int) -> None:
    assert len(await FakeSession(model, **options).run("a text")) == dimensions  # type: ignore[arg-type]


async def test_vectors_are_the_same_on_every_machine() -> None:
    vector = await FakeSession(dimensions=4).run("Luke, I am your father")
    assert vector == pytest.approx([-0.0419893, 0.6065997, 0.06551, 0.7911903], abs=1e-6)


async def test_texts_that_share_words_are_near_each_other() -> None:
    session = FakeSession()
    cat, near, far = await session.run(
        ["the cat sat on the mat", "a cat on a mat", "interest rates rose in spring"]
    )
    assert dot(cat, near) > 0.3 > 0.15 > dot(cat, far)


@pytest.mark.parametrize(("one", "other"), [("a b", "b a"), ("a", "A"), ("a", "a "), ("1", "2")])
async def test_different_texts_have_different_vectors(one: str, other: str) -> None:
    first, second = await FakeSession().run([one, other])
    assert dot(first, second) < 0.9999


async def test_the_catalogue_says_how_much_a_model_reads() -> None:
    session = FakeSession("all-minilm-l6-v2")
    await session.run("word " * 300)
    assert session.last_usage == ai.Usage(256, (0,))


async def test_documents_that_share_words_with_the_query_come_first() -> None:
    session = FakeSession("ms-marco-minilm-l6-v2")
    documents = ["Interest rates rose.", "Your father is Luke.", "The weather is nice."]
    ranked = await session.rank("Who is my father?", documents)
    assert [found.index for found in ranked] == [1, 2, 0]
    assert ranked == await FakeSession("ms-marco-minilm-l6-v2").rank("Who is my father?", documents)
    assert await session.rank("nothing", documents, top=1)
    assert (session.calls[0].query, session.calls[0].texts) == ("Who is my father?", documents)
    with pytest.raises(ai.InvalidInput, match="gives no vectors"):
        await session.run("a text")


async def test_a_model_that_nobody_knows_does_both_unless_it_is_told() -> None:
    assert await FakeSession("x").rank("a", ["a"])
    assert await FakeSession("x").run("a")
    with pytest.raises(ai.InvalidInput, match="ranks nothing"):
        await FakeSession("x", kind="embedding").rank("a", ["a"])
    with pytest.raises(ai.InvalidInput, match="gives no vectors"):
        await FakeSession("x", kind="ranking").run("a")
    with pytest.raises(ai.InvalidInput, match="kind is 'other'"):
        FakeSession("x", kind="other")  # type: ignore[arg-type]


async def test_it_is_seen_which_texts_were_said_to_be_questions() -> None:
    session = FakeSession("e5-small-v2")
    assert await session.run("a text", query=True) == await session.run("a text")
    assert [call.questions for call in session.calls] == [True, False]


async def test_vectors_are_cut_as_far_as_the_catalogue_allows() -> None:
    whole = await FakeSession("x").run("a text", normalize=False)
    assert await FakeSession("x").run("a text", normalize=False, dimensions=7) == whole[:7]
    session = FakeSession("nomic-embed-text-v1.5")
    assert len(await session.run("a text", dimensions=256)) == 256
    with pytest.raises(ai.InvalidInput, match="no vectors of 255 numbers: its vectors may have 64, 128, 256"):
        await session.run("a text", dimensions=255)
    assert [call.dimensions for call in session.calls] == [256, 255]


async def test_it_remembers_what_it_was_asked() -> None:
    session = FakeSession()
    await session.run("a", normalize=False)
    await session.run(["b", "c"], mean_pool=False)
    assert session.calls == [
        Call("gte-small", ["a"], normalize=False),
        Call("gte-small", ["b", "c"], mean_pool=False),
    ]
    model = FakeSession("mistral", replies=["x"])
    await model.run("hi", format="json")
    await model.run({"messages": [{"role": "system", "content": "be"}, {"role": "user", "content": "you"}]})
    assert [call.prompt for call in model.calls] == ["hi", "you"]
    assert [call.path for call in model.calls] == ["/api/generate", "/api/chat"]
    assert model.calls[0].body["format"] == "json"


async def test_an_answer_is_given_at_every_call() -> None:
    session = FakeSession("mistral", replies=["Hello", " world"])
    for _ in range(2):
        assert (await session.run("hi")).response == "Hello world"
    assert (await FakeSession("m", replies="one piece").run("hi")).response == "one piece"


async def test_answers_are_given_in_turn_and_one_too_many_is_said() -> None:
    session = FakeSession("mistral", replies=[["First"], ["Second", " answer"]])
    assert (await session.run("hi")).response == "First"
    assert (await session.run("hi")).response == "Second answer"
    with pytest.raises(ai.InvalidInput, match="asked 3 times, and its script has 2"):
        await session.run("hi")


async def test_an_answer_may_be_computed() -> None:
    session = FakeSession("mistral", replies=lambda call: [call.prompt.upper()])
    assert (await session.run("hi")).response == "HI"


async def test_a_piece_is_made_when_the_one_before_was_taken() -> None:
    made = []

    def pieces(call: Call) -> Iterator[str]:
        for number in range(4):
            made.append(number)
            yield str(number)

    stream = await FakeSession("mistral", replies=pieces).run("hi", stream=True)
    async for chunk in stream:
        if chunk.response:
            assert made[-1] == int(chunk.response)


async def test_a_piece_may_be_waited_for_and_a_limit_holds_meanwhile() -> None:
    async def pieces(call: Call) -> AsyncIterator[str]:
        yield "a"
        await asyncio.Event().wait()

    stream = await FakeSession("mistral", replies=pieces).run(
        "hi", stream=True, timeout=ai.Timeout(idle=0.01)
    )
    assert (await anext(stream)).response == "a"
    with pytest.raises(ai.InferenceTimeout, match=r"timeout\.idle"):
        await anext(stream)


@pytest.mark.parametrize("mode", ["ollama", "openaicompatible"])
async def test_a_piece_may_be_the_providers_own(mode: str) -> None:
    own = {"done": True, "choices": [{"finish_reason": "stop"}], "eval_count": 7}
    session = FakeSession("mistral", replies=[own], mode=mode)
    assert (await session.run("hi")).eval_count == 7
    assert (await anext(await session.run("hi", stream=True))).eval_count == 7


@pytest.mark.parametrize("error", [ai.UpstreamError(503, "busy"), ai.InferenceTimeout("slow")])
async def test_it_fails_at_the_start_or_amid_its_answer(error: ai.AIError) -> None:
    at_once = FakeSession("mistral", replies=error)
    for stream in (False, True):
        with pytest.raises(type(error)):
            await at_once.run("hi", stream=stream)
    session = FakeSession("mistral", replies=["Hel", error])
    with pytest.raises(type(error)):
        await session.run("hi")
    answer = await session.run("hi", stream=True)
    assert (await anext(answer)).response == "Hel"
    with pytest.raises(type(error)):
        await anext(answer)


async def test_a_break_amid_a_stream_is_told_as_an_event() -> None:
    session = FakeSession("mistral", replies=["Hel", ai.IncompleteStream("cut")])
    stream = await session.run("hi", stream=True)
    body = stream.body()
    assert (await anext(body)).startswith(b"data: {")
    assert (await anext(body)).startswith(b"event: error\n")
    with pytest.raises(ai.IncompleteStream):
        await anext(body)


async def test_getting_ready_asks_nothing() -> None:
    for session in (FakeSession(), FakeSession("mistral", replies=[["only"]])):
        await session.ready()
        assert session.calls == []


async def test_a_reply_that_is_none_is_refused() -> None:
    with pytest.raises(TypeError, match="a reply is int"):
        FakeSession("mistral", replies=["a", 7])  # type: ignore[list-item]


async def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ai.InvalidMode):
        FakeSession("mistral", replies=["a"], mode="neither")


async def test_one_connection_pool_is_kept_for_a_model_and_closed_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closed: list[ScriptedServer] = []

    async def aclose(server: ScriptedServer) -> None:
        closed.append(server)

    monkeypatch.setattr(ScriptedServer, "aclose", aclose)
    session = FakeSession("mistral", replies=["a"])
    for _ in range(3):
        assert (await session.run("hi")).response == "a"
    assert closed == []
    await client.close()
    assert len(closed) == 1
