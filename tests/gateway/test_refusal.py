"""Every answer of the host has one body and one set of headers."""

from __future__ import annotations

import json

import pytest
from starlette.types import Message, Receive, Scope, Send

from runtime import errors
from runtime.errors import (
    ChannelError,
    ConfigError,
    FunctionsError,
    HeadersTooLarge,
    HostError,
    NotFound,
    Overloaded,
    ShuttingDown,
    WorkerError,
)
from runtime.gateway.refusal import body, refuse, refuse_socket, wire
from tests.gateway.asgi import Answer, ask, http, websocket

pytestmark = pytest.mark.anyio

ID = "request-1"


async def answer_to(
    error: FunctionsError, *, not_run: bool = True, headers: list[tuple[bytes, bytes]] | None = None
) -> Answer:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse(send, error, ID, not_run=not_run, headers=headers or [])

    return await ask(app, http())


def host_errors() -> list[type[HostError]]:
    return [kind for kind in errors.HTTP if issubclass(kind, HostError)]


@pytest.mark.parametrize("kind", host_errors(), ids=lambda kind: kind.__name__)
async def test_every_error_of_the_table_answers_with_its_status_code_and_body(kind: type[HostError]) -> None:
    answer = await answer_to(kind())
    rule = errors.HTTP[kind]
    assert answer.status == rule.status
    assert answer["sb-error-code"] == rule.code
    assert answer["content-type"] == "application/json"
    assert answer["content-length"] == str(len(answer.body))
    assert answer["sb-request-id"] == ID
    assert answer.tokens("access-control-expose-headers") == {
        "sb-error-code",
        "sb-request-id",
        "x-relay-error",
    }
    told = json.loads(answer.body)
    assert told == {"code": rule.code, "message": kind().message, "msg": kind().message, "request_id": ID}


async def test_the_response_is_whole() -> None:
    answer = await answer_to(NotFound())
    assert [message["type"] for message in answer.messages] == ["http.response.start", "http.response.body"]
    assert not answer.messages[-1].get("more_body")


async def test_only_an_error_before_the_function_ran_is_marked_as_a_relay_error() -> None:
    assert (await answer_to(NotFound(), not_run=True)).all("x-relay-error") == ["true"]
    assert (await answer_to(WorkerError(), not_run=False)).all("x-relay-error") == []


@pytest.mark.parametrize("kind", host_errors(), ids=lambda kind: kind.__name__)
async def test_only_passing_trouble_says_when_to_try_again(kind: type[HostError]) -> None:
    retry = (await answer_to(kind())).all("retry-after")
    assert retry == (["1"] if kind in (Overloaded, ShuttingDown) else [])


async def test_headers_of_the_caller_are_added() -> None:
    assert (await answer_to(NotFound(), headers=[(b"connection", b"close")]))["connection"] == "close"


@pytest.mark.parametrize(
    "error",
    [
        ChannelError("connect to /tmp/secret.sock failed"),
        FunctionsError("/tmp/secret"),
        ConfigError("/tmp/secret"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_the_inside_does_not_tell_what_it_says(error: FunctionsError) -> None:
    told = json.loads(body(error, ID))
    assert told["code"] == "INTERNAL_ERROR"
    assert "secret" not in told["message"] + told["msg"]


def test_an_error_on_the_wire_is_a_whole_http_response() -> None:
    content = wire(HeadersTooLarge("too large"), ID, [(b"date", b"today")])
    head, _, told = content.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ") for line in lines)
    assert status == "HTTP/1.1 431 Request Header Fields Too Large"
    assert headers["connection"] == "close"
    assert headers["content-length"] == str(len(told))
    assert headers["sb-error-code"] == "HEADERS_TOO_LARGE"
    assert headers["x-relay-error"] == "true"
    assert headers["date"] == "today"
    assert json.loads(told) == {
        "code": "HEADERS_TOO_LARGE",
        "message": "too large",
        "msg": "too large",
        "request_id": ID,
    }


async def refused_socket(scope: Scope) -> list[Message]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await refuse_socket(scope, send, NotFound(), ID, not_run=True)
    return sent


async def test_a_websocket_is_refused_with_an_http_response_where_the_server_can() -> None:
    sent = await refused_socket({**websocket(), "extensions": {"websocket.http.response": {}}})
    answer = Answer(sent)
    assert [message["type"] for message in sent] == [
        "websocket.http.response.start",
        "websocket.http.response.body",
    ]
    assert answer.status == 404
    assert json.loads(answer.body)["code"] == "NOT_FOUND"


async def test_a_websocket_is_closed_where_the_server_can_do_no_more() -> None:
    (message,) = await refused_socket(websocket())
    assert message == {"type": "websocket.close", "code": 1008, "reason": "NOT_FOUND"}
