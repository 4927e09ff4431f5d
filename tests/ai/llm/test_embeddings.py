"""Embeddings of an LLM server: what is asked, what is read, and what is said when it cannot be."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import ai
from runtime.ai.llm import embeddings
from runtime.tensors import normalized
from tests.ai.upstream import Call, Script, for_ever, serve

MODES = pytest.mark.parametrize("mode", ["ollama", "openaicompatible"])
PATHS = {"ollama": "/api/embed", "openaicompatible": "/v1/embeddings"}
ROWS = [[3.0, 4.0], [0.0, -2.0], [0.5, 0.0]]


def base64_of(row: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(row)}f", *row)).decode()


def answer(mode: str, rows: Sequence[Any], tokens: int | None = 7) -> dict[str, Any]:
    """As the API has it: floats in Ollama's, and base64 in OpenAI's, last row first."""
    if mode == "ollama":
        return {"model": "m", "embeddings": rows} | ({} if tokens is None else {"prompt_eval_count": tokens})
    items = [
        {"object": "embedding", "index": at, "embedding": row if isinstance(row, str) else base64_of(row)}
        for at, row in enumerate(rows)
    ]
    usage = {} if tokens is None else {"usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
    return {"object": "list", "data": items[::-1]} | usage


def saying(body: object, status: int = 200) -> Script:
    async def script(call: Call) -> None:
        call.answer(status, body if isinstance(body, bytes) else json.dumps(body).encode())

    return script


def numbered(mode: str, tokens: int | None = 1) -> Callable[[Call], Any]:
    """Each text is a number, and its vector [number, 1]."""

    async def script(call: Call) -> None:
        rows = [[float(text), 1.0] for text in call.request.json()["input"]]
        call.answer(200, json.dumps(answer(mode, rows, tokens)).encode())

    return script


def session_at(url: str, mode: str = "ollama") -> ai.Session:
    return ai.Session("m", host=url, mode=mode)


# --- what is asked and given -----------------------------------------------------------------


@MODES
@pytest.mark.anyio
async def test_texts_become_rows_of_length_one_in_their_order(mode: str) -> None:
    async with serve(saying(answer(mode, ROWS))) as upstream:
        array = await session_at(upstream.url, mode).embed(["a", "b", "c"])
        assert (str(array.dtype), array.shape, array.flags.writeable) == ("float32", (3, 2), True)
        np.testing.assert_allclose(array, np.array([[0.6, 0.8], [0.0, -1.0], [1.0, 0.0]]), rtol=1e-6)
        (request,) = upstream.requests
        assert (request.method, request.path) == ("POST", PATHS[mode])
        asked = {"model": "m", "input": ["a", "b", "c"]}
        assert request.json() == asked | ({} if mode == "ollama" else {"encoding_format": "base64"})


@MODES
@pytest.mark.anyio
async def test_without_normalising_the_servers_numbers_stay(mode: str) -> None:
    async with serve(saying(answer(mode, ROWS))) as upstream:
        array = await session_at(upstream.url, mode).embed(["a", "b", "c"], normalize=False)
        assert array.tolist() == ROWS


@MODES
@pytest.mark.anyio
async def test_dimensions_and_other_fields_are_passed_on(mode: str) -> None:
    async with serve(saying(answer(mode, [[1, 0]]))) as upstream:
        session = session_at(upstream.url, mode)
        await session.embed(["a"], dimensions=2, truncate=False, keep_alive="5m", options={"num_ctx": 9})
        body = upstream.requests[0].json()
        assert (body["dimensions"], body["truncate"], body["keep_alive"]) == (2, False, "5m")
        assert body["options"] == {"num_ctx": 9}


@pytest.mark.anyio
async def test_floats_are_taken_where_base64_was_asked_for() -> None:
    items = [{"index": at, "embedding": row} for at, row in enumerate(ROWS)]
    async with serve(saying({"data": items})) as upstream:
        session = session_at(upstream.url, "openaicompatible")
        assert (await session.embed(["a", "b", "c"], normalize=False)).tolist() == ROWS
        await session.embed(["a", "b", "c"], encoding_format="float")
        assert [sent.json()["encoding_format"] for sent in upstream.requests] == ["base64", "float"]


@pytest.mark.anyio
async def test_rows_without_an_index_are_in_the_order_of_the_texts() -> None:
    async with serve(saying({"data": [{"embedding": row} for row in ROWS]})) as upstream:
        session = session_at(upstream.url, "openaicompatible")
        assert (await session.embed(["a", "b", "c"], normalize=False)).tolist() == ROWS


@pytest.mark.anyio
async def test_a_row_of_zeros_stays_one() -> None:
    async with serve(saying({"embeddings": [[0, 0], [1e-30, 0], [3e38, 3e38]]})) as upstream:
        array = await session_at(upstream.url).embed(["a", "b", "c"])
        half = 2**-0.5
        np.testing.assert_allclose(array, np.array([[0.0, 0.0], [1.0, 0.0], [half, half]]), rtol=1e-6)


@pytest.mark.anyio
async def test_mode_base_path_and_key_are_those_of_the_session_and_the_call() -> None:
    async with serve(numbered("openaicompatible")) as upstream:
        session = ai.Session("m", host=f"{upstream.url}/openai/v1", api_key="sk-secret")
        await session.embed(["1"], mode="openaicompatible")
        (request,) = upstream.requests
        assert request.path == "/openai/v1/embeddings"
        assert request.headers["authorization"] == "Bearer sk-secret"
        with pytest.raises(ai.InvalidMode):
            await session.embed(["1"], mode="openai")


@MODES
@pytest.mark.anyio
async def test_an_answer_may_be_cut_anywhere(mode: str) -> None:
    whole = json.dumps(answer(mode, ROWS), indent=1).encode()

    async def pieces(call: Call) -> None:
        call.head(content_type="application/json")
        call.pieces(whole[at : at + 1] for at in range(len(whole)))
        call.end()

    async with serve(pieces) as upstream:
        array = await session_at(upstream.url, mode).embed(["a", "b", "c"], normalize=False)
        assert array.tolist() == ROWS


# --- usage -----------------------------------------------------------------------------------


@MODES
@pytest.mark.anyio
async def test_the_usage_has_the_tokens_of_all_parts(mode: str) -> None:
    async with serve(numbered(mode, tokens=5)) as upstream:
        session = session_at(upstream.url, mode)
        await session.embed([str(number) for number in range(257)])
        assert session.last_usage == ai.Usage(10, ())


@pytest.mark.parametrize("told", [{}, {"usage": None}, {"usage": {}}, {"usage": {"prompt_tokens": "7"}}])
@pytest.mark.anyio
async def test_a_server_that_tells_no_tokens_leaves_no_usage(told: dict[str, Any]) -> None:
    bodies = iter([answer("openaicompatible", [[1.0]]), answer("openaicompatible", [[1.0]], None) | told])

    async def script(call: Call) -> None:
        call.answer(200, json.dumps(next(bodies)).encode())

    async with serve(script) as upstream:
        session = session_at(upstream.url, "openaicompatible")
        await session.embed(["a"])
        assert session.last_usage == ai.Usage(7, ())
        await session.embed(["a"])
        assert session.last_usage is None


# --- long lists ------------------------------------------------------------------------------


@MODES
@pytest.mark.anyio
async def test_a_long_list_is_cut_and_its_rows_come_in_order(mode: str) -> None:
    async with serve(numbered(mode)) as upstream:
        texts = [str(number) for number in range(1, 1000)]
        array = await session_at(upstream.url, mode).embed(texts, normalize=False)
        assert array[:, 0].tolist() == [float(text) for text in texts]
        assert sorted(len(sent.json()["input"]) for sent in upstream.requests) == [231, 256, 256, 256]


@pytest.mark.anyio
async def test_four_parts_run_at_a_time_and_the_order_is_kept_whichever_is_first() -> None:
    arrived: asyncio.Queue[Call] = asyncio.Queue()
    answers = numbered("ollama")
    texts = [str(number) for number in range(256 * 5)]

    async with serve(arrived.put) as upstream:
        asked = asyncio.create_task(session_at(upstream.url).embed(texts, normalize=False))
        four = [await arrived.get() for _ in range(4)]
        assert arrived.empty()
        for call in reversed(four):
            await answers(call)
        await answers(await arrived.get())
        assert (await asked)[:, 0].tolist() == list(range(256 * 5))
        assert len(upstream.requests) == 5


@pytest.mark.anyio
async def test_the_first_failure_ends_the_other_parts() -> None:
    stalled: list[Call] = []
    both = asyncio.Event()

    async def script(call: Call) -> None:
        if len(call.request.json()["input"]) == 256:
            stalled.append(call)
            both.set()
            await for_ever(call)
        else:
            await both.wait()
            call.answer(500, b"no memory")

    async with serve(script) as upstream:
        with pytest.raises(ai.UpstreamError, match="status 500: no memory"):
            await session_at(upstream.url).embed(["a"] * 300)
        await asyncio.wait_for(stalled[0].gone.wait(), 5)


@pytest.mark.anyio
async def test_one_limit_holds_for_all_parts() -> None:
    async def slow(call: Call) -> None:
        if len(upstream.requests) == 6:
            await for_ever(call)
        else:
            await numbered("ollama")(call)

    async with serve(slow) as upstream:
        with pytest.raises(ai.InferenceTimeout, match=r"within 0.3 s \(timeout.total\)"):
            await session_at(upstream.url).embed(["1"] * 256 * 6, timeout=0.3)


@pytest.mark.anyio
async def test_a_stalled_answer_meets_its_own_limit_and_is_closed() -> None:
    async def stalls(call: Call) -> None:
        call.head(content_type="application/json")
        call.piece(b'{"embeddings":')
        await for_ever(call)

    async with serve(stalls) as upstream:
        with pytest.raises(ai.InferenceTimeout, match=r"timeout\.idle"):
            await session_at(upstream.url).embed(["a"], timeout=ai.Timeout(idle=0.05))
        await asyncio.wait_for(upstream.gone.wait(), 5)


@pytest.mark.anyio
async def test_a_cancelled_call_closes_its_connections() -> None:
    arrived = asyncio.Event()
    calls: list[Call] = []

    async def script(call: Call) -> None:
        calls.append(call)
        if len(calls) == 4:
            arrived.set()
        await for_ever(call)

    async with serve(script) as upstream:
        asked = asyncio.create_task(session_at(upstream.url).embed(["a"] * 2000))
        await arrived.wait()
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        for call in calls:
            await asyncio.wait_for(call.gone.wait(), 5)
        assert len(upstream.requests) == 4


@pytest.mark.anyio
async def test_no_texts_give_no_rows_and_ask_nobody() -> None:
    async with serve(saying({})) as upstream:
        session = session_at(upstream.url)
        assert (await session.embed([])).shape == (0, 0)
        assert (await session.embed([], dimensions=3)).shape == (0, 3)
        assert upstream.requests == []


# --- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        (["a"], {}, r"texts is str.*\[text\]"),
        ([["a", 1]], {}, r"texts\[1\] is int"),
        ([[""]], {}, r"texts\[0\] is empty"),
        ([["a"]], {"dimensions": 0}, "dimensions is 0"),
        ([["a"]], {"normalize": "yes"}, "normalize is str"),
        ([["a"]], {"query": True}, "query=True is for local models"),
        ([["a"]], {"input": ["b"]}, "'input' is the texts"),
        ([["a"]], {"options": {1, 2}}, "JSON cannot say"),
        ([["a"]], {"timeout": -1}, "timeout is -1"),
    ],
)
@pytest.mark.anyio
async def test_what_cannot_be_asked_is_refused(arguments: Any, options: Any, said: str) -> None:
    async with serve(saying({})) as upstream:
        with pytest.raises(ai.InvalidInput, match=said):
            await session_at(upstream.url).embed(*arguments, **options)
        assert upstream.requests == []


@pytest.mark.anyio
async def test_a_list_for_run_is_sent_to_embed() -> None:
    with pytest.raises(ai.InvalidInput, match=r"prompt is list.*embed\(\) takes a list of texts"):
        await session_at("http://127.0.0.1:9").run(["a"])


# --- what goes wrong -------------------------------------------------------------------------


@MODES
@pytest.mark.anyio
async def test_an_error_status_is_told_with_its_body(mode: str) -> None:
    async with serve(saying({"error": "model 'm' not found"}, 404)) as upstream:
        with pytest.raises(ai.UpstreamError, match="status 404") as raised:
            await session_at(upstream.url, mode).embed(["a"])
        assert (raised.value.status, raised.value.body) == (404, '{"error": "model \'m\' not found"}')


@pytest.mark.anyio
async def test_a_model_that_the_server_lacks_may_have_been_meant_as_a_local_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serve(saying({"error": "no such model"}, 404)) as upstream:
        monkeypatch.setenv("AI_INFERENCE_API_HOST", upstream.url)
        with pytest.raises(ai.UpstreamError) as raised:
            await ai.Session("gte-base").embed(["a"])
        assert "functions models pull gte-base" in "".join(raised.value.__notes__)
        with pytest.raises(ai.UpstreamError) as raised:
            await session_at(upstream.url).embed(["a"])
        assert not hasattr(raised.value, "__notes__")


@pytest.mark.anyio
async def test_nobody_there_is_told_as_elsewhere() -> None:
    async with serve(saying({})) as upstream:
        url = upstream.url
    with pytest.raises(ai.HostUnreachable, match="cannot be reached"):
        await session_at(url).embed(["a"] * 1000, timeout=0.2)


@pytest.mark.anyio
async def test_an_answer_that_breaks_off_is_incomplete() -> None:
    async def dies(call: Call) -> None:
        call.head(content_type="application/json")
        call.piece(b'{"embeddings":[[1,')
        call.die()

    async with serve(dies) as upstream:
        with pytest.raises(ai.IncompleteStream):
            await session_at(upstream.url).embed(["a"])


@pytest.mark.anyio
async def test_no_message_shows_the_key() -> None:
    for body in ({"error": "bad sk-secret"}, b"<p>bad sk-secret"):
        async with serve(saying(body)) as upstream:
            with pytest.raises(ai.UpstreamError, match=r"bad \*\*\*") as raised:
                await ai.Session("m", host=upstream.url, api_key="sk-secret").embed(["a"])
            assert "sk-secret" not in str(raised.value)


def item(embedding: object, index: object = 0) -> dict[str, object]:
    return {"index": index, "embedding": embedding}


WRONG: list[tuple[str, object, str]] = [
    ("ollama", {"embeddings": [[1.0]]}, "it gave 1 embeddings for 2 texts"),
    ("ollama", {"embeddings": []}, "it gave 0 embeddings for 2 texts"),
    ("ollama", {"embeddings": [[1.0]] * 3}, "it gave 3 embeddings for 2 texts"),
    ("ollama", {"embeddings": [[1.0, 2.0], [1.0]]}, "differ in length: 0 has 2 numbers, and 1 has 1"),
    ("ollama", {"embeddings": [[], []]}, "embedding 0 is empty"),
    ("ollama", {"embeddings": [[1.0], [None]]}, r"got `null`.*embeddings\[1\]\[0\]"),
    ("ollama", {"embeddings": [[1.0], ["1.0"]]}, "got `str`"),
    ("ollama", {"embeddings": [[1.0], [True]]}, "got `bool`"),
    ("ollama", {"embeddings": [[1.0], 1.0]}, "got `float`"),
    ("ollama", {"embeddings": [[1.0], [1e300]]}, "embedding 1 has something in it that is no finite number"),
    ("ollama", b'{"embeddings":[[1.0],[NaN]]}', "it is no JSON"),
    ("ollama", b'{"embeddings":[[1.0],[1e999]]}', "out of range"),
    ("ollama", {"response": "hi"}, "missing required field `embeddings`"),
    ("ollama", {"error": "no embeddings here"}, "status 200: no embeddings here"),
    ("ollama", b"<html>", "it is no JSON .*<html>"),
    ("ollama", b"", "it is no JSON"),
    ("ollama", b"\xff", "it is no JSON"),
    ("ollama", b'{"a":' + b"[" * 100_000, "it is no JSON"),
    ("ollama", [], "Expected `object`"),
    ("openaicompatible", {"data": [item([1.0])]}, "it gave 1 embeddings for 2 texts"),
    ("openaicompatible", {"data": [item([1.0]), item([1.0])]}, "the indices 0 to 1, each of them once"),
    ("openaicompatible", {"data": [item([1.0], 1), item([1.0], 2)]}, "the indices 0 to 1"),
    ("openaicompatible", {"data": [item([1.0]), item([1.0], None)]}, "the indices 0 to 1"),
    ("openaicompatible", {"data": [item([1.0]), item("AAAA", 1)]}, "embedding 1 is no base64 of float32"),
    ("openaicompatible", {"data": [item([1.0]), item("AA é", 1)]}, "embedding 1 is no base64 of float32"),
    ("openaicompatible", {"data": [item([1.0]), item("AADAfw==", 1)]}, "embedding 1 has .* no finite number"),
    ("openaicompatible", {"data": [item([1.0]), item([[1.0]], 1)]}, "got `array`"),
    ("openaicompatible", {"error": {"message": "quota", "code": 429}}, "status 200: quota"),
]


@pytest.mark.parametrize(("mode", "body", "said"), WRONG)
@pytest.mark.anyio
async def test_an_answer_that_cannot_be_is_told_as_what_it_is(mode: str, body: object, said: str) -> None:
    async with serve(saying(body)) as upstream:
        with pytest.raises(ai.UpstreamError, match=said) as raised:
            await session_at(upstream.url, mode).embed(["a", "b"])
        assert raised.value.status == 200
        assert len(raised.value.body) <= 2049


@pytest.mark.anyio
async def test_other_lengths_than_asked_for_are_an_error() -> None:
    async with serve(saying({"embeddings": [[1.0, 2.0]]})) as upstream:
        with pytest.raises(ai.UpstreamError, match="have 2 numbers, and 4 were asked for"):
            await session_at(upstream.url).embed(["a"], dimensions=4)


@pytest.mark.anyio
async def test_parts_that_differ_in_length_are_an_error() -> None:
    async def script(call: Call) -> None:
        rows = [[1.0] * (2 if len(call.request.json()["input"]) == 256 else 3)]
        call.answer(200, json.dumps({"embeddings": rows * len(call.request.json()["input"])}).encode())

    async with serve(script) as upstream:
        with pytest.raises(ai.UpstreamError, match="differ in length: 2 and 3 numbers"):
            await session_at(upstream.url).embed(["a"] * 300)


# --- any answer ------------------------------------------------------------------------------

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
MATRICES = st.integers(1, 5).flatmap(
    lambda width: st.lists(st.lists(FLOATS, min_size=width, max_size=width), min_size=1, max_size=9)
)


@given(rows=MATRICES, data=st.data())
def test_every_number_survives_both_ways_and_any_order(rows: list[list[float]], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(list(enumerate(rows))))
    items = [
        item(base64_of(row) if data.draw(st.booleans(), label="base64") else row, at) for at, row in shuffled
    ]
    for mode, body in (("ollama", {"embeddings": rows}), ("openaicompatible", {"data": items})):
        read = embeddings.read(mode, json.dumps(body).encode(), len(rows))
        np.testing.assert_array_equal(read.rows, np.array(rows, np.float32))
        lengths = np.linalg.norm(normalized(read.rows).astype(np.float64), axis=1)
        zero = ~read.rows.any(axis=1)
        np.testing.assert_allclose(lengths, np.where(zero, 0.0, 1.0), rtol=1e-5)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["embeddings", "data", "embedding", "index", "usage", "error"]), inner, max_size=3
        )
    ),
    max_leaves=12,
)


@MODES
@given(body=JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=40))
def test_whatever_comes_is_rows_or_a_reason(mode: str, body: bytes) -> None:
    try:
        rows = embeddings.read(mode, body, 1).rows
    except ValueError as error:
        reason = str(error)
    else:
        reason = "" if np.isfinite(rows).all() else "these are no rows"
        assert len(rows) == 1
    assert reason != "these are no rows"
