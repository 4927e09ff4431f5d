"""Threads that a function starts belong to the request that starts them."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from typing import Any, TypeVar

import pytest

from runtime.context import Call, current
from runtime.worker import inherit

T = TypeVar("T")

own: ContextVar[int] = ContextVar("own", default=0)


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading.Thread, "start", threading.Thread.start)
    monkeypatch.setattr(ThreadPoolExecutor, "submit", ThreadPoolExecutor.submit)
    inherit.install(lambda function: function)


def request(name: str) -> Call:
    return Call(name, "hello", 0.0, lambda call, work: asyncio.ensure_future(work))


def within(name: str, work: Callable[[], T]) -> T:
    """Do something as a part of a request."""

    def run() -> T:
        current.set(request(name))
        return work()

    return copy_context().run(run)


def seen() -> str:
    call = current.get()
    return "" if call is None else call.id


class Kind(threading.Thread):
    """A thread with a `run` of its own."""

    def __init__(self, target: Callable[[], Any]) -> None:
        super().__init__()
        self.body = target

    def run(self) -> None:
        self.body()


def timer(target: Callable[[], Any]) -> threading.Thread:
    return threading.Timer(0.0, target)


@pytest.mark.parametrize("make", [lambda target: threading.Thread(target=target), Kind, timer])
def test_a_thread_belongs_to_the_request_that_starts_it(
    make: Callable[[Callable[[], Any]], threading.Thread],
) -> None:
    found: list[str] = []
    thread = within("a", lambda: make(lambda: found.append(seen())))
    within("b", thread.start)
    thread.join()
    other = make(lambda: found.append(seen()))
    other.start()
    other.join()
    assert found == ["b", ""]


def test_so_does_a_thread_that_it_starts() -> None:
    found: list[str] = []

    def outer() -> None:
        inner = threading.Thread(target=lambda: found.append(seen()))
        inner.start()
        inner.join()

    thread = threading.Thread(target=outer)
    within("a", thread.start)
    thread.join()
    assert found == ["a"]


def test_a_pool_serves_whoever_submits() -> None:
    with ThreadPoolExecutor(1) as pool:
        assert within("a", lambda: pool.submit(seen)).result() == "a"
        assert within("b", lambda: pool.submit(seen)).result() == "b"
        assert pool.submit(seen).result() == ""
        assert within("c", lambda: list(pool.map(lambda _: seen(), range(3)))) == ["c"] * 3


@pytest.mark.anyio
async def test_an_event_loop_s_own_threads_too() -> None:
    loop = asyncio.get_running_loop()
    current.set(request("a"))
    assert await loop.run_in_executor(None, seen) == "a"
    current.set(request("b"))
    assert await loop.run_in_executor(None, seen) == "b"
    assert await asyncio.to_thread(seen) == "b"


def test_arguments_results_and_errors_pass_unchanged() -> None:
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(divmod, 7, 2).result() == (3, 1)
        assert pool.submit(dict, pool=1, call=2, function=3).result() == {"pool": 1, "call": 2, "function": 3}
        with pytest.raises(ZeroDivisionError):
            pool.submit(lambda: 1 / 0).result()


def test_nothing_else_goes_over() -> None:
    def work() -> int:
        own.set(7)
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(own.get).result()

    assert within("a", work) == 0


def test_a_thread_cannot_be_started_twice() -> None:
    thread = threading.Thread(target=lambda: None)
    within("a", thread.start)
    thread.join()
    with pytest.raises(RuntimeError, match="once"):
        within("a", thread.start)


def test_a_thread_that_has_ended_is_forgotten() -> None:
    thread = threading.Thread(target=lambda: None)
    within("a", thread.start)
    thread.join()
    gone = weakref.ref(thread)
    gc.disable()
    try:
        del thread
        assert gone() is None
    finally:
        gc.enable()


def test_a_thread_that_could_not_be_started_can_be_started_later(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(seen()))

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(inherit, "_start", refuse)
        with pytest.raises(RuntimeError):
            within("a", thread.start)
    within("a", thread.start)
    thread.join()
    assert found == ["a"]
