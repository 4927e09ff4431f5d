"""What the server tells, in three looks."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.gateway.logbook import Logbook, Look

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
ESCAPE = re.compile(r"\x1b\[\d+m")
LOOKS: tuple[Look, ...] = ("plain", "color", "json")
EVIL = "\x1b]0;pwned\x07\x1b[2J\r\x00\x08\x7f\x9b31m\u2028\u202e"


class Told:
    """A logbook and its lines."""

    def __init__(self, look: Look) -> None:
        self.lines: list[str] = []
        self.book = Logbook(look, self.lines.append)

    def tell(self, *args: Any, **kwargs: Any) -> str:
        self.book.tell(*args, **kwargs)
        return self.lines[-1]

    def request(
        self, path: str = "/functions/v1/hello", status: int = 200, code: str = "", limit: str = ""
    ) -> str:
        self.book.request("GET", path, "hello", status, code, 12.345, "request-1", limit=limit)
        return self.lines[-1]


def test_plain_lines_are_for_files() -> None:
    told = Told("plain")
    line = told.tell("it works", level="warning", function="hello", request_id="abc", worker=7)
    assert re.fullmatch(rf"{STAMP} WARNING hello/7 \[abc\] it works", line)
    assert re.fullmatch(rf"{STAMP} INFO    it works", told.tell("it works\n"))
    assert re.fullmatch(
        rf"{STAMP} REQUEST 200 GET /functions/v1/hello 12\.3ms hello \[request-1\]", told.request()
    )
    assert told.request(status=404, code="NOT_FOUND").endswith("[request-1] NOT_FOUND")
    line = told.request(status=546, code="WORKER_LIMIT", limit="timeout_s")
    assert line.endswith("[request-1] WORKER_LIMIT (timeout_s)")


def test_coloured_lines_are_for_people() -> None:
    told = Told("color")
    assert ESCAPE.sub("", told.tell("it works", function="hello")).endswith(" hello it works")
    assert "\x1b[31m" in told.tell("it broke", level="error")
    colors = [re.findall(ESCAPE, told.request(status=status))[2] for status in (200, 404, 500)]
    assert colors == ["\x1b[32m", "\x1b[33m", "\x1b[31m"]
    assert "12.3 ms" in told.request()
    line = told.tell("it works", function="hello", worker=7, request_id="0123456789")
    assert ESCAPE.sub("", line).endswith(" hello/7 [01234567] it works")
    assert ESCAPE.sub("", told.request(status=404, code="NOT_FOUND")).endswith(" hello [request-] NOT_FOUND")


def test_json_lines_are_for_machines() -> None:
    told = Told("json")
    record = json.loads(told.tell("a\nb", level="error", function="hello", request_id="abc", worker=7))
    assert re.fullmatch(STAMP, record.pop("time"))
    assert record == {
        "level": "error",
        "message": "a\nb",
        "function": "hello",
        "request_id": "abc",
        "worker": 7,
    }
    access = json.loads(told.request(status=546, code="WORKER_LIMIT", limit="cpu_ms"))
    assert re.fullmatch(STAMP, access.pop("time"))
    assert access == {
        "method": "GET",
        "path": "/functions/v1/hello",
        "function": "hello",
        "status": 546,
        "code": "WORKER_LIMIT",
        "limit": "cpu_ms",
        "ms": 12.35,
        "request_id": "request-1",
        "level": "info",
        "event": "request",
    }


def test_text_for_people_is_a_record_for_machines() -> None:
    for look in ("plain", "color"):
        told = Told(look)
        told.book.raw("\nServing functions\n")
        assert told.lines == ["\nServing functions\n"]
    told = Told("json")
    told.book.raw("Serving functions")
    assert json.loads(told.lines[0])["message"] == "Serving functions"


@pytest.mark.parametrize("look", LOOKS)
def test_nothing_that_a_function_says_can_steer_the_terminal(look: Look) -> None:
    told = Told(look)
    told.tell(EVIL, level="info", request_id=EVIL)
    told.request(path=EVIL)
    told.book.raw(EVIL)
    for line in told.lines:
        rest = ESCAPE.sub("", line)
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", rest)
        assert not re.search(r"[\x80-\x9f\u2028-\u202e\u2066-\u2069]", rest)
    if look == "json":
        assert [json.loads(line).get("message", EVIL) for line in told.lines] == [EVIL] * 3


@given(st.text(), st.sampled_from(LOOKS[:2]))
def test_whatever_a_path_holds_its_line_stays_one(path: str, look: Look) -> None:
    rest = ESCAPE.sub("", Told(look).request(path=path))
    assert len(rest.splitlines()) == 1
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", rest)


def test_what_is_harmless_stays_as_it_is() -> None:
    assert Told("plain").tell("ö €\t🙂 👨‍👩‍👧 next").endswith("ö €\t🙂 👨‍👩‍👧 next")
    assert "/hello/ö" in Told("plain").request(path="/hello/ö")


def test_what_is_replaced_can_be_recognised() -> None:
    assert Told("plain").tell("a\x1b[0m\u202e").endswith("a\\x1b[0m\\u202e")
    assert " /a\\nb\\tc " in Told("plain").request(path="/a\nb\tc")


def test_the_request_id_cannot_begin_a_line() -> None:
    assert "\n" not in Told("plain").tell("x", request_id="a\nREQUEST 200")


@pytest.mark.parametrize("look", LOOKS[:2])
def test_a_function_cannot_print_a_line_that_seems_to_be_ours(look: Look) -> None:
    told = Told(look)
    ours = told.request(code="WORKER_ERROR")
    for end in ("\n", "\n\n", "\r\n", "\u2028", "\x85"):
        first, *others = told.tell(f"hi{end}{ours}", function="hello").split("\n")
        assert re.search(STAMP if look == "plain" else r"\d\d:\d\d:\d\d", first)
        assert [line for line in others if not line.startswith("    ")] == []


@pytest.mark.parametrize("look", LOOKS[:2])
def test_the_code_of_a_request_cannot_begin_a_line(look: Look) -> None:
    line = Told(look).request(code=f"A\nB{EVIL}")
    assert "\n" not in line
    assert "A\\nB" in line
