"""Every line that a function writes, with its level and request, in one piece."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextvars import copy_context
from functools import partial
from typing import NamedTuple

import msgspec
import pytest

from runtime.context import Call, current
from runtime.worker import logs

# A process whose output goes where a worker's goes; the case's own code follows.
INSTALLED = """
import logging, os, sys, threading, warnings
from runtime.worker import logs
from runtime.context import Call, current

logs.install()
"""


class Line(NamedTuple):
    level: str  # "" for a line without a mark
    text: str
    request_id: str = ""


def parse(output: bytes) -> list[Line]:
    lines = []
    for line in output.split(b"\n")[:-1]:
        if line.startswith(logs.MARK):
            record = msgspec.json.decode(line[1:], type=logs.Record)
            lines.append(Line(record.level, record.text, record.request_id))
        else:
            lines.append(Line("", line.decode()))
    return lines


def written(code: str) -> list[Line]:
    """What a process writes that runs this code."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", INSTALLED + code],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=20,
    )
    assert done.stdout.endswith(b"\n") or not done.stdout, done.stdout
    return parse(done.stdout)


@pytest.fixture
def emitted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[Line]]]:
    """The lines that this process's `emit` wrote: descriptor 2 is a pipe for it."""
    reader, writer = os.pipe()
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(writer if fd == 2 else fd, data))
    os.set_blocking(reader, False)
    monkeypatch.setattr(logs, "_unfinished", logs._Unfinished())

    def lines() -> list[Line]:
        data = b""
        while True:
            try:
                data += os.read(reader, 1 << 20)
            except BlockingIOError:
                return parse(data)

    yield lines
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("print('hello')", Line("info", "hello")),
        ("print('a', 2, None, sep='|')", Line("info", "a|2|None")),
        ("print('wrong', file=sys.stderr)", Line("error", "wrong")),
        ("sys.stdout.write('no newline')\nsys.stdout.flush()", Line("info", "no newline")),
        ("print('höre 火 🎵 \\x00 \\x1e')", Line("info", "höre 火 🎵 \x00 \x1e")),
        ("logging.info('x is %s', 7)", Line("info", "x is 7")),
        ("logging.getLogger('mine').warning('careful')", Line("warning", "mine: careful")),
        ("logging.critical('end')", Line("critical", "end")),
        ("warnings.warn('old')", Line("warning", "py.warnings: <string>:1: UserWarning: old\n  ")),
        ("os.write(1, b'raw\\n')", Line("", "raw")),
        ("os.system('echo from a program')", Line("", "from a program")),
        ("sys.stdout.buffer.write(b'bytes\\n')", Line("", "bytes")),
    ],
)
def test_what_is_written_arrives_as_one_line(code: str, line: Line) -> None:
    [found] = written(code)
    if line.text.startswith("py.warnings"):
        assert (found.level, "UserWarning: old" in found.text) == (line.level, True)
    else:
        assert found == line


def test_debug_messages_and_the_http_client_s_own_are_left_out() -> None:
    assert written("logging.debug('x')\nlogging.getLogger('httpx2').info('GET')") == []


def test_print_is_cut_into_lines_and_a_logged_record_is_not() -> None:
    lines = written("print('one\\ntwo\\n')\nlogging.error('three\\nfour')")
    assert lines == [Line("info", "one"), Line("info", "two"), Line("info", ""), Line("error", "three\nfour")]


def test_a_logged_exception_carries_its_traceback() -> None:
    [line] = written("try:\n    1 / 0\nexcept ZeroDivisionError:\n    logging.exception('failed')")
    assert line.level == "error"
    assert line.text.startswith("failed\nTraceback (most recent call last):\n")
    assert line.text.endswith("ZeroDivisionError: division by zero")


def test_a_broken_log_call_costs_no_more_than_its_line() -> None:
    lines = written("logging.info('%d', 'x')\nlogging.info('after')")
    assert lines[-1] == Line("info", "after")
    assert any("TypeError" in line.text for line in lines)


def test_a_line_written_before_a_crash_is_not_lost() -> None:
    assert written("print('last words')\nos.abort()") == [Line("info", "last words")]


def test_an_unhandled_exception_in_a_thread_is_told() -> None:
    lines = written("t = threading.Thread(target=lambda: 1 / 0)\nt.start()\nt.join()")
    assert lines[-1].level == "error"
    assert any("ZeroDivisionError" in line.text for line in lines)


def test_lines_of_many_threads_are_never_mixed() -> None:
    code = """
def work(number):
    for _ in range(200):
        print(str(number) * 200)
threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""
    lines = written(code)
    assert len(lines) == 1600
    assert {line.text for line in lines} == {str(number) * 200 for number in range(8)}


def test_a_record_longer_than_the_limit_is_cut_and_says_so() -> None:
    [line] = written("logging.info('x' * 100_000)")
    assert line.text == "x" * logs.MAX_LINE + f"… ({100_000 - logs.MAX_LINE} characters cut)"


def test_a_very_long_line_comes_in_pieces_and_whole() -> None:
    lines = written("print('x' * 100_000)\nprint('after')")
    assert [len(line.text) for line in lines] == [logs.MAX_LINE, 100_000 - logs.MAX_LINE, 5]


def test_output_without_newlines_is_sent_on_before_it_fills_the_memory() -> None:
    lines = written("for _ in range(40):\n    sys.stdout.write('x' * 4000)\nsys.stdout.write('\\n')")
    assert sum(len(line.text) for line in lines) == 160_000
    assert len(lines) > 1


def test_a_reader_that_is_gone_stops_nobody() -> None:
    code = INSTALLED + "sys.stdin.read()\nfor _ in range(5000):\n    print('x' * 100)\nos.write(1, b'alive')"
    with subprocess.Popen(
        [sys.executable, "-I", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stderr.close()
        process.stdin.close()
        assert process.stdout.read() == b"alive"


def a_call(id: str) -> Call:
    return Call(id, "hello", 0.0, lambda call, work: asyncio.ensure_future(work))


@pytest.mark.anyio
async def test_a_line_belongs_to_the_request_that_wrote_it(emitted: Callable[[], list[Line]]) -> None:
    async def work(name: str) -> None:
        current.set(a_call(name))
        logs.emit("info", "begins")
        await asyncio.sleep(0)
        logs.RecordHandler().handle(
            logging.makeLogRecord({"name": "root", "msg": "goes on", "levelname": "INFO"})
        )
        await asyncio.to_thread(logs.emit, "info", "ends")

    await asyncio.gather(*(asyncio.create_task(work(name)) for name in ("one", "two")))
    lines = emitted()
    for name in ("one", "two"):
        assert [line.text for line in lines if line.request_id == name] == ["begins", "goes on", "ends"]
    assert len(lines) == 6


def test_a_line_can_be_given_to_a_request(emitted: Callable[[], list[Line]]) -> None:
    logs.emit("error", "late", "the-request")
    logs.emit("info", "nobody's")
    assert emitted() == [Line("error", "late", "the-request"), Line("info", "nobody's")]


def test_half_a_character_is_written_as_an_escape(emitted: Callable[[], list[Line]]) -> None:
    logs.emit("error", "half: \ud800")
    assert emitted() == [Line("error", "half: \\ud800")]


def test_lines_begun_by_two_threads_are_finished_apart(emitted: Callable[[], list[Line]]) -> None:
    stream = logs.PrintStream("info", 1)
    stream.write("one ")
    thread = threading.Thread(target=lambda: (stream.write("two "), stream.write("three\n")))
    thread.start()
    thread.join()
    stream.write("four\n")
    assert [line.text for line in emitted()] == ["two three", "one four"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert stream.writable()
        assert not stream.isatty()
        assert stream.encoding == "utf-8"


def in_request(id: str, work: Callable[[], object]) -> None:
    def run() -> None:
        current.set(a_call(id))
        work()

    copy_context().run(run)


def test_lines_begun_by_two_requests_are_finished_apart(
    emitted: Callable[[], list[Line]], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = logs.PrintStream("info", 1)
    monkeypatch.setattr(sys, "stdout", stream)
    in_request("a", lambda: stream.write("one "))
    call = a_call("b")

    def other() -> None:
        current.set(call)
        stream.write("two ")
        stream.write("three")
        logs.finish()
        stream.write("four\n")
        logs.finish()

    copy_context().run(other)
    assert emitted() == [Line("info", "two three", "b"), Line("info", "four", "b")]


def test_lines_that_nobody_ends_do_not_pile_up(emitted: Callable[[], list[Line]]) -> None:
    stream = logs.PrintStream("info", 1)
    stream.write("nobody's")
    for number in range(100):
        in_request(f"{number}", partial(stream.write, f"line {number}"))
    lines = emitted()
    assert lines == [Line("info", f"line {number}", f"{number}") for number in range(len(lines))]
    assert len(lines) > 50


def test_a_failure_on_a_thread_is_one_record_of_its_request() -> None:
    code = """
from runtime.worker import inherit
inherit.install(lambda function: function)
current.set(Call("abc", "hello", 0.0, print))
thread = threading.Thread(target=lambda: 1 / 0, name="mine")
thread.start()
thread.join()
threading.Thread(target=sys.exit).start()
"""
    [line] = written(code)
    assert (line.level, line.request_id) == ("error", "abc")
    assert line.text.startswith("mine failed\nTraceback (most recent call last):\n")
    assert line.text.endswith("ZeroDivisionError: division by zero")


def test_a_task_s_failure_that_nobody_asks_for_is_its_request_s() -> None:
    code = """
import asyncio
async def fail():
    current.set(Call("abc", "hello", 0.0, print))
    raise ValueError("alone")
async def main():
    asyncio.get_running_loop().set_exception_handler(logs.loop_failed)
    await asyncio.wait([asyncio.create_task(fail())])
asyncio.run(main())
"""
    [line] = written(code)
    assert line.text.endswith("ValueError: alone")
    assert line.request_id == ("abc" if sys.version_info >= (3, 12) else "")
