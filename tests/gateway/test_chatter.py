"""How often a worker may tell of its state."""

from __future__ import annotations

from runtime.gateway.chatter import Chatter


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_one_that_tells_now_and_then_may_do_so_for_ever() -> None:
    clock = Clock()
    chatter = Chatter(clock)
    for _ in range(2000):
        clock.now += 1 / 19
        assert not chatter.is_too_much(served=1, in_flight=0)


def test_one_that_tells_all_the_time_is_found_within_a_moment() -> None:
    chatter = Chatter(Clock())
    assert [chatter.is_too_much(served=0, in_flight=0) for _ in range(101)].index(True) == 100


def test_what_its_requests_explain_is_fine() -> None:
    clock = Clock()
    chatter = Chatter(clock)
    for served in range(1, 500):
        clock.now += 0.01
        assert not any(chatter.is_too_much(served, in_flight=1) for _ in range(8))
