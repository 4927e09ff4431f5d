from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from bench.closed import Loop


@pytest.mark.parametrize(("clients", "at_once", "threads"), [(1, 1, 2), (3, 1, 2), (8, 4, 1), (50, 4, 3)])
def test_every_text_is_served_once_and_never_more_are_under_way_than_there_are_clients(
    clients: int, at_once: int, threads: int
) -> None:
    served: list[str] = []
    under_way = most = 0
    lock = threading.Lock()

    def run(texts: Sequence[str]) -> None:
        nonlocal under_way, most
        with lock:
            under_way += len(texts)
            most = max(most, under_way)
            served.extend(texts)
            assert len(texts) <= at_once
        with lock:
            under_way -= len(texts)

    texts = [f"text {number}" for number in range(30)]
    loop = Loop(run, texts, at_once, threads)
    took = loop.go(clients)
    assert sorted(served) == sorted(texts)
    assert most <= min(clients, at_once * threads)
    assert all(0 < wait <= took for wait in loop.waits)


def test_one_client_is_served_in_order() -> None:
    served: list[str] = []
    texts = [f"text {number}" for number in range(10)]
    Loop(served.extend, texts, at_once=4, threads=2).go(clients=1)
    assert served == texts


@pytest.mark.parametrize("threads", [1, 3])
def test_what_a_run_raises_is_raised_and_ends_everything(threads: int) -> None:
    served: list[str] = []

    def run(texts: Sequence[str]) -> None:
        served.extend(texts)
        if "text 5" in texts:
            raise ValueError("no such text")

    texts = [f"text {number}" for number in range(1000)]
    with pytest.raises(ValueError, match="no such text"):
        Loop(run, texts, at_once=1, threads=threads).go(clients=threads)
    assert len(served) < len(texts)
