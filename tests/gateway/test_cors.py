"""CORS is outermost: preflights do not reach the functions, and every response can be read."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from runtime.errors import BootError, NotFound
from runtime.gateway.cors import PERMISSION, PREFLIGHT, CorsMiddleware
from runtime.gateway.refusal import refuse
from runtime.project.settings import Cors
from tests.gateway.asgi import Answer, ask, encode, http, websocket

pytestmark = pytest.mark.anyio

PAGE = "https://page.example"
ORIGIN = ("origin", PAGE)
PREFLIGHT_HEADERS = [ORIGIN, ("access-control-request-method", "POST")]
OWN = Cors(allow_origins=(PAGE, "https://other.example"))


class Inner:
    """The application behind CORS: answers with these headers, and notes what it was asked."""

    def __init__(self, *headers: tuple[str, str], error: Any = None) -> None:
        self.headers, self.error = encode(headers), error
        self.scopes: list[Scope] = []
        self.received: list[Message] = []
        self.sends: list[Send] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if PERMISSION in scope:
            await send({"type": "http.response.start", "status": 204, "headers": scope[PERMISSION]})
            await send({"type": "http.response.body", "body": b""})
            return
        self.scopes.append(scope)
        self.sends.append(send)
        if scope["type"] != "http":
            return
        while (message := await receive())["type"] != "http.disconnect":
            self.received.append(message)
        if self.error is not None:
            await refuse(send, self.error, "id", not_run=True)
            return
        await send({"type": "http.response.start", "status": 200, "headers": self.headers})
        await send({"type": "http.response.body", "body": b"hello"})


async def through(
    inner: Inner, scope: Scope, *, settings: Cors | None = None, forwards: bool = False, body: bytes = b""
) -> Answer:
    app = CorsMiddleware(inner, settings or Cors(), lambda path: forwards and path.startswith("/functions"))
    return await ask(app, scope, [{"type": "http.request", "body": body, "more_body": False}])


async def test_a_preflight_is_answered_without_waking_the_function() -> None:
    inner = Inner()
    answer = await through(inner, http(PREFLIGHT_HEADERS, "OPTIONS"))
    assert inner.scopes == []
    assert answer.status == 204
    assert answer.body == b""
    assert answer["access-control-allow-origin"] == "*"
    assert answer["access-control-max-age"] == "86400"
    assert answer.tokens("access-control-allow-methods") >= {"get", "post", "put", "patch", "delete"}
    assert answer.tokens("access-control-allow-headers") == {
        "authorization",
        "x-client-info",
        "apikey",
        "content-type",
        "x-retry-count",
        "x-region",
        "traceparent",
        "tracestate",
        "baggage",
    }


async def test_what_preflights_are_answered_is_configurable() -> None:
    settings = Cors(
        allow_origins=(PAGE,), allow_headers=("x-own",), allow_methods=("GET", "QUERY"), max_age_s=5
    )
    answer = await through(Inner(), http(PREFLIGHT_HEADERS, "OPTIONS"), settings=settings)
    assert answer["access-control-allow-origin"] == PAGE
    assert answer["access-control-allow-headers"] == "x-own"
    assert answer["access-control-allow-methods"] == "GET, QUERY"
    assert answer["access-control-max-age"] == "5"
    assert answer["vary"] == "Origin"


async def test_a_preflight_of_a_page_that_is_not_allowed_gets_no_permission() -> None:
    scope = http([("origin", "https://evil.example"), PREFLIGHT_HEADERS[1]], "OPTIONS")
    answer = await through(Inner(), scope, settings=OWN)
    assert answer.all("access-control-allow-origin") == []
    assert answer["vary"] == "Origin"


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("OPTIONS", []),
        ("OPTIONS", [ORIGIN]),
        ("OPTIONS", [PREFLIGHT_HEADERS[1]]),
        ("POST", PREFLIGHT_HEADERS),
    ],
    ids=["bare OPTIONS", "without method", "without origin", "not OPTIONS"],
)
async def test_what_is_no_preflight_passes_unmarked_like_every_method(
    method: str, headers: list[tuple[str, str]]
) -> None:
    inner = Inner()
    answer = await through(inner, http(headers, method), forwards=True)
    assert answer.body == b"hello"
    assert PREFLIGHT not in inner.scopes[0]


async def test_a_preflight_is_forwarded_to_a_function_that_wants_it_with_an_empty_body() -> None:
    inner = Inner(("access-control-allow-origin", PAGE))
    headers = [*PREFLIGHT_HEADERS, ("content-length", "6"), ("content-type", "text/plain"), ("x-keep", "1")]
    answer = await through(inner, http(headers, "OPTIONS"), forwards=True, body=b"secret")
    (scope,) = inner.scopes
    assert scope[PREFLIGHT] is True
    assert inner.received == [{"type": "http.request", "body": b"", "more_body": False}]
    assert scope["headers"] == encode([*PREFLIGHT_HEADERS, ("x-keep", "1")])
    assert answer.body == b"hello"
    assert answer.all("access-control-allow-origin") == [PAGE]


async def test_a_client_cannot_mark_its_own_request_as_a_preflight() -> None:
    inner = Inner()
    await through(inner, http([ORIGIN, (PREFLIGHT, "true")]))
    assert PREFLIGHT not in inner.scopes[0]


async def test_a_response_to_a_page_may_be_read_by_it() -> None:
    answer = await through(Inner(), http([ORIGIN]))
    assert answer["access-control-allow-origin"] == "*"
    assert answer.tokens("access-control-expose-headers") == {
        "sb-request-id",
        "sb-error-code",
        "x-relay-error",
    }
    assert answer.all("vary") == []


async def test_a_host_made_error_carries_the_headers_too() -> None:
    answer = await through(Inner(error=NotFound()), http([ORIGIN]))
    assert answer.status == 404
    assert answer["access-control-allow-origin"] == "*"
    assert answer["access-control-expose-headers"] == "sb-error-code, sb-request-id, x-relay-error"


async def test_with_a_list_of_origins_the_page_is_named_and_the_response_varies() -> None:
    answer = await through(Inner(("vary", "Accept")), http([ORIGIN]), settings=OWN)
    assert answer["access-control-allow-origin"] == PAGE
    assert answer.tokens("vary") == {"accept", "origin"}


@pytest.mark.parametrize("origin", ["https://evil.example", "null", PAGE + ".evil.example", PAGE.upper()])
async def test_a_page_that_is_not_on_the_list_may_not_read(origin: str) -> None:
    answer = await through(Inner(), http([("origin", origin)]), settings=OWN)
    assert answer.all("access-control-allow-origin") == []
    assert answer["vary"] == "Origin"


async def test_a_cache_learns_that_responses_vary_even_from_a_request_without_origin() -> None:
    answer = await through(Inner(), http(), settings=OWN)
    assert answer["vary"] == "Origin"
    assert answer.all("access-control-allow-origin") == []


@pytest.mark.parametrize("settings", [Cors(), OWN], ids=["any", "list"])
async def test_headers_that_the_function_sets_itself_win(settings: Cors) -> None:
    own = [
        ("access-control-allow-origin", "https://mine.example"),
        ("access-control-allow-credentials", "true"),
        ("access-control-expose-headers", "x-mine, SB-Request-Id"),
    ]
    answer = await through(Inner(*own), http([ORIGIN]), settings=settings)
    assert answer["access-control-allow-origin"] == "https://mine.example"
    assert answer["access-control-allow-credentials"] == "true"
    assert answer.tokens("access-control-expose-headers") == {
        "x-mine",
        "sb-request-id",
        "sb-error-code",
        "x-relay-error",
    }
    assert answer.all("vary") == []


async def test_a_function_that_answers_cors_itself_may_refuse_a_page_by_silence() -> None:
    answer = await through(Inner(), http([ORIGIN]), forwards=True)
    assert answer.all("access-control-allow-origin") == []


async def test_an_error_of_the_host_can_be_read_even_where_the_function_answers_cors() -> None:
    answer = await through(Inner(error=BootError()), http([ORIGIN]), forwards=True)
    assert answer["access-control-allow-origin"] == "*"


async def test_a_request_without_origin_passes_untouched() -> None:
    inner = Inner(("x-own", "1"))
    scope = http()
    answer = await through(inner, scope)
    assert inner.scopes[0] is scope
    assert answer.headers == encode([("x-own", "1")])


async def test_a_websocket_passes_untouched() -> None:
    inner = Inner()
    scope = websocket([ORIGIN])

    async def receive() -> Message:
        raise AssertionError("nobody reads here")

    async def send(message: Message) -> None:
        raise AssertionError("nobody writes here")

    await CorsMiddleware(inner, OWN, lambda _: True)(scope, receive, send)
    assert inner.scopes[0] is scope
    assert inner.sends == [send]
