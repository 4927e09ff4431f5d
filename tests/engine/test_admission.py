"""How much may wait at once."""

from __future__ import annotations

import pytest

from runtime.engine.admission import Admission
from runtime.errors import EngineUnavailable


def test_what_does_not_fit_is_refused_and_room_comes_back() -> None:
    admission = Admission(slots=3)
    with admission.hold(["a", "b"], at_once=10):
        with pytest.raises(EngineUnavailable, match="overloaded"), admission.hold(["c", "d"], at_once=10):
            pass
        with admission.hold(["c"], at_once=10):
            pass
    with admission.hold(["a", "b", "c"], at_once=10):
        pass


def test_a_call_needs_room_for_what_it_queues_at_once() -> None:
    with Admission(slots=2).hold(["a"] * 1000, at_once=2):
        pass


def test_long_texts_need_more_room() -> None:
    with pytest.raises(EngineUnavailable), Admission(slots=2).hold(["a" * 4096 * 3], at_once=10):
        pass


def test_room_comes_back_after_a_failure() -> None:
    admission = Admission(slots=1)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), admission.hold(["a"], at_once=1):
            raise ZeroDivisionError


def test_a_leaving_engine_refuses_everybody() -> None:
    admission = Admission()
    admission.close()
    with pytest.raises(EngineUnavailable, match="shutting down"), admission.hold(["a"], at_once=1):
        pass
