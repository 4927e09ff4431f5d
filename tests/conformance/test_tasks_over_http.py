"""What models do beside vectors, as a function asks for it: rankings, counts, graphs of its own."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest

from runtime.engine.models.pull import pull_folder
from runtime.engine.models.store import Store
from tests.engine import graphs
from tests.engine.test_engine_process import counting_ranker
from tests.engine.tiny import write_folder
from tests.running import Server, eventually, project, serving

TASKS = """
from pathlib import Path

import numpy as np

from runtime import Request, ai

vectors, ranker = ai.Session("nested"), ai.Session("ranker")
graph, endless = ai.InferenceSession("model.onnx"), ai.InferenceSession("models/endless.onnx")
copy = ai.InferenceSession(Path(__file__).with_name("model.onnx"))


async def handler(request: Request):
    print(f"asked for {request.url.path}")
    return await globals()[request.url.path.split("/")[-1]]()


async def rank():
    documents = ["the " * (number * 7 % 20 + 1) for number in range(150)]
    return await ranker.rank("the father", documents, top=3)


async def count():
    return [await vectors.count("hello"), await ranker.count(["hello", "the father word"])]


async def shorter():
    embed = await vectors.embed(["hello"], dimensions=4)
    return {"embed": embed, "run": await vectors.run("hello", dimensions=8)}


async def run():
    answer = await graph.run({"features": [[0, 5, 0], [9, 0, 0]]})
    return {name: array.tolist() for name, array in answer.items()}


async def own():
    await copy.ready()
    return [[info.name, info.dtype, info.shape] for info in (*copy.inputs, *copy.outputs)]


async def large():
    features = np.random.default_rng(1).normal(size=(1_000_000, 3)).astype("f4")
    answer = await graph.run({"features": features})
    return bool((answer["label"] == features.argmax(axis=1)).all())


async def hang():
    await endless.run({"go": True, "x": [0.0]}, timeout=0.5)


async def wrong():
    await ranker.run("a text")


async def outside():
    await ai.InferenceSession("../../../model.onnx").ready()
"""

THREADED = """
import asyncio

from runtime import ai

ranker, graph = ai.Session("ranker"), ai.InferenceSession("models/model.onnx")


def handler(request):
    best = asyncio.run(ranker.rank("the", ["the", "the the"], top=1))
    label = asyncio.run(graph.run({"features": [[0, 0, 1]]}, outputs=["label"]))
    return {"best": best[0].index, "label": label["label"].tolist()}
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a cross-encoder, and a model whose vectors may be cut."""
    folder = tmp_path_factory.mktemp("models")
    store = Store(folder / "store", {})
    pull_folder(counting_ranker(folder / "author" / "ranker"), "ranker", store, lambda *_: None)
    pull_folder(write_folder(folder / "author" / "nested"), "nested", store, lambda *_: None)
    card = store.folder("nested") / "card.json"
    facts = msgspec.json.decode(card.read_bytes())
    card.write_bytes(msgspec.json.encode(facts | {"matryoshka": [4, 8]}))
    return folder / "store"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Server]:
    config = f'[ai]\npreload = []\nmodels_dir = "{models}"\n'
    root = project(tmp_path_factory.mktemp("tasks"), {"tasks": TASKS, "threaded": THREADED}, config)
    graphs.classifier(root / "functions" / "tasks" / "model.onnx")
    graphs.classifier(root / "models" / "model.onnx")
    graphs.endless(root / "models" / "endless.onnx")
    graphs.classifier(root.parent / "model.onnx")
    with serving(root) as running:
        yield running


def ask(server: Server, task: str) -> Any:
    with server.client() as client:
        answer = client.post(f"/tasks/{task}")
    assert answer.status_code == 200, f"{answer.text}\n{server.log}"
    return answer.json()


def test_documents_are_ranked(server: Server) -> None:
    best = ask(server, "rank")
    assert [found["score"] for found in best] == [21.5] * 3
    assert [found["index"] for found in best] == [17, 37, 57]
    assert best[0]["document"] == "the " * 20


def test_tokens_are_counted(server: Server) -> None:
    assert ask(server, "count") == [3, [3, 5]]


def test_vectors_are_cut_and_then_scaled(server: Server) -> None:
    answer = ask(server, "shorter")
    (short,) = answer["embed"]
    assert len(short) == 4
    assert len(answer["run"]) == 8
    assert np.linalg.norm(short) == pytest.approx(1, abs=1e-6)
    assert short == pytest.approx(list(answer["run"][:4] / np.linalg.norm(answer["run"][:4])), abs=1e-5)


def test_a_graph_beside_the_function_is_run(server: Server) -> None:
    answer = ask(server, "run")
    assert answer["label"] == [1, 0]
    assert answer["probabilities"][1] == pytest.approx([1, 0, 0], abs=1e-3)


def test_the_functions_own_copy_of_a_graph_is_the_projects(server: Server) -> None:
    assert ask(server, "own") == [
        ["features", "float32", ["n", 3]],
        ["label", "int64", ["n"]],
        ["probabilities", "float32", ["n", 3]],
    ]


def test_large_arrays_go_and_come(server: Server) -> None:
    assert ask(server, "large") is True


def test_a_plain_handler_ranks_and_runs_as_well(server: Server) -> None:
    with server.client() as client:
        assert client.post("/threaded").json() == {"best": 1, "label": [2]}


def test_runs_that_never_end_leave_the_engine_to_others(server: Server) -> None:
    def hang(_: int) -> int:
        with server.client() as client:
            return client.post("/tasks/hang").status_code

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(hang, range(6))) == [504] * 6
    assert ask(server, "run")["label"] == [1, 0]


@pytest.mark.parametrize(
    ("task", "status", "says"),
    [("wrong", 400, "call rank(query, documents)"), ("outside", 500, "There is no model")],
)
def test_what_cannot_be_is_said(task: str, status: int, says: str, server: Server) -> None:
    with server.client() as client:
        answer = client.post(f"/tasks/{task}")
    assert answer.status_code == status
    assert says in answer.json()["message"] or says in server.log


@pytest.mark.parametrize("task", ["rank", "count", "run", "large"])
def test_a_call_whose_engine_dies_is_asked_again(task: str, server: Server) -> None:
    before = ask(server, task)
    engine = psutil.Process(server.pid_of("fn-engine"))
    engine.suspend()
    asked = server.log.count(f"asked for /tasks/{task}")
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, server, task)
        server.wait_for_log(f"asked for /tasks/{task}", asked + 1)
        engine.kill()
        assert answer.result(20) == before
    eventually(lambda: server.pid_of("fn-engine") != engine.pid, "another engine")


def test_a_graph_that_was_replaced_is_run_anew(server: Server) -> None:
    def dtype() -> str:
        return str(ask(server, "own")[0][1])

    path = server.root / "functions" / "tasks" / "model.onnx"
    assert dtype() == "float32"
    graphs.echo(path, "int64")
    eventually(lambda: dtype() == "int64", "the new graph")
    graphs.classifier(path)
    eventually(lambda: dtype() == "float32", "the former graph")
