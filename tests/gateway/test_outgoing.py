"""What a worker wants to have sent is checked."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import frames
from runtime.errors import InvalidResponse, WorkerError, rule_of
from runtime.gateway.outgoing import (
    closes,
    denial_headers,
    failure,
    handshake_headers,
    response_headers,
    subprotocol,
)

TYPE = (b"content-type", b"text/plain")
MALFORMED = [
    (b"", b"x"),
    (b"a b", b"x"),
    (b"a:b", b"x"),
    (b"a\r\nb", b"x"),
    (b"transfer-encoding:chunked", b""),
    (b"a\n", b"x"),
    (b"\xc3\xa4", b"x"),
    (b"x", b"a\r\nb: c"),
    (b"x", b"a\n"),
    (b"x", b"\x00"),
    (b"x", b"\x7f"),
    (b"X\n", b"y"),
]


def test_what_is_well_formed_stays_as_it_is() -> None:
    headers = [TYPE, (b"content-length", b"12"), (b"x", b""), (b"x", b"\xe9\t \xff"), (b"sec-x", b":")]
    assert response_headers(200, headers) == headers
    assert response_headers(599, []) == []


def test_names_become_lower_case_and_what_concerns_the_connection_is_dropped_whatever_the_case() -> None:
    ours = [
        (b"Connection", b"close"),
        (b"TRANSFER-encoding", b"chunked"),
        (b"upgrade", b"x"),
        (b"Keep-Alive", b"1"),
    ]
    assert response_headers(200, [*ours, (b"Content-Type", b"text/plain")]) == [TYPE]
    assert handshake_headers([*ours, (b"Content-Type", b"text/plain")]) == [TYPE]


def test_the_name_of_the_request_is_the_hosts_to_give() -> None:
    assert response_headers(200, [TYPE, (b"SB-Request-Id", b"forged")]) == [TYPE]
    assert handshake_headers([(b"sb-request-id", b"forged")]) == []


@pytest.mark.parametrize("status", [-1, 0, 100, 101, 199, 600, 10**12])
def test_a_status_that_ends_no_exchange_is_no_response(status: int) -> None:
    for check in (response_headers, denial_headers):
        with pytest.raises(InvalidResponse):
            check(status, [])


@pytest.mark.parametrize("header", MALFORMED)
def test_a_malformed_header_is_no_response(header: tuple[bytes, bytes]) -> None:
    with pytest.raises(InvalidResponse):
        response_headers(200, [TYPE, header])
    with pytest.raises(InvalidResponse):
        handshake_headers([TYPE, header])


@pytest.mark.parametrize("value", [b"", b"-1", b"+1", b"1_0", b" 1", b"1, 1", b"9" * 19, b"x"])
@pytest.mark.parametrize("name", [b"content-length", b"Content-Length"])
def test_a_length_is_a_number(name: bytes, value: bytes) -> None:
    with pytest.raises(InvalidResponse):
        response_headers(200, [(name, value)])


def test_there_is_one_length() -> None:
    with pytest.raises(InvalidResponse, match="two of them"):
        response_headers(200, [(b"content-length", b"1"), (b"Content-Length", b"1")])


@pytest.mark.parametrize("status", [204, 304])
def test_a_response_without_a_body_has_no_length(status: int) -> None:
    """Else its client would take the beginning of the next response for its body."""
    assert response_headers(status, [(b"content-length", b"5"), TYPE]) == [TYPE]


@given(st.lists(st.tuples(st.binary(max_size=8), st.binary(max_size=8)), max_size=4), st.integers(0, 700))
def test_whatever_a_worker_says_a_head_stays_a_head(headers: frames.Headers, status: int) -> None:
    try:
        kept = response_headers(status, headers)
    except InvalidResponse:
        return
    wire = b"".join(name + b": " + value + b"\r\n" for name, value in kept)
    assert len(re.findall(rb"[\r\n]+", wire)) == len(kept)
    assert all(name == name.lower() for name, _ in kept)


def test_a_handshake_is_the_servers_business() -> None:
    named = (
        b"Sec-WebSocket-Accept",
        b"sec-websocket-extensions",
        b"sec-websocket-protocol",
        b"content-length",
    )
    assert handshake_headers([*((name, b"1") for name in named), TYPE]) == [TYPE]
    assert denial_headers(403, [(b"content-length", b"7"), TYPE]) == [TYPE]
    with pytest.raises(InvalidResponse):
        denial_headers(299, [])  # the server knows no phrase for it


def test_a_subprotocol_is_a_token() -> None:
    assert (subprotocol(None), subprotocol("graphql-ws")) == (None, "graphql-ws")
    for name in ("", "a b", "a\r\nb", "ä"):
        with pytest.raises(InvalidResponse):
            subprotocol(name)


def test_a_websocket_is_closed_with_codes_that_may_be_sent() -> None:
    assert all(closes(code, "") for code in (1000, 1003, 1007, 1014, 3000, 4999))
    assert not any(closes(code, "") for code in (-1, 0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 10**6))
    assert closes(1000, "x" * 123)
    assert not closes(1000, "ä" * 62)


def test_a_failure_that_we_do_not_know_is_just_a_failure() -> None:
    assert rule_of(failure(frames.Failure("BAD_REQUEST", "why"))).status == 400
    assert failure(frames.Failure("BAD_REQUEST", "why")).message == "why"
    for code in ("", "bad_request", "A\r\nb: c"):
        assert type(failure(frames.Failure(code, "a secret"))) is WorkerError


def test_a_worker_reports_only_limits_that_it_can_notice() -> None:
    told = [failure(frames.Failure("WORKER_LIMIT", "why", limit)).limit for limit in ("cpu_ms", "queue", "x")]
    assert told == ["cpu_ms", "", ""]
