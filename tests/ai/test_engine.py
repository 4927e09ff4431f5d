from __future__ import annotations

import asyncio
import threading
from array import array
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from runtime import ai
from runtime.ai.engine import EngineClient
from runtime.ai.texts import PART_TEXTS
from runtime.errors import AIError
from runtime.frames import Cancel, Count, Rank, Run, Warm
from runtime.tensors import PIECE, pack
from tests.ai.fake_engine import DIMENSIONS, FakeEngine, fake_engine, row, score, tokens

pytestmark = pytest.mark.anyio


async def attached(engine: FakeEngine, patience: float = 5) -> EngineClient:
    client = EngineClient(patience)
    await client.attach(await engine.connection())
    return client


def floats(data: bytes | bytearray) -> list[float]:
    flat = array("f")
    flat.frombytes(data)
    return flat.tolist()


async def test_one_text_is_one_frame_and_comes_back_as_its_row() -> None:
    async with fake_engine() as engine:
        client = await attached(engine)
        result = await client.embed("m", ["hello"], normalize=False)
        assert floats(result.data) == row("hello")
        assert (result.dimensions, result.rows, result.tokens, result.truncated) == (DIMENSIONS, [1], [3], [])
        (sent,) = engine.embeds()
        assert (sent.model, sent.texts, sent.mean_pool, sent.normalize) == ("m", ["hello"], True, False)


async def test_a_long_list_is_cut_into_frames_and_put_together_in_order() -> None:
    async with fake_engine() as engine:
        client = await attached(engine)
        texts = [f"text {number} " + "long " * (600 if number in (5, 150) else 1) for number in range(200)]
        result = await client.embed("m", texts)
        assert floats(result.data) == [value for text in texts for value in row(text)]
        assert result.tokens == [tokens(text) for text in texts]
        assert result.truncated == [5, 150]
        assert [len(frame.texts) for frame in engine.embeds()] == [PART_TEXTS] * 3 + [200 - 3 * PART_TEXTS]


async def test_the_frames_of_one_list_have_one_turn_and_other_calls_their_own() -> None:
    async with fake_engine() as engine:
        client = await attached(engine)
        await client.embed("m", ["x"] * (PART_TEXTS * 2))
        await client.embed("m", ["x"])
        first, second, other = (frame.turn for frame in engine.embeds())
        assert first == second
        assert 0 < first != other > 0


async def test_frames_answered_out_of_order_still_make_an_ordered_result() -> None:
    async with fake_engine() as engine:
        engine.answering = False
        client = await attached(engine)
        texts = [f"{number}" for number in range(PART_TEXTS * 3)]
        call = asyncio.create_task(client.embed("m", texts))
        await engine.until(lambda engine: len(engine.seen) == 3)
        for frame in reversed(engine.seen):
            engine.answer(frame)
        assert floats((await call).data) == [value for text in texts for value in row(text)]


async def test_a_huge_list_leaves_room_for_its_neighbours() -> None:
    async with fake_engine() as engine:
        engine.answering = False
        client = await attached(engine)
        huge = asyncio.create_task(client.embed("m", ["x"] * (PART_TEXTS * 20)))
        await engine.until(lambda engine: len(engine.seen) >= 4)
        neighbour = asyncio.create_task(client.embed("m", ["neighbour"]))
        await engine.until(lambda engine: len(engine.seen) >= 5)
        assert engine.embeds()[4].texts == ["neighbour"]
        engine.answer(engine.seen[4])
        assert (await neighbour).rows == [1]
        huge.cancel()
        await asyncio.wait({huge})


async def test_many_calls_share_the_connection() -> None:
    async with fake_engine() as engine:
        client = await attached(engine)
        results = await asyncio.gather(*(client.embed("m", [f"{number}"]) for number in range(100)))
        assert [floats(result.data) for result in results] == [row(f"{number}") for number in range(100)]


async def test_vectors_per_token_come_with_their_counts() -> None:
    async with fake_engine() as engine:
        client = await attached(engine)
        result = await client.embed("m", ["one", "one two"], mean_pool=False)
        assert result.rows == [3, 4]
        assert len(floats(result.data)) == 7 * DIMENSIONS


async def test_cancelling_a_call_cancels_it_in_the_engine() -> None:
    async with fake_engine() as engine:
        engine.answering = False
        client = await attached(engine)
        call = asyncio.create_task(client.embed("m", ["x"]))
        await engine.until(lambda engine: len(engine.seen) == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await engine.until(lambda engine: engine.seen[-1] == Cancel(engine.embeds()[0].id))


async def test_an_answer_that_comes_after_the_cancel_disturbs_nobody() -> None:
    async with fake_engine() as engine:
        engine.answering = False
        client = await attached(engine)
        call = asyncio.create_task(client.embed("m", ["x"]))
        await engine.until(lambda engine: len(engine.seen) == 1)
        call.cancel()
        await asyncio.wait({call})
        engine.answer(engine.seen[0])
        engine.answering = True
        assert floats((await client.embed("m", ["y"])).data) == row("y")


async def test_calls_that_lost_the_engine_are_sent_to_the_next_one() -> None:
    async with fake_engine() as first, fake_engine() as second:
        first.answering = False
        client = await attached(first)
        calls = [asyncio.create_task(client.embed("m", [text])) for text in "abc"]
        await first.until(lambda engine: len(engine.seen) == 3)
        first.hang_up()
        await client.attach(await second.connection())
        assert [floats((await call).data) for call in calls] == [row(text) for text in "abc"]
        assert sorted(frame.texts[0] for frame in second.embeds()) == ["a", "b", "c"]


async def test_a_call_that_loses_two_engines_is_not_sent_a_third_time() -> None:
    async with fake_engine() as first, fake_engine() as second, fake_engine() as third:
        first.answering = second.answering = False
        client = await attached(first)
        call = asyncio.create_task(client.embed("m", ["x"]))
        await first.until(lambda engine: len(engine.seen) == 1)
        first.hang_up()
        await client.attach(await second.connection())
        await second.until(lambda engine: len(engine.seen) == 1)
        second.hang_up()
        await client.attach(await third.connection())
        with pytest.raises(ai.EngineUnavailable, match="stopped twice"):
            await call
        assert third.seen == []


async def test_without_an_engine_a_call_waits_for_one() -> None:
    async with fake_engine() as engine:
        client = EngineClient()
        call = asyncio.create_task(client.embed("m", ["x"]))
        await client.attach(await engine.connection())
        assert (await call).rows == [1]


async def test_a_call_whose_connection_broke_asks_for_another_once_for_all() -> None:
    async with fake_engine() as engine:
        engine.answering = False
        client = await attached(engine)
        asks: asyncio.Queue[int] = asyncio.Queue()
        client.on_missing = lambda: asks.put_nowait(1)
        calls = [asyncio.create_task(client.embed("m", ["x"])) for _ in range(3)]
        await engine.until(lambda engine: len(engine.seen) == 3)
        engine.hang_up()
        await asks.get()
        engine.answering = True
        await client.attach(await engine.connection())
        assert [(await call).rows for call in calls] == [[1]] * 3
        assert asks.empty()


@pytest.mark.parametrize(("model", "name"), [("m", "m"), ("/srv/project/own", "own"), ("we/enc", "we/enc")])
async def test_a_broken_model_is_told_of_to_the_function_and_not_to_clients(model: str, name: str) -> None:
    async with fake_engine() as engine:
        engine.refuse = ("MODEL_BROKEN", "/srv/project/own: it is cut\n  → install it again")
        client = await attached(engine)
        with pytest.raises(ai.ModelBroken, match="/srv/project/own: it is cut") as raised:
            await client.embed(model, ["x"])
        assert raised.value.public == f"The model {name!r} cannot be loaded; the server's log says why"
        with pytest.raises(ai.ModelBroken) as raised:
            await client.open(["/srv/project/m.onnx"])
        assert "'m.onnx'" in raised.value.public


async def test_without_an_engine_a_call_gives_up_in_time() -> None:
    with pytest.raises(ai.EngineUnavailable, match=r"not been running for 0\.05 s"):
        await EngineClient(patience=0.05).embed("m", ["x"])


async def test_a_lost_engine_that_nobody_replaces_is_reported_in_time() -> None:
    async with fake_engine() as engine:
        engine.answering = False
        client = await attached(engine, patience=0.05)
        call = asyncio.create_task(client.embed("m", ["x"]))
        await engine.until(lambda engine: len(engine.seen) == 1)
        engine.hang_up()
        with pytest.raises(ai.EngineUnavailable):
            await call


async def test_a_replaced_connection_finishes_its_calls_and_closes() -> None:
    async with fake_engine() as old, fake_engine() as new:
        old.answering = False
        client = await attached(old)
        call = asyncio.create_task(client.embed("m", ["x"]))
        await old.until(lambda engine: len(engine.seen) == 1)
        await client.attach(await new.connection())
        await client.embed("m", ["y"])
        old.answer(old.seen[0])
        assert floats((await call).data) == row("x")
        await asyncio.gather(*old._tasks)  # the client hung up
        assert [frame.texts for frame in new.embeds()] == [["y"]]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("MODEL_NOT_FOUND", ai.ModelNotFound),
        ("INVALID_INPUT", ai.InvalidInput),
        ("INPUT_TOO_LARGE", ai.InputTooLarge),
        ("ENGINE_UNAVAILABLE", ai.EngineUnavailable),
        ("OF_A_LATER_VERSION", AIError),
    ],
)
async def test_a_refusal_is_the_error_that_its_code_stands_for(code: str, kind: type[AIError]) -> None:
    async with fake_engine() as engine:
        engine.refuse = (code, "said the engine")
        client = await attached(engine)
        with pytest.raises(kind, match="said the engine") as raised:
            await client.embed("m", ["x"])
        assert type(raised.value) is kind


async def test_a_refused_part_fails_the_whole_call_with_its_own_error() -> None:
    async with fake_engine() as engine:
        engine.refuse = ("INVALID_INPUT", "said the engine")
        client = await attached(engine)
        with pytest.raises(ai.InvalidInput, match="said the engine"):
            await client.embed("m", ["x"] * (PART_TEXTS * 6))


async def test_warming_asks_for_the_model() -> None:
    async with fake_engine() as engine:
        client = await attached(engine)
        await client.warm("m")
        assert isinstance(engine.seen[0], Warm)


async def test_a_slow_engine_holds_back_the_frames_of_all_callers() -> None:
    async with fake_engine() as engine:
        engine.answering = False
        client = await attached(engine)
        stream = engine._streams[0]
        stream._transport.pause_reading()
        calls = [asyncio.create_task(client.embed("m", ["x" * 250_000])) for _ in range(40)]
        for _ in range(200):
            await asyncio.sleep(0)
        assert client._line is not None
        assert client._line._congested
        assert client._line._transport.get_write_buffer_size() < 3 * 250_000
        stream._transport.resume_reading()
        engine.answering = True
        await engine.until(lambda engine: len(engine.seen) == 40)
        for frame in engine.seen:
            engine.answer(frame)
        await asyncio.gather(*calls)


async def test_a_thread_with_a_loop_of_its_own_reaches_the_same_engine() -> None:
    async with fake_engine() as engine:
        client = await attached(engine)
        loop = asyncio.get_running_loop()
        done: asyncio.Future[list[float]] = loop.create_future()

        def handler() -> None:
            result = asyncio.run(client.embed("m", ["from a thread"]))
            loop.call_soon_threadsafe(done.set_result, floats(result.data))

        thread = threading.Thread(target=handler)
        thread.start()
        assert await done == row("from a thread")
        thread.join()


async def test_documents_are_scored_in_parts_of_one_turn() -> None:
    async with fake_engine() as engine:
        client = await attached(engine)
        documents = [f"{'word ' * (600 if number in (3, 100) else number)}." for number in range(150)]
        result = await client.rank("m", "query", documents)
        assert result.scores == [score("query", document) for document in documents]
        assert result.tokens == [tokens(document) for document in documents]
        assert result.truncated == [3, 100]
        frames = [frame for frame in engine.seen if isinstance(frame, Rank)]
        assert [len(frame.documents) for frame in frames] == [PART_TEXTS, PART_TEXTS, 150 - 2 * PART_TEXTS]
        assert len({frame.turn for frame in frames}) == 1


async def test_tokens_are_counted_in_parts() -> None:
    async with fake_engine() as engine:
        client = await attached(engine)
        texts = ["word " * number + "." for number in range(150)]
        assert await client.count("m", texts) == [tokens(text) for text in texts]
        assert len([frame for frame in engine.seen if isinstance(frame, Count)]) == 3


ARRAYS = {"x": np.arange(600_000, dtype="f4").reshape(2, -1), "empty": np.zeros((0, 2)), "one": np.array(3)}


async def run(client: EngineClient) -> dict[str, Any]:
    return await client.run(["/m.onnx"], pack(ARRAYS), [])


def same(answer: dict[str, Any]) -> bool:
    assert {name: array.dtype for name, array in answer.items()} == {n: a.dtype for n, a in ARRAYS.items()}
    return all(np.array_equal(answer[name], array) for name, array in ARRAYS.items())


async def test_arrays_travel_in_pieces_both_ways() -> None:
    async with fake_engine() as engine:
        client = await attached(engine)
        assert same(await run(client))
        assert engine.pieces == 5 + 1
        assert same(dict(zip(ARRAYS, (await run(client)).values(), strict=True)))


async def test_a_run_without_bytes_is_answered() -> None:
    async with fake_engine() as engine:
        client = await attached(engine)
        answer = await client.run(["/m.onnx"], pack({"x": np.zeros((0, 3))}), [])
        assert answer["x"].shape == (0, 3)
        assert await client.run(["/m.onnx"], pack({}), []) == {}


CALLS: dict[str, Callable[[EngineClient], Awaitable[Any]]] = {
    "rank": lambda client: client.rank("m", "query", ["document"]),
    "count": lambda client: client.count("m", ["text"]),
    "open": lambda client: client.open(["/m.onnx"]),
    "run": run,
}


@pytest.mark.parametrize("name", CALLS)
async def test_every_call_that_lost_the_engine_is_sent_to_the_next_one(name: str) -> None:
    async def call(client: EngineClient) -> Any:
        return await CALLS[name](client)

    async with fake_engine() as first, fake_engine() as second:
        first.answering = False
        client = await attached(first)
        task = asyncio.create_task(call(client))
        await first.until(lambda engine: bool(engine.seen))
        first.hang_up()
        await client.attach(await second.connection())
        answer = await task
        assert answer
        assert name != "run" or same(answer)
        assert type(second.seen[0]) is type(first.seen[0])


@pytest.mark.parametrize("name", CALLS)
async def test_every_call_can_be_refused(name: str) -> None:
    async with fake_engine() as engine:
        engine.refuse = ("INVALID_INPUT", "said the engine")
        with pytest.raises(ai.InvalidInput, match="said the engine"):
            await CALLS[name](await attached(engine))


async def test_arrays_of_a_run_that_is_refused_are_not_sent_to_their_end() -> None:
    async with fake_engine() as engine:
        engine.refuse = ("INVALID_INPUT", "said the engine")
        client = await attached(engine)
        many = np.zeros(100 * PIECE, np.uint8)
        with pytest.raises(ai.InvalidInput):
            await client.run(["/m.onnx"], pack({"x": many}), [])
        assert engine.pieces < 90
        engine.refuse = None
        assert floats((await client.embed("m", ["y"])).data) == row("y")


async def test_a_text_does_not_wait_for_the_end_of_somebodys_arrays() -> None:
    async with fake_engine() as engine:
        client = await attached(engine)
        many = np.zeros(40 * PIECE, np.uint8)
        large = asyncio.create_task(client.run(["/m.onnx"], pack({"x": many}), []))
        await engine.until(lambda engine: engine.pieces > 0)
        await client.embed("m", ["y"])
        assert engine.pieces < 40
        assert (await large)["x"].nbytes == many.nbytes


async def test_cancelling_a_run_amid_its_arrays_cancels_it_in_the_engine() -> None:
    async with fake_engine() as engine:
        client = await attached(engine)
        many = np.zeros(100 * PIECE, np.uint8)
        large = asyncio.create_task(client.run(["/m.onnx"], pack({"x": many}), []))
        await engine.until(lambda engine: engine.pieces > 0)
        large.cancel()
        await asyncio.wait({large})
        await engine.until(lambda engine: isinstance(engine.seen[-1], Cancel))
        assert engine.pieces < 100
        assert isinstance(engine.seen[0], Run)
        assert same(await run(client))
