"""The policy: which texts run together, and when."""

from __future__ import annotations

from collections import Counter, defaultdict
from random import Random
from time import process_time

from hypothesis import given
from hypothesis import strategies as st

from runtime.engine.batcher import Batcher, Item, Policy, Run

lengths = st.integers(1, 40)
budgets = st.integers(1, 100)
calls = st.lists(
    st.tuples(st.sampled_from(["a", "b"]), st.lists(lengths, min_size=1, max_size=12)), max_size=12
)
Calls = list[tuple[str, list[int]]]

PACKS = {"a": True, "b": False}


def items_of(wanted: Calls) -> list[Item]:
    """Texts of the models "a", which packs, and "b", which does not."""
    return [
        Item(call, place, length, model, PACKS[model])
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


@given(calls, budgets)
def test_every_text_is_given_out_exactly_once(wanted: Calls, budget: int) -> None:
    batches = emptied(filled(wanted), budget)
    assert Counter(item for batch in batches for item in batch) == Counter(items_of(wanted))


@given(calls, budgets)
def test_a_batch_has_one_model_and_keeps_the_budget(wanted: Calls, budget: int) -> None:
    for batch in emptied(filled(wanted), budget):
        assert len({item.model for item in batch}) == 1
        assert len(batch) == 1 or sum(item.length for item in batch) <= budget


@given(calls, budgets)
def test_a_model_that_does_not_pack_gets_texts_of_one_length(wanted: Calls, budget: int) -> None:
    for batch in emptied(filled(wanted), budget):
        assert len({item.length for item in batch}) == 1 or batch[0].packs


@given(calls, budgets)
def test_the_rectangle_around_attention_is_at_most_two_budgets(wanted: Calls, budget: int) -> None:
    for batch in emptied(filled(wanted), budget):
        assert len(batch) == 1 or len(batch) * max(item.length for item in batch) <= 2 * budget


@given(calls, budgets)
def test_a_batch_is_as_full_as_the_budget_allows(wanted: Calls, budget: int) -> None:
    queue, waiting = filled(wanted), Counter(items_of(wanted))
    while queue:
        batch = queue.take(budget)
        waiting -= Counter(batch)
        head, tokens = batch[0], sum(item.length for item in batch)
        longest = max(item.length for item in batch)
        for item in waiting:
            if item.model == head.model and (head.packs or item.length == head.length):
                area = (len(batch) + 1) * max(longest, item.length)
                assert tokens + item.length > budget or area > 2 * budget


@given(calls, budgets)
def test_texts_of_one_call_and_length_keep_their_order(wanted: Calls, budget: int) -> None:
    seen: dict[tuple[int, int], list[int]] = defaultdict(list)
    for batch in emptied(filled(wanted), budget):
        for item in batch:
            seen[item.call, item.length].append(item.place)
    assert all(places == sorted(places) for places in seen.values())


@given(calls, budgets)
def test_the_oldest_text_of_a_call_is_its_next_head(wanted: Calls, budget: int) -> None:
    queue, waiting = filled(wanted), items_of(wanted)
    while queue:
        batch = queue.take(budget)
        assert batch[0] == next(item for item in waiting if item.call == batch[0].call)
        waiting = [item for item in waiting if item not in batch]


@given(calls, budgets, st.booleans())
def test_a_single_text_waits_one_batch_per_call_before_it(wanted: Calls, budget: int, packs: bool) -> None:
    queue, newcomers = filled(wanted), iter(range(1000, 10_000))
    mine = Item(-1, 0, 13, "a", packs)
    queue.add([mine])
    for _ in range(len(wanted) + 1):
        queue.add([Item(next(newcomers), place, 12, "a", True) for place in range(20)])
        if mine in queue.take(budget):
            break
    else:
        raise AssertionError


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
            queue.add([Item(next(newcomers), 0, 7, "a", True)])
        served = sum(item.call == -1 for item in turn)
        assert served >= 1
        left -= served
        waiting += waiting


@given(calls, st.integers(0, 11), budgets)
def test_cancelling_takes_a_call_out_and_nothing_else(wanted: Calls, call: int, budget: int) -> None:
    queue = filled(wanted)
    expected = Counter(item for item in items_of(wanted) if item.call != call)
    assert queue.cancel(call) == len(items_of(wanted)) - expected.total()
    assert len(queue) == expected.total()
    assert queue.tokens == sum(item.length for item in expected.elements())
    assert Counter(item for batch in emptied(queue, budget) for item in batch) == expected
    assert (len(queue), queue.tokens) == (0, 0)


def test_a_single_text_is_next_behind_a_bulk_call() -> None:
    queue = filled([("b", list(range(10, 40))), ("b", [5])])
    assert [queue.take()[0].call for _ in range(3)] == [0, 1, 0]


def test_parts_of_one_call_have_one_turn_together() -> None:
    queue = Batcher()
    for part in range(3):
        queue.add([Item(part, place, 200, turn="bulk") for place in range(4)])
    queue.add([Item(7, 0, 201), Item(8, 0, 202)])
    assert [queue.take()[0].call for _ in range(5)] == [0, 7, 8, 0, 0]


def test_without_packing_companions_are_the_oldest_of_the_same_length() -> None:
    queue = filled([("b", [8]), ("b", [9, 8]), ("b", [8]), ("a", [8])])
    assert [(item.call, item.place) for item in queue.take(16)] == [(0, 0), (1, 1)]
    assert [(item.call, item.place) for item in queue.take(16)] == [(1, 0)]


def test_packed_companions_are_mostly_by_turns_and_then_by_nearness() -> None:
    # Of 64 tokens the next turns have 48, 16 of them the head's: 10, 2 and 18 fit, 30 and 12 do not.
    queue = filled([("a", [16]), ("a", [10]), ("a", [30]), ("a", [2]), ("a", [18]), ("a", [40, 12])])
    assert [item.length for item in queue.take(64)] == [16, 10, 2, 18, 12]


def test_an_empty_queue_gives_nothing() -> None:
    assert Batcher().take() == []


def test_a_full_queue_costs_little_per_batch() -> None:
    queue = Batcher()
    queue.add(Item(call, 0, 3 + call * 7919 % 510, None, True) for call in range(16_384))
    start = process_time()
    batches = emptied(queue, 256)
    assert (process_time() - start) / len(batches) < 0.002


# --- the threads -----------------------------------------------------------------------------


def text(call: int, length: int = 10) -> list[Item]:
    return [Item(call, 0, length, packs=True)]


def started(policy: Policy) -> Run:
    run = policy.next()
    assert run is not None
    return run


def test_a_short_text_that_finds_nobody_runs_alone_on_every_core() -> None:
    policy = Policy(threads=4)
    policy.queue.add(text(1))
    run = started(policy)
    assert (run.alone, run.threads) == (True, 4)
    policy.queue.add(text(2))
    assert policy.next() is None  # it waits: no core is free
    policy.ended(run)
    assert not started(policy).alone  # there is company


def test_many_cores_are_not_all_left_to_one_text() -> None:
    policy = Policy(threads=20)
    policy.queue.add(text(1))
    run = started(policy)
    assert (run.alone, run.threads) == (True, 8)
    policy.queue.add(text(2))
    assert not started(policy).alone


def test_company_that_has_left_is_forgotten() -> None:
    policy = Policy(threads=2)
    policy.queue.add(text(1))
    run = started(policy)
    policy.queue.add(text(2))
    policy.ended(run)
    policy.ended(started(policy))
    policy.queue.add(text(3))
    assert started(policy).alone


def test_a_long_text_leaves_the_other_cores_to_others() -> None:
    policy = Policy(threads=2)
    policy.queue.add(text(1, length=129))
    assert not started(policy).alone
    policy.queue.add(text(2))
    assert not started(policy).alone


def test_two_texts_run_side_by_side() -> None:
    policy = Policy(threads=2)
    policy.queue.add([*text(1), *text(2)])
    runs = [started(policy), started(policy)]
    assert [(len(run.items), run.alone) for run in runs] == [(1, False), (1, False)]
    assert policy.next() is None


def test_one_core_is_never_all_of_them() -> None:
    policy = Policy(threads=1)
    policy.queue.add(text(1))
    assert not started(policy).alone


@given(calls, st.integers(1, 4), budgets, st.randoms(use_true_random=False))
def test_threads_are_never_overcommitted_and_everything_is_run(
    wanted: Calls, threads: int, budget: int, chance: Random
) -> None:
    policy = Policy(threads, budget)
    policy.queue.add(items_of(wanted))
    running: list[Run] = []
    done: Counter[Item] = Counter()
    while policy.queue or running:
        while run := policy.next():
            running.append(run)
        assert 0 < sum(run.threads for run in running) <= threads
        assert sum(run.alone for run in running) <= 1
        chance.shuffle(running)
        run = running.pop()
        done.update(run.items)
        policy.ended(run)
    assert done == Counter(items_of(wanted))


@given(calls, st.integers(1, 4), st.sets(st.integers(0, 11)), st.randoms(use_true_random=False))
def test_heavy_ones_leave_a_thread_to_others_and_are_all_run(
    wanted: Calls, threads: int, heavy: set[int], chance: Random
) -> None:
    policy = Policy(threads)
    items = [item._replace(heavy=item.call in heavy, wide=False) for item in items_of(wanted)]
    # A model of its own for each call: heavy ones and others never share a batch.
    items = [item._replace(model=item.call) for item in items]
    policy.queue.add(items)
    running: list[Run] = []
    done: Counter[Item] = Counter()
    while policy.queue or running:
        while run := policy.next():
            running.append(run)
        assert 0 < len(running) <= threads
        assert sum(run.items[0].heavy for run in running) <= max(1, threads - 1)
        if any(not item.heavy for waiting in policy.queue._turns.values() for item in waiting.values()):
            assert len(running) == threads  # nothing light waits for what is heavy
        chance.shuffle(running)
        run = running.pop()
        done.update(run.items)
        policy.ended(run)
    assert done == Counter(items)


def test_a_lone_text_of_a_model_that_is_not_wide_takes_one_core() -> None:
    policy = Policy(threads=4)
    policy.queue.add([Item(1, 0, 10, wide=False)])
    run = started(policy)
    assert (run.alone, run.threads) == (True, 1)
    policy.queue.add(text(2))
    assert started(policy).threads == 1


def test_turns_are_found_behind_those_of_heavy_ones() -> None:
    policy = Policy(threads=2)
    policy.queue.add(
        [Item(1, 0, 600, "raw", turn="raw", heavy=True), Item(2, 0, 600, "raw", turn="raw", heavy=True)]
    )
    heavy = started(policy)
    policy.queue.add([Item(call, 0, 10, "a", True) for call in (3, 4, 5)])
    assert [item.call for item in started(policy).items] == [3, 4, 5]
    policy.ended(heavy)
    assert [item.call for item in started(policy).items] == [2]
