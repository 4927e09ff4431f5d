"""The policy: which texts run together, and when."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from runtime.engine.batcher import Batcher, Item

lengths = st.integers(1, 40)
calls = st.lists(
    st.tuples(st.sampled_from(["a", "b"]), st.lists(lengths, min_size=1, max_size=12)), max_size=12
)
Calls = list[tuple[str, list[int]]]


def items_of(wanted: Calls) -> list[Item]:
    return [
        Item(call, place, length, model)
        for call, (model, texts) in enumerate(wanted)
        for place, length in enumerate(texts)
    ]


def filled(wanted: Calls) -> Batcher:
    queue = Batcher()
    queue.add(items_of(wanted))
    return queue


def emptied(queue: Batcher, budget: int) -> list[list[Item]]:
    batches = []
    while queue:
        batches.append(queue.take(budget))
    return batches


@given(calls, st.integers(1, 100))
def test_every_text_is_given_out_exactly_once(wanted: Calls, budget: int) -> None:
    batches = emptied(filled(wanted), budget)
    assert Counter(item for batch in batches for item in batch) == Counter(items_of(wanted))


@given(calls, st.integers(1, 100))
def test_a_batch_has_one_model_one_length_and_keeps_the_budget(wanted: Calls, budget: int) -> None:
    for batch in emptied(filled(wanted), budget):
        assert len({(item.model, item.length) for item in batch}) == 1
        assert len(batch) == 1 or sum(item.length for item in batch) <= budget


@given(calls, st.integers(1, 100))
def test_a_batch_is_as_full_as_the_budget_allows(wanted: Calls, budget: int) -> None:
    queue = filled(wanted)
    waiting = Counter((item.model, item.length) for item in items_of(wanted))
    while queue:
        batch = queue.take(budget)
        kind = (batch[0].model, batch[0].length)
        assert len(batch) == min(waiting[kind], max(1, budget // batch[0].length))
        waiting[kind] -= len(batch)


@given(calls, st.lists(lengths, min_size=1, max_size=8), st.integers(1, 60))
def test_every_call_has_its_turn_however_many_come_later(wanted: Calls, mine: list[int], budget: int) -> None:
    queue = filled(wanted)
    queue.add(Item(-1, place, length, "mine") for place, length in enumerate(mine))
    waiting, newcomers = len(wanted) + 1, iter(range(1000, 10_000))
    left = len(mine)
    while left:
        turn = []
        for _ in range(waiting):
            turn += queue.take(budget)
            queue.add([Item(next(newcomers), 0, 7, "a")])
        served = sum(item.call == -1 for item in turn)
        assert served >= 1
        left -= served
        waiting += waiting


@given(calls, st.integers(0, 11), st.integers(1, 100))
def test_cancelling_takes_a_call_out_and_nothing_else(wanted: Calls, call: int, budget: int) -> None:
    queue = filled(wanted)
    expected = Counter(item for item in items_of(wanted) if item.call != call)
    assert queue.cancel(call) == len(items_of(wanted)) - expected.total()
    assert len(queue) == expected.total()
    assert queue.tokens == sum(item.length for item in expected.elements())
    assert Counter(item for batch in emptied(queue, budget) for item in batch) == expected
    assert (len(queue), queue.tokens) == (0, 0)


def test_a_single_text_is_next_behind_a_bulk_call() -> None:
    queue = filled([("a", list(range(10, 40))), ("a", [5])])
    assert [queue.take()[0].call for _ in range(3)] == [0, 1, 0]


def test_companions_are_the_oldest_of_the_same_length() -> None:
    queue = filled([("a", [8]), ("a", [9, 8]), ("a", [8]), ("b", [8])])
    assert [(item.call, item.place) for item in queue.take(16)] == [(0, 0), (1, 1)]
    assert [(item.call, item.place) for item in queue.take(16)] == [(1, 0)]


def test_an_empty_queue_gives_nothing() -> None:
    assert Batcher().take() == []
