"""What a page in a browser may send and read, over a socket."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.conformance.wire import Answer, Wire, is_whole
from tests.running import Server, eventually, project, serving

GREETER = """
async def handler(request):
    print("called with", request.method, len(await request.body()), request.url.path)
    return {"auth": request.auth}
"""
OWN = """
from runtime import Response

async def handler(request):
    print("called with", request.method, len(await request.body()), request.auth)
    headers = {"access-control-allow-origin": "https://mine.example", "x-answered-by": "the function"}
    headers["access-control-expose-headers"] = "x-answered-by"
    return Response("own", headers=headers if "silent" not in request.url.path else {})
"""
FUNCTIONS = {
    "ok": GREETER,
    "quiet": GREETER,
    "own": OWN,
    "raises": "async def handler(request): raise RuntimeError('boom')",
    "odd": "async def handler(request): return object()",
    "broken": "this is no Python",
    "slow": "import asyncio\nasync def handler(request): await asyncio.sleep(3600)",
    "busy": "import asyncio\nasync def handler(request): await asyncio.sleep(3600)",
}
CONFIG = """
[ai]
preload = []
[functions.own]
cors = "function"
[functions.ok]
max_body_mb = 0.001
[functions.slow]
idle_s = 0.2
[functions.busy]
concurrency = 1
queue = 1
max_workers = 1
"""
ORIGIN = "Origin: https://page.example"
PREFLIGHT = (ORIGIN, "Access-Control-Request-Method: POST")
NEEDED_BY_SUPABASE_JS = {
    *("authorization", "x-client-info", "apikey", "content-type", "x-retry-count", "x-region"),
    *("traceparent", "tracestate", "baggage"),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(project(tmp_path_factory.mktemp("cors"), FUNCTIONS, CONFIG)) as server:
        yield server


Ask = Callable[..., Answer]


@pytest.fixture
def ask(dial: Callable[[], Wire]) -> Ask:
    def ask(method: str, name: str, *headers: str, **options: Any) -> Answer:
        wire = dial()
        wire.ask(method, f"/functions/v1/{name}", *headers, **options)
        return wire.answer()

    return ask


def listed(value: str) -> set[str]:
    return {name.strip().lower() for name in value.split(",")}


def readable(answer: Answer) -> None:
    """A page may read this answer, and what it tells in headers."""
    assert answer.headers["access-control-allow-origin"] in ("*", "https://page.example")
    assert {"sb-error-code", "sb-request-id", "x-relay-error"} <= listed(
        answer.headers["access-control-expose-headers"]
    )


# --- preflights ----------------------------------------------------------------------------


def test_a_preflight_is_answered_without_a_key_and_without_waking_the_function(
    ask: Ask, server: Server
) -> None:
    answer = ask("OPTIONS", "quiet", *PREFLIGHT, "Access-Control-Request-Headers: apikey", key=False)
    assert answer.status == 204
    assert answer.headers["access-control-allow-origin"] == "*"
    assert listed(answer.headers["access-control-allow-headers"]) >= NEEDED_BY_SUPABASE_JS
    assert listed(answer.headers["access-control-allow-methods"]) >= {"get", "post", "put", "patch", "delete"}
    assert int(answer.headers["access-control-max-age"]) > 0
    assert answer.headers["sb-request-id"]
    assert ask("GET", "quiet").status == 200
    server.wait_for_log("called with GET 0 /quiet")
    assert "called with OPTIONS 0 /quiet" not in server.log  # the log keeps a worker's lines in order


def test_a_preflight_is_answered_even_for_what_is_not_there(ask: Ask) -> None:
    assert ask("OPTIONS", "nope", *PREFLIGHT, key=False).status == 204


def test_a_preflight_is_in_the_access_log(ask: Ask, server: Server) -> None:
    answer = ask("OPTIONS", "quiet/logged", *PREFLIGHT, key=False)
    server.wait_for_log(answer.headers["sb-request-id"])
    assert "204 OPTIONS /functions/v1/quiet/logged" in server.log


@pytest.mark.parametrize("headers", [(), (ORIGIN,), PREFLIGHT[1:]])
def test_any_other_options_request_is_authenticated_and_reaches_the_function(
    ask: Ask, headers: tuple[str, ...]
) -> None:
    refused = ask("OPTIONS", "ok", *headers, key=False)
    is_whole(refused.json(), refused.status, "UNAUTHORIZED_NO_AUTH_HEADER", refused.headers)
    accepted = ask("OPTIONS", "ok", *headers)
    assert (accepted.status, accepted.json()["auth"]["role"]) == (200, "anon")


def test_a_function_may_answer_preflights_itself_unauthenticated_and_without_a_body(
    ask: Ask, server: Server
) -> None:
    answer = ask("OPTIONS", "own", *PREFLIGHT, key=False, body=b"smuggled")
    assert (answer.status, answer.headers["x-answered-by"]) == (200, "the function")
    assert answer.headers["access-control-allow-origin"] == "https://mine.example"
    server.wait_for_log("called with OPTIONS 0 {}")


def test_a_preflight_for_a_function_brings_it_no_claims_even_with_a_good_key(
    ask: Ask, server: Server
) -> None:
    before = server.log.count("called with OPTIONS 0 {}")
    assert ask("OPTIONS", "own", *PREFLIGHT).status == 200
    server.wait_for_log("called with OPTIONS 0 {}", before + 1)


def test_a_function_that_answers_preflights_is_still_guarded_otherwise(ask: Ask) -> None:
    for method, headers in (("GET", (ORIGIN,)), ("OPTIONS", (ORIGIN,)), ("POST", PREFLIGHT)):
        answer = ask(method, "own", *headers, key=False)
        is_whole(answer.json(), answer.status, "UNAUTHORIZED_NO_AUTH_HEADER", answer.headers)
        readable(answer)


def test_what_preflights_are_answered_is_configurable(tmp_path: Path) -> None:
    config = """
[ai]
preload = []
[edge_runtime.cors]
allow_origins = ["https://page.example", "https://other.example"]
allow_headers = ["x-own"]
allow_methods = ["GET"]
max_age_s = 7
"""
    with serving(project(tmp_path, {"ok": GREETER}, config)) as server, server.client() as client:

        def preflight(origin: str) -> httpx2.Response:
            headers = {"origin": origin, "access-control-request-method": "GET"}
            return client.options("/ok", headers=headers)

        allowed = preflight("https://page.example")
        assert allowed.headers["access-control-allow-origin"] == "https://page.example"
        assert allowed.headers["access-control-allow-headers"] == "x-own"
        assert allowed.headers["access-control-allow-methods"] == "GET"
        assert allowed.headers["access-control-max-age"] == "7"
        assert "access-control-allow-origin" not in preflight("https://evil.example").headers
        for name, status in (("ok", 200), ("nope", 404)):
            read = client.get(f"/{name}", headers={"origin": "https://other.example"})
            assert read.status_code == status
            assert read.headers["access-control-allow-origin"] == "https://other.example"
            assert "origin" in listed(read.headers["vary"])
            unread = client.get(f"/{name}", headers={"origin": "https://evil.example"})
            assert "access-control-allow-origin" not in unread.headers
            assert "origin" in listed(unread.headers["vary"])


# --- answers -------------------------------------------------------------------------------


def test_a_page_may_read_what_a_function_answers(ask: Ask) -> None:
    answer = ask("GET", "ok", ORIGIN)
    assert answer.status == 200
    readable(answer)


def test_headers_that_the_function_sets_itself_win(ask: Ask) -> None:
    answer = ask("GET", "own", ORIGIN)
    assert answer.headers["access-control-allow-origin"] == "https://mine.example"
    lines = ask("GET", "own/silent", ORIGIN).headers
    assert "access-control-allow-origin" not in lines  # its silence is a refusal


def test_what_the_function_exposes_stays_exposed(server: Server) -> None:
    with server.client() as client:
        response = client.get("/own", headers={"origin": "https://page.example"})
    exposed = listed(", ".join(response.headers.get_list("access-control-expose-headers")))
    assert exposed >= {"x-answered-by", "sb-error-code", "sb-request-id"}


ERRORS: dict[str, tuple[str, dict[str, Any], str]] = {
    "404": ("nope", {}, "NOT_FOUND"),
    "401": ("ok", {"key": False}, "UNAUTHORIZED_NO_AUTH_HEADER"),
    "413": ("ok", {"body": b"x" * 2000}, "PAYLOAD_TOO_LARGE"),
    "500": ("raises", {}, "WORKER_ERROR"),
    "502": ("odd", {}, "INVALID_RESPONSE"),
    "503": ("broken", {}, "BOOT_ERROR"),
    "504": ("slow", {}, "IDLE_TIMEOUT"),
}


@pytest.mark.parametrize("status", ERRORS)
def test_a_page_may_read_every_error_that_the_host_makes(ask: Ask, status: str) -> None:
    name, options, code = ERRORS[status]
    answer = ask("POST", name, ORIGIN, **options)
    is_whole(answer.json(), answer.status, code, answer.headers)
    readable(answer)


def test_a_page_may_read_that_the_server_is_overloaded(
    ask: Ask, dial: Callable[[], Wire], server: Server
) -> None:
    waiting = [dial(), dial()]
    for wire, key in zip(waiting, ("in_flight", "queued"), strict=True):
        wire.ask("POST", "/functions/v1/busy")
        eventually(lambda key=key: server.metric()["functions"]["busy"][key] == 1, key)  # type: ignore[misc]
    answer = ask("POST", "busy", ORIGIN)
    is_whole(answer.json(), answer.status, "OVERLOADED", answer.headers)
    readable(answer)
    assert answer.headers["retry-after"]


def test_a_page_may_read_what_the_guard_refuses(dial: Callable[[], Wire]) -> None:
    for head, code in (
        (
            b"GET /functions/v1/ok HTTP/1.1\r\nHost: localhost\r\n%s\r\nX: " + b"x" * 70_000,
            "HEADERS_TOO_LARGE",
        ),
        (b"GET /functions/v1/ok HTTP/1.1\r\nHost: localhost\r\n%s\r\nbroken\r\n\r\n", "BAD_REQUEST"),
    ):
        wire = dial()
        wire.send(head.replace(b"%s", ORIGIN.encode()))
        answer = wire.answer()
        is_whole(answer.json(), answer.status, code, answer.headers)
        readable(answer)
