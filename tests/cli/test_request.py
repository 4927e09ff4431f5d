"""What `functions invoke` makes of its arguments."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.cli import request
from runtime.errors import UsageError

BASE = "http://127.0.0.1:54321/functions/v1"


@pytest.mark.parametrize(
    ("method", "data", "sent"),
    [(None, None, "GET"), (None, "{}", "POST"), ("put", "{}", "PUT"), ("DELETE", None, "DELETE")],
)
def test_the_method_follows_the_body_unless_it_is_given(
    method: str | None, data: str | None, sent: str
) -> None:
    assert request.build(BASE, "hello", method, data, [], []).method == sent


def test_the_name_may_have_a_path_behind_it() -> None:
    assert request.build(BASE + "/", "tasks/7", None, None, [], []).url == f"{BASE}/tasks/7"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"a": 1}', "application/json"),
        (b"plain", "text/plain; charset=utf-8"),
        (b"\xff\x00", "application/octet-stream"),
    ],
)
def test_the_body_is_labelled_as_what_it_is(body: bytes, kind: str) -> None:
    assert request.content_type(body) == kind


def test_a_content_type_that_is_given_stays() -> None:
    call = request.build(BASE, "hello", None, "{}", [], ["Content-Type: text/csv"])
    assert call.headers == [("Content-Type", "text/csv")]


def test_a_body_comes_from_the_text_a_file_or_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "body").write_bytes(b"\x00from a file")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"from a pipe")))
    assert request.read_body("text") == b"text"
    assert request.read_body(f"@{tmp_path / 'body'}") == b"\x00from a file"
    assert request.read_body("-") == b"from a pipe"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere: cannot read it"):
        request.read_body(f"@{tmp_path / 'nowhere'}")


@given(st.text("abc", min_size=1), st.text())
def test_a_query_value_may_hold_anything(name: str, value: str) -> None:
    assert request.pair(f"{name}={value}", "=", "--query") == (name, value)


@pytest.mark.parametrize("text", ["nothing", "=x", ""])
def test_a_pair_without_a_name_or_separator_is_refused_with_its_flag(text: str) -> None:
    with pytest.raises(UsageError, match=r"--query: .*\n.*write name=value"):
        request.pair(text, "=", "--query")


def test_a_url_without_a_scheme_is_refused() -> None:
    with pytest.raises(UsageError, match="http://localhost:8000"):
        request.build("localhost:8000", "hello", None, None, [], [])
