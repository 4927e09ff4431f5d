"""Graphs as their authors made them, in this process."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import helper

from runtime.engine import raw
from runtime.engine.embedder import Embedder
from runtime.engine.models.store import Store
from runtime.engine.raw import Graphs, RawGraph, find
from runtime.engine.registry import Registry
from runtime.errors import (
    EngineUnavailable,
    InferenceTimeout,
    InputTooLarge,
    InvalidInput,
    ModelNotFound,
    StartError,
)
from runtime.frames import Tensor
from runtime.tensors import Cargo, Parcel, pack, pieces

from . import graphs as made

pytestmark = pytest.mark.anyio

Arrays = dict[str, NDArray[Any]]


def parcel(cargo: Cargo) -> Parcel:
    arrived = Parcel(cargo[0])
    for piece in pieces(cargo):
        arrived.add(piece)
    assert arrived.whole
    return arrived


@asynccontextmanager
async def running(root: str = "", **options: Any) -> AsyncIterator[tuple[Graphs, Registry]]:
    registry = Registry(Store(root or "/nowhere", {}), root, **options)
    embedder = Embedder(registry, threads=2)
    try:
        yield embedder.graphs, registry
    finally:
        embedder.close()


async def run(path: Path, arrays: Arrays, outputs: list[str] | None = None) -> Arrays:
    cargo = pack(arrays)
    async with running() as (graphs, _), graphs.using([str(path)]) as graph:
        wanted = graph.check(cargo[0], outputs or [])
        return parcel(await graphs.run(graph, parcel(cargo), wanted)).arrays()


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("dtype", [name for name in made.TYPES if name != "string"])
async def test_every_type_and_shape_goes_through_as_it_is(
    dtype: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    import ml_dtypes  # onnx brings it

    kind: Any = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    array = (np.arange(np.prod(shape, dtype=int)) % 2 + 1).astype(kind).reshape(shape)
    graph = made.echo(tmp_path / "m.onnx", dtype, [f"d{axis}" for axis in range(len(shape))])
    answer = (await run(graph, {"x": array}))["y"]
    assert (answer.dtype, answer.shape) == (array.dtype, shape)
    assert (answer == array).all()


@pytest.mark.parametrize(
    "array", [np.array(["a", "ü😀", ""]), np.array([["b"]], object), np.zeros((0, 2), "U")]
)
async def test_strings_go_through(array: NDArray[Any], tmp_path: Path) -> None:
    graph = made.echo(tmp_path / "m.onnx", "string", [None] * array.ndim)
    answer = (await run(graph, {"x": array}))["y"]
    assert answer.dtype == object
    assert answer.tolist() == array.tolist()


async def test_arrays_in_any_order_of_bytes_and_axes_are_the_same_numbers(tmp_path: Path) -> None:
    array = np.arange(12, dtype=">f8").reshape(3, 4).T[::2]
    answer = (await run(made.echo(tmp_path / "m.onnx", "float64", [None, None]), {"x": array}))["y"]
    assert answer.tolist() == array.tolist()


async def test_only_the_outputs_that_are_asked_for_are_given(tmp_path: Path) -> None:
    graph = made.classifier(tmp_path / "m.onnx")
    features = np.array([[0, 5, 0], [9, 0, 0]], np.float32)
    assert list(await run(graph, {"features": features})) == ["label", "probabilities"]
    assert (await run(graph, {"features": features}, ["label"]))["label"].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({}, "wants an input 'features', which is missing"),
        ({"features": np.zeros((1, 3), "f4"), "other": np.zeros(1)}, "no input 'other': it has features"),
        ({"features": np.zeros((1, 3))}, "is of float32, and not of float64"),
        ({"features": np.zeros(3, "f4")}, r"has shape \[n, 3\], and not \[3\]"),
        ({"features": np.zeros((1, 4), "f4")}, r"has shape \[n, 3\], and not \[1, 4\]"),
    ],
)
async def test_inputs_that_do_not_fit_are_refused_by_name(arrays: Arrays, says: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=says):
        await run(made.classifier(tmp_path / "m.onnx"), arrays)


async def test_outputs_that_are_no_arrays_are_refused_with_those_that_are(tmp_path: Path) -> None:
    graph, x = made.unzipped(tmp_path / "m.onnx"), np.ones(2, np.float32)
    with pytest.raises(InvalidInput, match=r"'parts' is no array but a seq.*outputs=.*\(y\)"):
        await run(graph, {"x": x})
    with pytest.raises(InvalidInput, match="no output 'z': it has y, parts"):
        await run(graph, {"x": x}, ["z"])
    assert list(await run(graph, {"x": x}, ["y"])) == ["y"]


@pytest.mark.parametrize(
    "array", [np.zeros(1, "c8"), np.zeros(1, "M8[s]"), np.array([1, "a"], object), np.array(["\ud800"])]
)
def test_what_no_graph_takes_is_refused_before_it_is_sent(array: NDArray[Any]) -> None:
    with pytest.raises(InvalidInput, match=r"^x "):
        pack({"x": array})


@pytest.mark.parametrize(
    ("tensor", "data"),
    [
        (Tensor("x", "float32", [2], 4), b"1234"),
        (Tensor("x", "float32", [-1], 4), b"1234"),
        (Tensor("x", "nothing", [1], 4), b"1234"),
        (Tensor("x", "string", [1], 4), b"1234"),
        (Tensor("x", "string", [2], 3), b"\x91\xa1a"),
    ],
)
def test_bytes_that_are_not_what_was_announced_are_refused(tensor: Tensor, data: bytes) -> None:
    arrived = Parcel([tensor])
    arrived.add(data)
    with pytest.raises(InvalidInput, match=r"^x "):
        arrived.arrays()


def test_more_bytes_than_were_announced_are_refused() -> None:
    arrived = Parcel([Tensor("x", "uint8", [2], 2)])
    with pytest.raises(InvalidInput, match="More bytes"):
        arrived.add(b"abc")
    arrived.add(b"ab")
    with pytest.raises(InvalidInput, match="More bytes"):
        arrived.add(b"c")


async def test_a_graph_that_fails_says_why_and_runs_again(tmp_path: Path) -> None:
    path = made.write(
        tmp_path / "m.onnx",
        [helper.make_node("Add", ["a", "b"], ["y"])],
        [made.value("a", "float32", ["n"]), made.value("b", "float32", ["m"])],
        [made.value("y", "float32", ["n"])],
    )
    two, three = np.ones(2, np.float32), np.ones(3, np.float32)
    with pytest.raises(InvalidInput, match="does not run on these inputs"):
        await run(path, {"a": two, "b": three})
    assert (await run(path, {"a": two, "b": two}))["y"].tolist() == [2, 2]


# --- what never ends -------------------------------------------------------------------------

ENDLESS = {"go": np.array(True), "x": np.zeros(1, np.float32)}


async def test_a_run_that_never_ends_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw, "MOST_SECONDS", 0.1)
    with pytest.raises(InferenceTimeout, match=r"did not end within 0\.1 s"):
        await run(made.endless(tmp_path / "m.onnx"), ENDLESS)


async def test_threads_are_free_again_when_the_callers_of_endless_runs_have_left(tmp_path: Path) -> None:
    endless, echo = made.endless(tmp_path / "endless.onnx"), made.echo(tmp_path / "echo.onnx")
    cargo = pack(ENDLESS)
    async with running() as (graphs, _), graphs.using([str(endless)]) as graph:
        wanted = graph.check(cargo[0], [])
        runs = [asyncio.create_task(graphs.run(graph, parcel(cargo), wanted)) for _ in range(5)]
        await asyncio.sleep(0.05)
        for task in runs:
            task.cancel()
        await asyncio.wait(runs)
        inputs = pack({"x": np.ones((1, 2), np.float32)})
        async with asyncio.timeout(20), graphs.using([str(echo)]) as other:
            await graphs.run(other, parcel(inputs), other.check(inputs[0], []))


# --- memory ----------------------------------------------------------------------------------


async def test_too_many_bytes_are_refused_and_room_is_given_back() -> None:
    large = [Tensor("x", "uint8", [raw.MOST], raw.MOST)]
    async with running() as (graphs, _):
        with pytest.raises(InputTooLarge, match="the limit is"), graphs.room([*large, *large]):
            pass
        with (
            graphs.room(large, "a"),
            graphs.room(large, "a"),
            graphs.room(large, "b"),
            graphs.room(large, "b") as room,
        ):
            with pytest.raises(EngineUnavailable, match="overloaded"), graphs.room(large, "c"):
                pass
            with pytest.raises(EngineUnavailable, match="overloaded"):
                room.add(large, "outputs")
        assert not graphs.held
        graphs.refuse()
        with pytest.raises(EngineUnavailable, match="shutting down"), graphs.room([]):
            pass


@pytest.mark.parametrize("shape", [[4_000_000], [1 << 62] * 1000], ids=["many", "endless"])
async def test_strings_count_as_what_they_take_in_memory(shape: list[int]) -> None:
    async with running() as (graphs, _):
        with pytest.raises(InputTooLarge), graphs.room([Tensor("x", "string", shape, 4_000_005)]):
            pass
        with graphs.room([Tensor("x", "string", [10, 10], 101), Tensor("y", "string", [5, 0, -1], 1)]):
            assert graphs.held.total() == 101 + 100 * 80 + 1


@pytest.mark.parametrize("announced", [1, 4_000_000, 4_000_006])
def test_strings_are_made_only_of_what_was_announced(announced: int) -> None:
    count = 3_999_999
    data = b"\xdd" + count.to_bytes(4, "big") + b"\xa0" * count
    arrived = Parcel([Tensor("x", "string", [announced], len(data))])
    arrived.add(data)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInput, match=r"^x "):
            arrived.arrays()
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


async def test_a_graph_is_loaded_once_and_again_when_its_file_has_changed(tmp_path: Path) -> None:
    path = made.echo(tmp_path / "m.onnx")
    async with running() as (graphs, registry):
        async with graphs.using([str(path)]) as first, graphs.using([str(path)]) as second:
            assert first is second
        assert registry.names == [str(path)]
        made.echo(path, "int64")
        async with graphs.using([str(path)]) as third:
            assert [declared.dtype for declared in third.inputs] == ["int64"]
        assert registry.names == [str(path)]


async def test_graphs_leave_for_want_of_room(tmp_path: Path) -> None:
    paths = [made.echo(tmp_path / f"{number}.onnx") for number in range(3)]
    async with running(most=paths[0].stat().st_size * 2) as (graphs, registry):
        for path in paths:
            async with graphs.using([str(path)]):
                pass
        assert registry.names == [str(path) for path in paths[1:]]


# --- which file ------------------------------------------------------------------------------


def test_the_first_file_that_exists_is_meant(tmp_path: Path) -> None:
    path = made.echo(tmp_path / "b" / "m.onnx")
    assert find([str(tmp_path / "a" / "m.onnx"), str(path)], str(tmp_path)) == path


@pytest.mark.parametrize(
    "name", ["../m.onnx", ".hidden/m.onnx", "link.onnx", "secrets.txt", "none.onnx", "."]
)
def test_no_file_is_read_that_is_no_graph_of_the_project(name: str, tmp_path: Path) -> None:
    root = tmp_path / "project"
    made.echo(tmp_path / "m.onnx")
    made.echo(root / ".hidden" / "m.onnx")
    (root / "secrets.txt").write_text("hush")
    (root / "link.onnx").symlink_to(tmp_path / "m.onnx")
    with pytest.raises(ModelNotFound, match=r"There is no graph .* in the project"):
        find([f"{root}/{name}"], str(root))


async def test_a_file_that_is_no_graph_is_an_error_until_it_is_repaired(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"no graph")
    async with running() as (graphs, _):
        with pytest.raises(StartError, match="cannot be loaded"):
            async with graphs.using([str(path)]):
                pass
        made.echo(path)
        async with graphs.using([str(path)]) as graph:
            assert isinstance(graph, RawGraph)


def test_what_may_be_left_out_may_be_given(tmp_path: Path) -> None:
    default = helper.make_tensor("x", made.TYPES["float32"], [1], [7.0])
    path = made.write(
        tmp_path / "m.onnx",
        [helper.make_node("Identity", ["x"], ["y"])],
        [made.value("x", "float32", [1])],
        [made.value("y", "float32", [1])],
        initializer=[default],
    )
    graph = RawGraph(path)
    assert graph.inputs == []
    graph.check([], [])
    graph.check([Tensor("x", "float32", [1], 4)], ["y"])
