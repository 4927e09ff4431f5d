"""Reading what a worker's standard output and error carry."""

from __future__ import annotations

import os

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.gateway.functionlog import FunctionLog, read_pipe
from tests.gateway.house import until

pytestmark = pytest.mark.anyio

Said = list[tuple[str, str, str]]


def mark(level: str, text: str, request_id: str = "") -> bytes:
    return b"\x1e" + msgspec.json.encode({"l": level, "m": text, "r": request_id}) + b"\n"


def heard(*pieces: bytes) -> Said:
    said: Said = []
    log = FunctionLog(lambda *line: said.append(line))
    for piece in pieces:
        log.data_received(piece)
    log.connection_lost(None)
    return said


raw_line = st.text(st.characters(exclude_characters="\n\r\x1e", exclude_categories=["Cs"]), min_size=1)
record = st.tuples(st.sampled_from(["debug", "info", "warning", "error", "critical"]), st.text(
    st.characters(exclude_categories=["Cs"])), st.sampled_from(["", "abc-1"]))  # fmt: skip


@given(st.lists(st.one_of(raw_line, record), max_size=20), st.lists(st.integers(1, 30), max_size=40))
def test_lines_are_found_however_the_pipe_splits_them(
    lines: list[str | tuple[str, str, str]], cuts: list[int]
) -> None:
    data = b"".join(f"{line}\n".encode() if isinstance(line, str) else mark(*line) for line in lines)
    pieces = []
    for cut in cuts:
        pieces.append(data[:cut])
        data = data[cut:]
    expected = [("info", line, "") if isinstance(line, str) else line for line in lines]
    assert heard(*pieces, data) == expected


def test_a_marked_line_says_its_level_and_its_request_and_may_be_many_lines() -> None:
    assert heard(mark("error", "Traceback:\n  line 1", "abc")) == [("error", "Traceback:\n  line 1", "abc")]


def test_an_unmarked_line_is_information() -> None:
    assert heard(b"from a library in C\r\n\n") == [("info", "from a library in C", "")]


@pytest.mark.parametrize("text", ["{", '{"l": 1}', "null", "", '{"l":"info"}', "\udcff"])
def test_what_only_looks_marked_is_shown_as_it_is(text: str) -> None:
    line = b"\x1e" + text.encode("utf-8", "surrogateescape")
    assert heard(line + b"\n") == [("info", line.decode("utf-8", "replace"), "")]


def test_a_level_that_is_none_is_information() -> None:
    assert heard(mark("\x1b[31m", "x"), mark("NOTICE", "y")) == [("info", "x", ""), ("info", "y", "")]


def test_bytes_that_are_no_text_are_replaced() -> None:
    assert heard(b"caf\xe9\n") == [("info", "caf\ufffd", "")]


def test_the_last_line_needs_no_end() -> None:
    assert heard(b"one\ntw", b"o") == [("info", "one", ""), ("info", "two", "")]


def test_a_line_without_end_is_cut_and_takes_no_more_memory() -> None:
    said: Said = []
    log = FunctionLog(lambda *line: said.append(line))
    for _ in range(40):
        log.data_received(b"x" * 64 * 1024)
        assert len(log._partial) <= 512 * 1024
    log.connection_lost(None)
    assert "".join(text for _, text, _ in said) == "x" * 40 * 64 * 1024
    assert 2 <= len(said) <= 6


def test_the_longest_record_of_a_worker_stays_one() -> None:
    from runtime.worker.logs import MAX_LINE

    text = "\x01" * MAX_LINE  # six bytes each as JSON
    data = mark("info", text)
    pieces = [data[offset : offset + 65536] for offset in range(0, len(data), 65536)]
    assert heard(*pieces) == [("info", text, "")]


async def test_a_pipe_is_followed_to_its_end() -> None:
    reader, writer = os.pipe()
    said: Said = []
    transport = await read_pipe(reader, lambda *line: said.append(line))
    os.write(writer, b"one\n" + mark("error", "two", "r"))
    await until(lambda: len(said) == 2)
    os.write(writer, b"three")
    os.close(writer)
    await until(lambda: len(said) == 3)
    assert said == [("info", "one", ""), ("error", "two", "r"), ("info", "three", "")]
    await until(transport.is_closing)
