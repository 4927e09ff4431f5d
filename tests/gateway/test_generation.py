"""One version of one function."""

from __future__ import annotations

import msgspec
import pytest

from tests.gateway.house import generation


def test_generations_are_the_same_if_a_worker_could_not_tell_them_apart() -> None:
    one = generation("g1")
    assert one.same_as(msgspec.structs.replace(one, name="g1+1", directory="/elsewhere"))


@pytest.mark.parametrize(
    "changed",
    [
        {"archive": b"\x80"},
        {"environ": {"NAME": "other"}},
        {"entrypoint": "hello/main.py"},
        {"function": generation(concurrency=1).function},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_generations_differ_in_files_environment_entry_and_settings(changed: dict[str, object]) -> None:
    one = generation("g1")
    assert not one.same_as(msgspec.structs.replace(one, **changed))


def test_a_generation_shows_neither_its_files_nor_its_secrets() -> None:
    assert repr(generation("g1")) == "Generation(hello, g1)"
