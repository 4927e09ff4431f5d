"""Reading what a worker's standard output and error carry."""

from __future__ import annotations

import asyncio
import os
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.gateway import functionlog
from runtime.gateway.functionlog import Lines, read_pipe, told
from tests.gateway.house import until

pytestmark = pytest.mark.anyio

Said = list[tuple[str, str, str]]


def mark(level: str, text: str, request_id: str = "") -> bytes:
    return b"\x1e" + msgspec.json.encode({"l": level, "m": text, "r": request_id}) + b"\n"


def heard(*pieces: bytes) -> Said:
    lines, cut = Lines(), []
    for piece in pieces:
        lines.feed(piece)
        cut += taken(lines)
    return [record for line in [*cut, *lines.rest()] if (record := told(line))]


def taken(lines: Lines) -> list[bytes]:
    """Every whole line."""
    cut = lines.take()
    while lines.more:
        cut += lines.take()
    return cut


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


DEEP = '{"l":"info","m":"","x":' + "[" * 3000


@pytest.mark.parametrize(
    "text", ["{", '{"l": 1}', "null", "", '{"l":"info"}', "\udcff", '{"l":"\udcff"}', DEEP]
)
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
    lines, cut = Lines(), []
    for _ in range(40):
        lines.feed(b"x" * 64 * 1024)
        cut += taken(lines)
        assert len(lines._data) <= 512 * 1024
    cut += lines.rest()
    assert b"".join(cut) == b"x" * 40 * 64 * 1024
    assert 2 <= len(cut) <= 6


def test_lines_are_taken_a_few_at_a_time() -> None:
    lines = Lines()
    lines.feed(b"x\n" * 1000 + b"y" * 100_000 + b"\n" + b"z\n" * 10)
    pieces = [lines.take()]
    while lines.more:
        pieces.append(lines.take())
    assert max(map(len, pieces)) <= 100
    assert [line[:1] for piece in pieces for line in piece] == [b"x"] * 1000 + [b"y"] + [b"z"] * 10
    assert all(sum(map(len, piece[:-1])) < 64 * 1024 for piece in pieces)


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


async def test_a_log_without_end_gets_a_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read more slowly than it is written, so that the writer waits; nothing is lost."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    said, clock = 0, 0.0
    rests: list[float] = []

    def on_line(level: str, text: str, request_id: str) -> None:
        nonlocal said, clock
        said += 1
        clock += 0.001  # what telling it takes

    loop = asyncio.get_running_loop()

    def later(delay: float, callback: Any) -> Any:
        nonlocal clock
        rests.append(delay)
        clock += delay
        return loop.call_soon(callback)

    monkeypatch.setattr(functionlog, "time", SimpleNamespace(perf_counter=lambda: clock))
    await read_pipe(reader, on_line)
    monkeypatch.setattr(loop, "call_later", later)
    data = b"x\n" * 2000
    assert os.write(writer, data) == len(data)
    os.close(writer)
    while said < 2000:  # noqa: ASYNC110 - what is awaited is a count
        await asyncio.sleep(0)
    assert len(rests) >= 20
    assert 15 < sum(rests) < 20  # nine tenths of the time, but for the burst at the beginning
