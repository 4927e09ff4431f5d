"""The engine as its neighbours meet it: a process behind a door."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper, save_model

from runtime.door import socket_pair
from runtime.engine.embedder import MAX_TEXT
from runtime.engine.models.pull import pull_folder
from runtime.engine.models.store import Store
from runtime.engine.providers import PROVIDERS
from runtime.engine.service import GATEWAY
from runtime.frames import Cancel, Catalog, Connect, Drain, Embed, Embedded, ModelCard, Rank, Refused
from tests.running import eventually

from . import tiny
from .process import Engine, running_engine
from .tiny import random_weights, write_folder

pytestmark = pytest.mark.anyio

TINY = ModelCard("tiny", tiny.HIDDEN, tiny.POSITIONS)


async def test_texts_come_back_as_vectors(engine: Engine) -> None:
    async with engine.connect() as client:
        result = await client.embed("tiny", ["hello", "the father word", "hello"])
    assert result.end == Embedded(result.end.id, tiny.HIDDEN, [1, 1, 1], [3, 5, 3], [])
    assert np.allclose(np.linalg.norm(result.rows, axis=1), 1, atol=1e-5)
    ids = [2, tiny.VOCABULARY.index("hello"), 3]
    mean = tiny.encode(random_weights(), ids).mean(axis=0)
    assert np.allclose(result.rows[0], mean / np.linalg.norm(mean), atol=1e-5)
    assert np.allclose(result.rows[2], result.rows[0], atol=1e-6)


async def test_without_pooling_every_token_has_a_row_of_length_one(engine: Engine) -> None:
    async with engine.connect() as client:
        result = await client.embed("tiny", ["hello", "the father word"], mean_pool=False)
    assert result.end.rows == result.end.tokens == [3, 5]
    assert np.allclose(np.linalg.norm(result.rows, axis=1), 1, atol=1e-5)


async def test_without_normalising_rows_keep_their_length(engine: Engine) -> None:
    async with engine.connect() as client:
        (plain,) = (await client.embed("tiny", ["hello"], normalize=False)).rows
        (scaled,) = (await client.embed("tiny", ["hello"])).rows
    assert np.allclose(plain / np.linalg.norm(plain), scaled, atol=1e-6)
    assert abs(np.linalg.norm(plain) - 1) > 0.1


async def test_a_long_text_is_cut_and_reported(engine: Engine) -> None:
    async with engine.connect() as client:
        result = await client.embed("tiny", ["hello", "word " * 100])
    assert result.end.tokens == [3, tiny.POSITIONS]
    assert result.end.truncated == [1]


async def test_a_bulk_call_comes_in_pieces_and_in_order(engine: Engine) -> None:
    texts = ["the " * (number % 29 + 1) for number in range(9000)]
    async with engine.connect() as client:
        result = await client.embed("tiny", texts)
        alone = [(await client.embed("tiny", [text])).rows[0] for text in texts[:29]]
    assert max(result.pieces) <= 512 * 1024
    assert len(result.pieces) > 1
    assert result.end.tokens == [number % 29 + 3 for number in range(9000)]
    assert np.allclose(result.rows, np.array(alone)[np.arange(9000) % 29], atol=1e-5)


async def test_no_texts_are_no_rows(engine: Engine) -> None:
    async with engine.connect() as client:
        result = await client.embed("tiny", [])
    assert (result.end.dimensions, result.end.rows) == (tiny.HIDDEN, [])


async def test_warming_answers_with_the_dimensions(engine: Engine) -> None:
    async with engine.connect() as client:
        assert (await client.warm("tiny")).end.dimensions == tiny.HIDDEN


async def test_many_calls_share_a_connection(engine: Engine) -> None:
    async with engine.connect() as client:
        for id in range(50):
            client.stream.send(Embed(id=id, model="tiny", texts=["hello"] * (id % 3 + 1)))
        rows: dict[int, int] = {}
        while len(rows) < 50:
            answer = await client.stream.receive()
            if isinstance(answer, Embedded):
                rows[answer.id] = len(answer.rows)
    assert rows == {id: id % 3 + 1 for id in range(50)}


async def test_a_model_folder_is_named_by_its_path(engine: Engine, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "elsewhere", random_weights(seed=3))
    async with engine.connect() as client:
        (there,) = (await client.embed(str(folder), ["hello"])).rows
        (tiny_one,) = (await client.embed("tiny", ["hello"])).rows
    assert not np.allclose(there, tiny_one, atol=1e-2)


@pytest.mark.parametrize(
    ("texts", "code", "words"),
    [
        (["fine", ""], "INVALID_INPUT", "Text 1 is empty"),
        (["x" * (MAX_TEXT + 1)], "INPUT_TOO_LARGE", f"{MAX_TEXT + 1} bytes; the limit is {MAX_TEXT}: split"),
        (["ä" * (MAX_TEXT // 2 + 1)], "INPUT_TOO_LARGE", f"{MAX_TEXT + 2} bytes"),
    ],
)
async def test_input_that_cannot_be_embedded_is_refused(
    engine: Engine, texts: list[str], code: str, words: str
) -> None:
    async with engine.connect() as client:
        refused = await client.refusal("tiny", texts)
    assert refused.code == code
    assert words in refused.message


async def test_a_text_of_the_largest_size_is_embedded(engine: Engine) -> None:
    async with engine.connect() as client:
        result = await client.embed("tiny", ["ä" * (MAX_TEXT // 2)])
    assert result.end.rows == [1]


async def test_an_unknown_model_is_refused_with_those_that_exist(engine: Engine) -> None:
    async with engine.connect() as client:
        refused = await client.refusal("tinny", ["hello"])
        assert refused.code == "MODEL_NOT_FOUND"
        assert "'tinny'" in refused.message
        assert "tiny" in refused.message
        assert (await client.embed("tiny", ["hello"])).end.rows == [1]


async def test_a_broken_model_is_refused_until_it_is_repaired(engine: Engine, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:100])
    async with engine.connect() as client:
        refused = await client.refusal(str(folder), ["hello"])
        assert refused.code == "MODEL_BROKEN"
        assert "model.safetensors" in refused.message
        (folder / "model.safetensors").write_bytes(weights)
        assert (await client.embed(str(folder), ["hello"])).end.rows == [1]


async def test_tokens_are_counted_beyond_what_the_model_reads(engine: Engine) -> None:
    async with engine.connect() as client:
        assert await client.count("tiny", ["hello", "the father word", "word " * 100]) == [3, 5, 102]


@pytest.mark.parametrize(
    ("dimensions", "words"), [(0, "at least 1"), (8, "may have 16"), (17, "no vectors of 17 numbers")]
)
async def test_dimensions_that_the_model_was_not_trained_for_are_refused(
    dimensions: int, words: str, engine: Engine
) -> None:
    async with engine.connect() as client:
        refused = await client.refusal("tiny", ["hello"], dimensions=dimensions)
        assert refused.code == "INVALID_INPUT"
        assert words in refused.message
        assert (await client.embed("tiny", ["hello"], dimensions=tiny.HIDDEN)).rows.shape == (1, tiny.HIDDEN)


async def test_a_model_trained_for_it_gives_shorter_vectors(models_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(models_dir / "tiny", tmp_path / "nested")
    card = tmp_path / "nested" / "card.json"
    facts = msgspec.json.decode(card.read_bytes())
    card.write_bytes(msgspec.json.encode(facts | {"name": "nested", "matryoshka": [4, 8]}))
    with running_engine(tmp_path) as engine:
        async with engine.connect() as client:
            (whole,) = (await client.embed("nested", ["hello"], normalize=False)).rows
            result = await client.embed("nested", ["hello", "the word"], dimensions=8)
            (plain,) = (await client.embed("nested", ["hello"], dimensions=4, normalize=False)).rows
    assert result.rows.shape == (2, 8)
    assert np.allclose(result.rows[0], whole[:8] / np.linalg.norm(whole[:8]), atol=1e-5)
    assert np.allclose(plain, whole[:4], atol=1e-5)


async def test_a_model_for_vectors_ranks_nothing(engine: Engine) -> None:
    async with engine.connect() as client:
        client.stream.send(Rank(id=1, model="tiny", query="hello", documents=["the word"]))
        refused = await client.stream.receive()
        assert isinstance(refused, Refused)
        assert (refused.code, "cross-encoder" in refused.message) == ("INVALID_INPUT", True)


def write_counting_ranker(folder: Path) -> None:
    """A cross-encoder by whose score a document is as good as it has tokens."""
    kind, names = TensorProto.INT64, ("input_ids", "attention_mask", "token_type_ids")
    nodes = [
        helper.make_node("Constant", [], ["axes"], value=numpy_helper.from_array(np.array([1]))),
        helper.make_node("Cast", ["token_type_ids"], ["ones"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["ones", "axes"], ["sum"], keepdims=1),
        helper.make_node(
            "Constant", [], ["more"], value=numpy_helper.from_array(np.array([0.5], np.float32))
        ),
        helper.make_node("Add", ["sum", "more"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "ranker",
        [helper.make_tensor_value_info(name, kind, ["batch", "sequence"]) for name in names],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    save_model(model, str(folder / "model.onnx"))


def counting_ranker(folder: Path) -> Path:
    """The same as its authors would publish it."""
    config = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}}
    author = write_folder(folder, config=config)
    (author / "model.safetensors").unlink()
    write_counting_ranker(author)
    return author


async def test_a_cross_encoder_scores_documents_in_their_order(tmp_path: Path) -> None:
    author = counting_ranker(tmp_path / "author")
    store = Store(tmp_path / "models", {})
    pull_folder(author, "ranker", store, lambda *_: None)
    documents = ["the " * (number * 7 % 40 + 1) for number in range(200)]
    with running_engine(tmp_path / "models") as engine:
        async with engine.connect() as client:
            ranked = await client.rank("ranker", "the father", documents)
            refused = await client.refusal("ranker", ["hello"])
    # [CLS] the father [SEP] … [SEP]: of 32 tokens a document has at most 27, and [SEP].
    expected = [min(number * 7 % 40 + 1, tiny.POSITIONS - 5) + 1 for number in range(200)]
    assert np.frombuffer(ranked.data, dtype="<f4").tolist() == [tokens + 0.5 for tokens in expected]
    assert ranked.tokens == [tokens + 4 for tokens in expected]
    assert ranked.truncated == [number for number in range(200) if number * 7 % 40 + 1 > 27]
    assert (refused.code, "ranks documents" in refused.message) == ("INVALID_INPUT", True)


async def test_a_cancelled_call_is_not_answered(engine: Engine) -> None:
    async with engine.connect() as client:
        client.stream.send(
            Embed(id=1, model="tiny", texts=["the " * 29] * 8000),
            Cancel(1),
            Embed(id=2, model="tiny", texts=["hello"]),
        )
        assert (await client.result(2)).end.rows == [1]
        client.stream.send(Embed(id=3, model="tiny", texts=["hello"]))
        assert (await client.result(3)).end.rows == [1]


async def test_a_closed_connection_takes_its_texts_along(engine: Engine) -> None:
    async with engine.connect() as other:
        for _ in range(20):  # 20 × 1024 texts would be more than may wait at once
            async with engine.connect() as client:
                client.stream.send(Embed(id=1, model="tiny", texts=["the " * 29] * 2000))
                assert (await other.embed("tiny", ["hello"])).end.rows == [1]


async def test_too_much_at_once_is_refused_as_overload(engine: Engine) -> None:
    async with engine.connect() as client:
        for id in range(40):
            client.stream.send(Embed(id=id, model="tiny", texts=["the " * 29] * 2000))
        answer = await client.stream.receive()
        while not isinstance(answer, Refused):
            answer = await client.stream.receive()
    assert answer.code == "ENGINE_UNAVAILABLE"
    assert "overloaded" in answer.message


async def test_nonsense_closes_its_connection_and_no_other(engine: Engine) -> None:
    ours, theirs = socket_pair()
    engine.door.send(Connect("worker"), [theirs.detach()])
    ours.sendall(b"\x01\x00\x00\x00\xc1")
    ours.settimeout(10)
    assert ours.recv(1) == b""
    ours.close()
    async with engine.connect() as client:
        assert (await client.embed("tiny", ["hello"])).end.rows == [1]


# --- the catalogue ---------------------------------------------------------------------------


async def test_the_gateway_hears_of_the_models_before_and_after_they_are_loaded(models_dir: Path) -> None:
    with running_engine(models_dir, "tiny", "missing") as engine:
        async with engine.connect(GATEWAY) as client:
            told: list[Catalog] = [await client.stream.receive()]
            assert TINY in told[0].models
            while not told[-1].complete:
                told.append(await client.stream.receive())
            assert (await client.embed("tiny", ["hello"])).end.rows == [1]
    assert told[0] == Catalog(told[0].models)
    assert told[-1].preloaded == ["tiny"]
    assert list(told[-1].failed) == ["missing"]
    assert "'missing'" in told[-1].failed["missing"]
    assert [len(catalog.preloaded) + len(catalog.failed) for catalog in told] == [0, 1, 2]


def mapped(engine: Engine, part: str) -> bool:
    """The process has a file in memory whose path has this in it."""
    return part in Path(f"/proc/{engine.process.pid}/maps").read_text()


async def test_the_catalogue_goes_out_before_numpy_is_loaded(models_dir: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("looks into /proc")
    with running_engine(models_dir) as engine:
        async with engine.connect(GATEWAY) as client:
            catalog = await client.stream.receive()
            assert (TINY in catalog.models, catalog.complete) == (True, True)
            assert not mapped(engine, "_multiarray_umath")
            assert not mapped(engine, "onnxruntime")
            await client.warm("tiny")
            assert mapped(engine, "onnxruntime")


async def test_a_model_runs_at_the_precision_that_the_engine_was_told(tmp_path: Path) -> None:
    pull_folder(write_folder(tmp_path / "author"), "tiny", Store(tmp_path / "models", {}), lambda *_: None)
    vectors = []
    for precision in ("fp32", "int8"):
        with running_engine(tmp_path / "models", precisions={"tiny": precision}) as engine:
            async with engine.connect() as client:
                vectors.append((await client.embed("tiny", ["the father word"])).rows[0])
        made = (tmp_path / "models" / "tiny" / "packed.int8.onnx").exists()
        assert made == (precision == "int8")
    assert not np.array_equal(*vectors)
    assert np.dot(*vectors) > 0.97


async def test_a_model_beyond_the_bound_makes_room_for_the_next(tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("looks into /proc")
    author, store = write_folder(tmp_path / "author"), Store(tmp_path / "models", {})
    for name in ("first", "second"):
        pull_folder(author, name, store, lambda *_: None)
    with running_engine(store.models_dir, models_bytes=1) as engine:
        async with engine.connect() as client:
            await client.warm("first")
            assert mapped(engine, "models/first/")
            await client.warm("second")
            eventually(lambda: not mapped(engine, "models/first/"), "the first model is unloaded")
            assert mapped(engine, "models/second/")


async def test_a_provider_that_does_not_start_is_a_refusal_with_its_name(models_dir: Path) -> None:
    if PROVIDERS["cuda"].library in onnxruntime.get_available_providers():
        pytest.skip("it may start here")
    with running_engine(models_dir, providers=["cuda"]) as engine:
        async with engine.connect() as client:
            refused = await client.refusal("tiny", ["hello"])
    assert refused.code == "MODEL_BROKEN"
    assert "cuda does not start on this machine" in refused.message


async def test_only_the_gateway_is_told(engine: Engine) -> None:
    async with engine.connect("hello") as client:
        assert (await client.embed("tiny", ["hello"])).end.rows == [1]


# --- the end ---------------------------------------------------------------------------------


async def test_it_leaves_when_the_door_closes(models_dir: Path) -> None:
    with running_engine(models_dir) as engine:
        async with engine.connect() as client:
            await client.warm("tiny")
            engine.door.close()
            assert engine.process.wait(10) == 0


async def test_it_leaves_even_if_nobody_ever_says_anything(models_dir: Path) -> None:
    with running_engine(models_dir) as engine:
        engine.door.close()
        assert engine.process.wait(10) == 0


async def test_draining_finishes_what_is_in_flight_and_refuses_the_rest(models_dir: Path) -> None:
    with running_engine(models_dir) as engine:
        async with engine.connect() as client:
            await client.warm("tiny")
            client.stream.send(Embed(id=7, model="tiny", texts=["the " * 29] * 3000))
            client.stream.send(Embed(id=7_000, model="tiny", texts=["hello"]))
            while True:  # both have arrived once the short one is answered
                answer = await client.stream.receive()
                if isinstance(answer, Embedded):
                    break
            assert answer.id == 7_000
            engine.door.send(Drain(seconds=60))
            late = 8
            client.stream.send(Embed(id=late, model="tiny", texts=["hello"]))
            ends: dict[int, object] = {}
            while 7 not in ends:
                answer = await client.stream.receive()
                if isinstance(answer, Embedded | Refused):
                    ends[answer.id] = answer
        assert engine.process.wait(10) == 0
    end = ends[7]
    assert isinstance(end, Embedded)
    assert len(end.rows) == 3000


async def test_a_drain_does_not_outlast_its_time(models_dir: Path) -> None:
    with running_engine(models_dir) as engine:
        async with engine.connect() as client:
            await client.warm("tiny")
            for id in range(10):
                client.stream.send(Embed(id=id, model="tiny", texts=["the " * 29] * 8000))
            engine.door.send(Drain(seconds=0))
            assert engine.process.wait(10) == 0


async def test_ctrl_c_is_left_to_the_supervisor(models_dir: Path) -> None:
    with running_engine(models_dir) as engine:
        async with engine.connect() as client:
            await client.warm("tiny")
            os.kill(engine.process.pid, signal.SIGINT)
            assert (await client.embed("tiny", ["hello"])).end.rows == [1]


async def test_it_is_nicer_than_its_parent_and_hides_its_memory(models_dir: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("looks into /proc")
    with running_engine(models_dir) as engine:
        async with engine.connect(GATEWAY) as client:
            await client.stream.receive()
            pid = engine.process.pid
            assert os.getpriority(os.PRIO_PROCESS, pid) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + 2)
            # The files of a process that is not dumpable belong to root.
            assert os.stat(f"/proc/{pid}/environ").st_uid == 0
