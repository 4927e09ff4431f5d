"""Inputs of the fuzz can be made again, and know what is to become of them."""

from __future__ import annotations

from collections import Counter

import pytest

from bench.fuzz import Log, inputs
from bench.inputs import NEVER


def test_a_seed_and_a_number_make_the_same_input_again() -> None:
    whole = list(inputs(7, range(200)))
    assert list(inputs(7, range(150, 151))) == whole[150:151]
    assert list(inputs(8, range(200))) != whole


def test_every_kind_is_among_them() -> None:
    made = list(inputs(7, range(2000)))
    expected = Counter(given.expected for given in made)
    assert min(expected[kind] for kind in ("anything", "success", "refusal")) > 50
    assert sum(given.waits for given in made) > 100
    hidden = [given for given in made if NEVER in b"".join(given.pieces)]
    assert {given.expected for given in hidden} == {"refusal"}


@pytest.mark.parametrize(
    ("said", "troubles"),
    [
        (b'{"level":"info","status":404,"path":"/"}\n', 0),
        (b'{"level":"info","status":502,"path":"/"}\n', 1),
        (b'{"level":"info","status":200,"path":"/functions/v1/never"}\n', 1),
        (b'{"level":"error","message":"it broke"}\n', 1),
        (b"Traceback (most recent call last):\n", 1),
        (b"Serving functions on http://127.0.0.1:1/\n", 0),
    ],
)
def test_the_log_is_read_as_it_is_printed(said: bytes, troubles: int) -> None:
    log = Log()
    for byte in said:
        log(bytes([byte]))
    assert len(log.troubles) == troubles
