"""One suite for `ai.Session` with a model behind it, and for `FakeSession`."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runtime import ai
from runtime.ai import host as hosts
from runtime.door import socket_pair
from runtime.frames import Connect, ModelCard
from runtime.testing import FakeSession
from runtime.testing.session import FakeHost
from tests.ai.upstream import Call, completed, generated, serve
from tests.engine import graphs
from tests.engine.conftest import models_dir, tiny_folder  # noqa: F401 - fixtures
from tests.engine.process import Engine, running_engine

pytestmark = pytest.mark.anyio

DIMENSIONS, MAXIMUM = 16, 32  # of the tests' tiny model


@pytest.fixture(scope="module")
def real_engine(models_dir: Path) -> Iterator[Engine]:  # noqa: F811
    with running_engine(models_dir) as engine:
        yield engine


@pytest.fixture(params=["real", "fake"])
async def session(request: pytest.FixtureRequest) -> AsyncIterator[ai.Session]:
    """A session for a small embedding model."""
    if request.param == "fake":
        yield FakeSession("tiny", dimensions=DIMENSIONS, max_tokens=MAXIMUM, kind="embedding")
        return
    ours, theirs = socket_pair()
    request.getfixturevalue("real_engine").door.send(Connect("worker"), [theirs.detach()])
    before = hosts.current()
    client = hosts.install([ModelCard("tiny", DIMENSIONS, MAXIMUM)]).engine
    await client.attach(ours)
    yield ai.Session("tiny")
    hosts.use(before)
    assert client._line is not None
    client._line.close()
    await asyncio.sleep(0)


def length(vector: list[float]) -> float:
    return math.sqrt(math.fsum(value * value for value in vector))


async def test_a_text_is_its_vector(session: ai.Session) -> None:
    await session.ready()
    vector = await session.run("hello father")
    assert len(vector) == DIMENSIONS
    assert all(isinstance(value, float) for value in vector)
    assert length(vector) == pytest.approx(1, abs=1e-6)
    assert await session.run("hello father") == pytest.approx(vector, abs=1e-6)
    assert await session.run("the word") != pytest.approx(vector, abs=1e-3)


async def test_unnormalised_vectors_point_the_same_way(session: ai.Session) -> None:
    plain = await session.run("hello father", normalize=False)
    size = length(plain)
    assert size != pytest.approx(1, abs=1e-3)
    scaled = [value / size for value in plain]
    assert scaled == pytest.approx(await session.run("hello father", normalize=True), abs=1e-5)


async def test_a_list_is_a_list_of_vectors_and_an_empty_one_is_empty(session: ai.Session) -> None:
    vectors = await session.run(["hello", "father"])
    assert vectors[1] == pytest.approx(await session.run("father"), abs=1e-5)
    assert [len(vector) for vector in vectors] == [DIMENSIONS, DIMENSIONS]
    assert await session.run([]) == []


async def test_unpooled_there_is_a_vector_per_token(session: ai.Session) -> None:
    rows = await session.run("hello father", mean_pool=False)
    assert len(rows) == 4  # with the beginning and the end
    assert [length(row) for row in rows] == pytest.approx([1.0] * 4, abs=1e-5)
    assert session.last_usage == ai.Usage(4, ())
    several = await session.run(["hello", "hello father"], mean_pool=False)
    assert [len(rows) for rows in several] == [3, 4]


async def test_bulk_is_an_array(session: ai.Session) -> None:
    import numpy as np

    array = await session.embed(["hello", "father"])
    assert array.shape == (2, DIMENSIONS)
    assert array.dtype == np.float32
    assert array[0].tolist() == pytest.approx(await session.run("hello"), abs=1e-5)
    assert (await session.embed([])).shape == (0, DIMENSIONS)


async def test_a_long_text_is_cut_and_that_is_said(
    session: ai.Session, caplog: pytest.LogCaptureFixture
) -> None:
    long = "father " * 100
    vectors = await session.run(["hello", long, long + "the end"])
    assert session.last_usage == ai.Usage(3 + 2 * MAXIMUM, (1, 2))
    assert vectors[1] == pytest.approx(vectors[2], abs=1e-5)
    assert "2 of 3 texts were longer and cut" in caplog.text


@pytest.mark.parametrize(
    ("prompt", "error", "says"),
    [
        ("", ai.InvalidInput, "prompt is empty"),
        (["a", ""], ai.InvalidInput, r"prompt\[1\] is empty"),
        (7, ai.InvalidInput, "prompt is int"),
        ({"prompt": "a"}, ai.InvalidInput, "prompt is dict"),
        ("\ud800", ai.InvalidInput, "half a character"),
        ("x" * (512 * 1024 + 1), ai.InputTooLarge, "one text may have"),
    ],
)
async def test_what_cannot_be_embedded_is_refused(
    session: ai.Session, prompt: Any, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        await session.run(prompt)


async def test_options_of_language_models_are_refused(session: ai.Session) -> None:
    with pytest.raises(ai.InvalidInput, match="takes no 'stream'"):
        await session.run("hello", stream=True)
    with pytest.raises(ai.InvalidInput, match="give a list of strings"):
        await session.embed("hello")


async def test_tokens_are_counted_also_those_that_would_be_cut(session: ai.Session) -> None:
    assert await session.count("hello father") == 4
    assert await session.count(["hello", "father " * 100]) == [3, 102]
    assert await session.count([]) == []


async def test_embedding_models_rank_nothing(session: ai.Session) -> None:
    with pytest.raises(ai.InvalidInput, match="ranks nothing: take a cross-encoder"):
        await session.rank("hello", ["father"])


@pytest.mark.parametrize("mean_pool", [True, False])
async def test_vectors_can_be_cut(session: ai.Session, mean_pool: bool) -> None:
    whole = await session.run("hello father", mean_pool=mean_pool, normalize=False)
    same = await session.run("hello father", mean_pool=mean_pool, normalize=False, dimensions=DIMENSIONS)
    assert sum(whole if mean_pool else whole[1]) == pytest.approx(
        sum(same if mean_pool else same[1]), abs=1e-4
    )
    with pytest.raises(ai.InvalidInput, match=f"no vectors of {DIMENSIONS + 1} numbers: .* {DIMENSIONS}"):
        await session.run("hello", dimensions=DIMENSIONS + 1)


# graphs


@pytest.fixture(params=["real", "fake"])
async def graph(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ai.InferenceSession]:
    """The graph of a classifier: run by an engine, or by the test's process."""
    path = graphs.classifier(tmp_path / "classifier.onnx")
    before = hosts.current()
    if request.param == "fake":
        hosts.use(FakeHost(None)).folder = str(tmp_path)
        yield ai.InferenceSession("classifier.onnx")
        hosts.use(before)
        return
    ours, theirs = socket_pair()
    request.getfixturevalue("real_engine").door.send(Connect("worker"), [theirs.detach()])
    client = hosts.install([], str(tmp_path)).engine
    await client.attach(ours)
    yield ai.InferenceSession(path)
    hosts.use(before)
    assert client._line is not None
    client._line.close()
    await asyncio.sleep(0)


async def test_a_graph_is_run(graph: ai.InferenceSession) -> None:
    import numpy as np

    await graph.ready()
    assert graph.inputs == [ai.TensorInfo("features", "float32", ("n", 3))]
    answer = await graph.run({"features": [[0, 9, 0], [0, 0, 9]]})
    assert answer["label"].tolist() == [1, 2]
    assert answer["probabilities"].dtype == np.float32
    assert list(await graph.run({"features": np.ones((0, 3), np.float32)}, outputs=["label"])) == ["label"]


async def test_what_a_graph_does_not_take_is_refused(graph: ai.InferenceSession) -> None:
    import numpy as np

    with pytest.raises(ai.InvalidInput, match="is of float32, and not of float64"):
        await graph.run({"features": np.ones((1, 3))})
    with pytest.raises(ai.InvalidInput, match="has no output 'kind': it has label, probabilities"):
        await graph.run({"features": np.ones((1, 3), np.float32)}, outputs=["kind"])
    with pytest.raises(ai.ModelNotFound, match="There is no graph"):
        await ai.InferenceSession("other.onnx").ready()


# language models

PIECES = ["Hello", " wörld", " 🎵", " \u2028!"]
Ask = Callable[..., Any]


class Asked:
    """A session, and the bodies that its server was sent."""

    def __init__(self, session: ai.Session, bodies: Callable[[], list[Any]]) -> None:
        self.session, self.bodies = session, bodies


def scripted(mode: str) -> Callable[[Call], Any]:
    """A server that says `PIECES`, streamed or not, in its API's format."""

    async def script(call: Call) -> None:
        asked = call.request.json()
        if "input" in asked:
            call.answer(200, msgspec.json.encode(_embedded(mode, asked["input"])))
        elif asked["stream"]:
            ollama = mode == "ollama"
            call.head(content_type="application/x-ndjson" if ollama else "text/event-stream")
            for value in _objects(mode, "messages" in asked):
                data = msgspec.json.encode(value)
                call.piece(data + b"\n" if ollama else b"data: " + data + b"\n\n")
            if not ollama:
                call.piece(b"data: [DONE]\n\n")
            call.end()
        else:
            call.answer(200, msgspec.json.encode(_whole(mode, "messages" in asked)))

    return script


def _embedded(mode: str, texts: list[str]) -> dict[str, Any]:
    rows = [[1.0, 2.0, 3.0, 4.0] for _ in texts]
    if mode == "ollama":
        return {"embeddings": rows, "prompt_eval_count": 7}
    return {
        "data": [{"index": at, "embedding": row} for at, row in enumerate(rows)],
        "usage": {"prompt_tokens": 7},
    }


def _objects(mode: str, chat: bool) -> list[dict[str, Any]]:
    if mode != "ollama":
        return completed(*PIECES)
    if not chat:
        return generated(*PIECES)
    return [
        {"message": {"role": "assistant", "content": value["response"]}, "done": value["done"]}
        for value in generated(*PIECES)
    ]


def _whole(mode: str, chat: bool) -> dict[str, Any]:
    text = "".join(PIECES)
    message = {"role": "assistant", "content": text}
    if mode != "ollama":
        return {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    return {"done": True, **({"message": message} if chat else {"response": text})}


@pytest.fixture(params=["real", "fake"])
def llm(request: pytest.FixtureRequest) -> Callable[[str], Any]:
    """Makes a session for a language model that says `PIECES`."""

    @asynccontextmanager
    async def real(mode: str) -> AsyncIterator[Asked]:
        async with serve(scripted(mode)) as upstream:
            session = ai.Session("mistral", host=upstream.url, mode=mode)
            yield Asked(session, lambda: [sent.json() for sent in upstream.requests])

    @asynccontextmanager
    async def fake(mode: str) -> AsyncIterator[Asked]:
        session = FakeSession("mistral", replies=PIECES, mode=mode)
        yield Asked(session, lambda: [call.body for call in session.calls])

    return real if request.param == "real" else fake


MODES = pytest.mark.parametrize("mode", ["ollama", "openaicompatible"])
MESSAGES = {"messages": [{"role": "user", "content": "hi"}]}
PROMPTS = pytest.mark.parametrize("prompt", ["hi", MESSAGES], ids=["text", "messages"])


def said(chunk: ai.Chunk) -> str:
    """The text of a provider's object, as a handler reads it."""
    if "choices" in chunk:
        piece = chunk.choices[0].get("delta") or chunk.choices[0].get("message") or {}
        return str(piece.get("content", ""))
    return str(chunk.message.content if "message" in chunk else chunk.response)


@MODES
@PROMPTS
async def test_an_answer_is_the_providers_object(llm: Any, mode: str, prompt: Any) -> None:
    async with llm(mode) as asked:
        answer = await asked.session.run(prompt, options={"seed": 1})
        assert isinstance(answer, ai.Chunk)
        assert said(answer) == "".join(PIECES)
        (body,) = asked.bodies()
        assert (body["model"], body["stream"], body["options"]) == ("mistral", False, {"seed": 1})


@MODES
@PROMPTS
async def test_a_stream_gives_the_providers_objects(llm: Any, mode: str, prompt: Any) -> None:
    async with llm(mode) as asked:
        stream = await asked.session.run(prompt, stream=True)
        assert isinstance(stream, ai.Stream)
        pieces = [said(chunk) async for chunk in stream]
        assert [piece for piece in pieces if piece] == PIECES
        assert asked.bodies()[0]["stream"] is True
        assert asked.session.last_usage is None


@MODES
async def test_as_events_it_ends_with_done(llm: Any, mode: str) -> None:
    async with llm(mode) as asked:
        stream = await asked.session.run("hi", stream=True)
        assert (stream.status, stream.content_type) == (200, "text/event-stream")
        events = b"".join([piece async for piece in stream.body()])
        assert events.startswith(b'data: {"')
        assert events.endswith(b"}\n\ndata: [DONE]\n\n")
        assert events.count(b"data: ") == len(PIECES) + 2


@MODES
async def test_as_text_it_is_the_text_alone(llm: Any, mode: str) -> None:
    async with llm(mode) as asked:
        stream = (await asked.session.run("hi", stream=True)).text()
        assert stream.content_type == "text/plain; charset=utf-8"
        assert b"".join([piece async for piece in stream.body()]).decode() == "".join(PIECES)


@MODES
async def test_raw_it_has_the_providers_bytes_and_type(llm: Any, mode: str) -> None:
    async with llm(mode) as asked:
        stream = (await asked.session.run("hi", stream=True)).raw()
        assert stream.content_type == ("application/x-ndjson" if mode == "ollama" else "text/event-stream")
        lines = b"".join([piece async for piece in stream.body()]).strip().split(b"\n")
        assert lines[-1].startswith(b'{"' if mode == "ollama" else b"data: [DONE]")


async def test_left_early_a_stream_is_over(llm: Any) -> None:
    async with llm("ollama") as asked:
        stream = await asked.session.run("hi", stream=True)
        assert said(await anext(stream)) == PIECES[0]
        await stream.aclose()
        assert [chunk async for chunk in stream] == []


@MODES
async def test_an_llm_server_embeds_too(llm: Any, mode: str) -> None:
    async with llm(mode) as asked:
        import numpy as np

        array = await asked.session.embed(["hello", "hello father"], dimensions=4, truncate=False)
        assert (array.shape, str(array.dtype)) == ((2, 4), "float32")
        np.testing.assert_allclose(np.linalg.norm(array, axis=1), 1, rtol=1e-5)
        assert asked.session.last_usage == ai.Usage(7, ())
        (body,) = asked.bodies()
        assert (body["model"], body["input"]) == ("mistral", ["hello", "hello father"])
        assert (body["dimensions"], body["truncate"]) == (4, False)


async def test_run_of_a_language_model_takes_no_list_and_no_unknown_mode(llm: Any) -> None:
    async with llm("ollama") as asked:
        with pytest.raises(ai.InvalidInput, match=r"prompt is list.*embed\(\)"):
            await asked.session.run(["a"])
        with pytest.raises(ai.InvalidMode):
            await asked.session.run("a", mode="neither")
