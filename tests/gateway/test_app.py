"""From the request line to a function or a refusal."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message

from runtime import frames
from runtime.gateway import app
from runtime.gateway.cors import PERMISSION, PREFLIGHT
from runtime.project.keys import sign_role_key
from runtime.project.settings import Project
from tests.gateway.asgi import Answer, ask, encode
from tests.gateway.house import House, Link, turns, until
from tests.gateway.projects import SECRET, Site, functions, project

pytestmark = pytest.mark.anyio

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CONFIG = """
[functions.open]
verify_jwt = false
timeout_s = 0
[functions.own]
cors = "function"
"""


@pytest.fixture
def three(tmp_path: Path) -> Project:
    return project(tmp_path, {**functions("hello", "open", "own"), "supabase/config.toml": CONFIG})


@pytest.fixture
async def site(house: House, three: Project) -> AsyncIterator[Site]:
    site = Site(house, three)
    await site.registry.apply(three)
    await site.registry.settled()
    yield site
    await site.registry.close(0, "test")


def bearer(role: str = "anon") -> tuple[str, str]:
    return "authorization", f"Bearer {sign_role_key(SECRET, role)}"


def request(
    path: str, headers: tuple[tuple[str, str], ...] = (), method: str = "GET", **more: Any
) -> dict[str, Any]:
    raw = more.pop("raw_path", path.encode())
    return {
        "type": "http",
        "method": method,
        "scheme": "http",
        "http_version": "1.1",
        "path": path,
        "raw_path": raw,
        "query_string": b"x=1",
        "headers": encode([("host", "localhost:54321"), *headers]),
        "client": ("127.0.0.1", 5),
        "server": ("127.0.0.1", 54321),
        **more,
    }


async def asked(site: Site, path: str, *headers: tuple[str, str], **more: Any) -> Answer:
    """A request of a client that waits for its answer."""
    sent: list[Message] = []
    first: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Message:
        if first:
            return first.pop()
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)

    async with asyncio.timeout(10):
        await site.app(request(path, headers, **more), receive, send)
    return Answer(sent)


def code(answer: Answer) -> str:
    return str(json.loads(answer.body)["code"])


def head_of(house: House, function: str) -> frames.Head:
    (head,) = [
        head for worker in house.workers for head in worker.heads if head.path.startswith(f"/{function}")
    ]
    return head


# --- to a function ------------------------------------------------------------------------


async def test_a_request_reaches_its_function(house: House, site: Site) -> None:
    answer = await asked(site, "/functions/v1/hello/a/b", bearer())
    assert (answer.status, answer.body) == (200, b"/hello/a/b")
    head = head_of(house, "hello")
    assert (head.path, head.raw_path, head.root_path, head.query) == (
        "/hello/a/b",
        b"/hello/a/b",
        "/functions/v1",
        b"x=1",
    )
    assert head.claims is not None
    assert head.claims["role"] == "anon"
    assert head.deadline > 0
    assert (head.method, head.scheme, head.kind) == ("GET", "http", "http")


async def test_a_path_is_passed_on_as_it_was_written(house: House, site: Site) -> None:
    await asked(site, "/functions/v1/hello/a b/ö", bearer(), raw_path=b"/functions/v1/hello/a%20b/%C3%B6")
    head = head_of(house, "hello")
    assert (head.path, head.raw_path) == ("/hello/a b/ö", b"/hello/a%20b/%C3%B6")


async def test_the_id_of_a_request_is_in_the_answer_the_head_and_the_log(house: House, site: Site) -> None:
    answer = await asked(site, "/functions/v1/hello", bearer(), ("sb-request-id", "my-request"))
    assert answer["sb-request-id"] == "my-request"
    assert head_of(house, "hello").request_id == "my-request"
    assert "REQUEST 200 GET /functions/v1/hello " in house.log
    assert "[my-request]" in house.log


@pytest.mark.parametrize(("sent", "kept"), [(TRACE, TRACE), ("nonsense", ""), (TRACE + "-extra", "")])
async def test_only_a_valid_trace_is_passed_on(house: House, site: Site, sent: str, kept: str) -> None:
    await asked(site, "/functions/v1/hello", bearer(), ("traceparent", sent))
    assert head_of(house, "hello").traceparent == kept


async def test_a_function_that_asks_for_no_check_gets_no_claims(house: House, site: Site) -> None:
    assert (await asked(site, "/functions/v1/open", bearer("service_role"))).status == 200
    head = head_of(house, "open")
    assert not head.claims
    assert head.deadline == 0


async def test_without_credentials_no_function_is_called(house: House, site: Site) -> None:
    answer = await asked(site, "/functions/v1/hello")
    assert (answer.status, code(answer)) == (401, "UNAUTHORIZED_NO_AUTH_HEADER")
    assert answer["x-relay-error"] == "true"
    assert all(not worker.heads for worker in house.workers)


async def test_a_preflight_is_answered_and_logged_without_waking_the_function(
    house: House, site: Site
) -> None:
    permission = encode([("access-control-allow-origin", "*")])
    answer = await asked(site, "/functions/v1/hello", method="OPTIONS", **{PERMISSION: permission})
    assert (answer.status, answer.body) == (204, b"")
    assert answer["access-control-allow-origin"] == "*"
    assert answer["sb-request-id"]
    assert "204 OPTIONS /functions/v1/hello" in house.log
    assert all(not worker.heads for worker in house.workers)


async def test_a_preflight_to_a_host_that_is_not_served_is_refused(site: Site) -> None:
    permission = encode([("access-control-allow-origin", "*")])
    scope = request("/functions/v1/hello", method="OPTIONS")
    scope |= {PERMISSION: permission, "headers": encode([("host", "evil.example")])}
    answer = await ask(site.app, scope)
    assert answer.status == 400
    assert answer.all("access-control-allow-origin") == []


async def test_a_preflight_that_is_passed_on_needs_no_credentials(house: House, site: Site) -> None:
    answer = await asked(site, "/functions/v1/own", method="OPTIONS", **{PREFLIGHT: True})
    assert answer.status == 200
    assert head_of(house, "own").method == "OPTIONS"


@pytest.mark.parametrize(
    ("path", "passes"),
    [
        ("/functions/v1/own", True),
        ("/functions/v1/own/deeper", True),
        ("/functions/v1/hello", False),
        ("/functions/v1/nothing", False),
        ("/functions/v1/", False),
    ],
)
async def test_it_is_known_which_functions_answer_preflights(site: Site, path: str, passes: bool) -> None:
    assert site.app.forwards_preflight(path) is passes


# --- to nobody ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/", "/hello", "/functions/v1", "/functions/v1/", "/functions/v1//hello", "/functions/v1/Hello",
        "/functions/v1/nothing", "/functions/v1/hel%6Co", "/functions/v1/hello%2F",
        "/functions/v1/../v1/hello",
        "/functions/v1/hello%00", "/functions/v10/hello", "/functions/v1/h\u00e9llo",
        "/functions/v1/" + "x" * 4096,
        "/_internal/nothing", "/functions/v1/_internal/nothing", "/_internal/",
    ],
)  # fmt: skip
async def test_anything_else_is_not_found(site: Site, path: str) -> None:
    answer = await asked(site, path, bearer("service_role"))
    assert (answer.status, code(answer)) == (404, "NOT_FOUND")


async def test_a_host_that_is_not_ours_is_refused_first(site: Site) -> None:
    foreign = request("/functions/v1/hello", (bearer(),))
    foreign["headers"] = encode([("host", "evil.example"), bearer()])
    answer = await ask(site.app, foreign)
    assert 400 <= answer.status < 500


async def test_while_it_shuts_down_nothing_new_is_begun(house: House, site: Site) -> None:
    site.app.draining = True
    answer = await asked(site, "/functions/v1/hello", bearer())
    assert (answer.status, code(answer), answer["retry-after"]) == (503, "SHUTTING_DOWN", "1")
    assert (await asked(site, "/_internal/health")).status == 200


async def test_a_bug_of_ours_is_answered_and_told(
    house: House, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(name: str) -> Any:
        raise ZeroDivisionError("a secret detail")

    monkeypatch.setattr(site.registry, "get", broken)
    answer = await asked(site, "/functions/v1/hello", bearer())
    assert (answer.status, code(answer)) == (500, "INTERNAL_ERROR")
    assert b"secret" not in answer.body
    assert "ZeroDivisionError: a secret detail" in house.log


async def test_what_was_asked_after_the_path_is_not_logged(house: House, site: Site) -> None:
    await asked(site, "/functions/v1/hello", bearer(), query_string=b"token=hunter2")
    assert "hunter2" not in house.log


async def test_a_client_that_leaves_is_told_of_in_the_log_alone(house: House, site: Site) -> None:
    async def silence(link: Link, head: frames.Head) -> None:
        link.accept()
        await asyncio.Event().wait()

    house.serve = silence
    sent: list[Message] = []
    events: asyncio.Queue[Message] = asyncio.Queue()

    async def send(message: Any) -> None:
        sent.append(message)

    running = asyncio.create_task(site.app(request("/functions/v1/hello", (bearer(),)), events.get, send))
    await until(lambda: any(worker.heads for worker in house.workers))
    events.put_nowait({"type": "http.disconnect"})
    await running
    assert sent == []
    assert "REQUEST 499" in house.log
    assert "CLIENT_CLOSED" in house.log


async def test_a_response_that_breaks_is_left_unfinished(house: House, site: Site) -> None:
    async def breaks(link: Link, head: frames.Head) -> None:
        link.accept()
        link.send(frames.Start(200, []), frames.Body(b"begun", True), frames.Failure("WORKER_ERROR", "x"))

    house.serve = breaks
    answer = await asked(site, "/functions/v1/hello", bearer())
    assert answer.status == 200
    assert answer.messages[-1]["more_body"]
    assert "WORKER_ERROR" in house.log


async def test_the_last_events_of_a_stream_that_breaks_get_a_moment_to_be_read(
    house: House, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def breaks(link: Link, head: frames.Head) -> None:
        link.accept()
        kind = [(b"Content-Type", head.query)]
        link.send(frames.Start(200, kind), frames.Body(b"begun", True), frames.Failure("WORKER_ERROR", "x"))

    monkeypatch.setattr(app, "_LAST_EVENTS_S", 3600)
    house.serve = breaks
    await asked(site, "/functions/v1/hello", bearer(), query_string=b"text/plain")
    kind = b"Text/Event-Stream; charset=utf-8"
    asking = asyncio.create_task(asked(site, "/functions/v1/hello", bearer(), query_string=kind))
    found = site.registry.get("hello")
    assert found is not None
    pool = found[1].pool
    assert pool is not None
    await until(lambda: sum(worker.served for worker in pool.workers) == 2)
    await turns()
    assert not asking.done()  # and nobody's slot is held meanwhile
    assert not pool.in_flight
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)


async def test_a_request_whose_time_is_over_at_the_end_hears_of_the_shutdown(
    house: House, site: Site
) -> None:
    async def silence(link: Link, head: frames.Head) -> None:
        link.accept()
        await asyncio.Event().wait()

    house.serve = silence
    running = asyncio.create_task(asked(site, "/functions/v1/hello", bearer()))
    await until(lambda: any(worker.heads for worker in house.workers))
    site.app.draining = True
    running.cancel()
    answer = await running
    assert code(answer) == "SHUTTING_DOWN"


# --- the server's own pages ---------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "/functions/v1"])
async def test_health_is_for_everybody(site: Site, prefix: str) -> None:
    answer = await asked(site, f"{prefix}/_internal/health")
    assert (answer.status, json.loads(answer.body)) == (200, {"message": "ok"})
    assert answer["cache-control"] == "no-store"


@pytest.mark.parametrize("page", ["health", "ready"])
async def test_health_checks_do_not_fill_the_log(house: House, site: Site, page: str) -> None:
    await asked(site, f"/_internal/{page}")
    await asked(site, "/_internal/nothing")
    assert next(line for line in house.log.splitlines() if "_internal" in line).split()[2] == "404"
    assert f"_internal/{page}" not in house.log


async def test_readiness_names_what_is_awaited(site: Site) -> None:
    assert (await asked(site, "/_internal/ready")).status == 200
    site.awaited += ["hello", "the models"]
    answer = await asked(site, "/_internal/ready")
    assert (answer.status, json.loads(answer.body)) == (503, {"message": "waiting for hello, the models"})


@pytest.mark.parametrize(
    ("headers", "message"),
    [((), "Missing authorization header"), ((bearer("anon"),), "This page needs the service role key")],
    ids=["nobody", "anon"],
)
async def test_numbers_are_for_the_service_role_alone(
    site: Site, headers: tuple[tuple[str, str], ...], message: str
) -> None:
    answer = await asked(site, "/_internal/metric", *headers)
    assert (answer.status, json.loads(answer.body)["message"]) == (401, message)


async def test_numbers_tell_what_runs(house: House, site: Site) -> None:
    for _ in range(3):
        await asked(site, "/functions/v1/hello", bearer())
    metric = json.loads((await asked(site, "/_internal/metric", bearer("service_role"))).body)
    assert metric["activeUserWorkersCount"] == 3
    assert (metric["receivedRequestsCount"], metric["handledRequestsCount"]) == (4, 3)
    hello = metric["functions"]["hello"]
    assert (hello["state"], hello["workers"], hello["in_flight"], hello["queued"]) == ("ready", 1, 0, 0)
    assert hello["pids"] == [worker.pid for worker in house.workers if worker.heads]
    assert (hello["restarts"], hello["last_error"]) == (0, "")


async def test_numbers_can_be_asked_for_before_anything_runs(house: House, three: Project) -> None:
    site = Site(house, three)
    site.registry.expect(three)
    metric = json.loads((await asked(site, "/_internal/metric", bearer("service_role"))).body)
    hello = metric["functions"]["hello"]
    assert (hello["state"], hello["last_error"], hello["workers"]) == ("booting", "", 0)
    assert metric["activeUserWorkersCount"] == 0
    await site.registry.close(0, "test")
