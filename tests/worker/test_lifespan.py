"""Startup before ready, shutdown after drain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

from runtime.worker import logs
from runtime.worker.lifespan import Lifespan

pytestmark = pytest.mark.anyio


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was logged."""
    texts: list[str] = []
    monkeypatch.setattr(logs, "emit", lambda level, text, request_id="": texts.append(text))
    return texts


def application(told: list[str], fails: str = "") -> Starlette:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, str]]:
        told.append("startup")
        if fails == "startup":
            raise RuntimeError("no database")
        yield {"database": "open"}
        told.append("shutdown")
        if fails == "shutdown":
            raise RuntimeError("stuck")

    return Starlette(lifespan=lifespan)


async def test_an_app_starts_and_stops_once() -> None:
    told: list[str] = []
    lifespan = Lifespan(application(told))
    await lifespan.startup()
    assert told == ["startup"]
    await lifespan.shutdown()
    assert told == ["startup", "shutdown"]
    await lifespan.shutdown()
    assert told == ["startup", "shutdown"]


async def test_what_the_startup_made_is_kept_for_requests() -> None:
    lifespan = Lifespan(application([]))
    await lifespan.startup()
    assert lifespan.state == {"database": "open"}
    await lifespan.shutdown()


async def test_a_startup_that_fails_says_why() -> None:
    lifespan = Lifespan(application([], fails="startup"))
    with pytest.raises(RuntimeError, match=r"startup failed: RuntimeError: no database\n") as failure:
        await lifespan.startup()
    assert "\n" not in str(failure.value)
    (note,) = failure.value.__notes__
    assert 'raise RuntimeError("no database")' in note
    await lifespan.shutdown()


async def test_a_startup_that_fails_without_a_reason_says_so() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed"})

    with pytest.raises(RuntimeError, match="no reason given"):
        await Lifespan(app).startup()


async def test_a_shutdown_that_fails_ends_all_the_same_and_is_logged(told: list[str]) -> None:
    done: list[str] = []
    lifespan = Lifespan(application(done, fails="shutdown"))
    await lifespan.startup()
    async with asyncio.timeout(5):
        await lifespan.shutdown()
    assert done == ["startup", "shutdown"]
    assert 'raise RuntimeError("stuck")' in told[0]


async def test_an_app_that_knows_no_lifespan_is_run_without() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"

    lifespan = Lifespan(app)
    async with asyncio.timeout(5):
        await lifespan.startup()
        await lifespan.shutdown()


async def test_an_app_that_returns_at_once_is_run_without() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        return

    lifespan = Lifespan(app)
    async with asyncio.timeout(5):
        await lifespan.startup()
        await lifespan.shutdown()


async def test_an_app_that_ends_during_its_life_is_not_waited_for() -> None:
    dies = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await dies.wait()

    lifespan = Lifespan(app)
    async with asyncio.timeout(5):
        await lifespan.startup()
        dies.set()
        await lifespan.shutdown()


@pytest.mark.parametrize(
    ("message", "said"),
    [({"message": "stuck"}, "the application's shutdown failed\nstuck"), ({}, "no reason given")],
)
async def test_a_shutdown_that_says_it_failed_is_logged_once(
    told: list[str], message: dict[str, str], said: str
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.failed", **message})
        raise RuntimeError("as frameworks do")

    lifespan = Lifespan(app)
    await lifespan.startup()
    await lifespan.shutdown()
    (text,) = told
    assert text.endswith(said)


async def test_what_becomes_of_a_shutdown_that_nobody_waits_for_any_more_is_not_logged(
    told: list[str],
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        try:
            await asyncio.Event().wait()
        finally:
            await send({"type": "lifespan.shutdown.failed", "message": "cancelled"})

    lifespan = Lifespan(app)
    await lifespan.startup()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(lifespan.shutdown(), 0.01)
    assert lifespan._task is not None
    lifespan._task.cancel()
    await asyncio.wait([lifespan._task])
    assert told == []


@pytest.mark.parametrize("kind", [ValueError, SystemExit])
async def test_a_lifespan_that_fails_while_the_application_serves_is_logged(
    told: list[str], kind: type[BaseException]
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        raise kind("lost the database")

    lifespan = Lifespan(app)
    await lifespan.startup()
    await lifespan.shutdown()
    (text,) = told
    assert text.startswith("the application's lifespan failed while it served\nTraceback")
    assert text.endswith(f"{kind.__name__}: lost the database")


async def test_a_life_that_was_never_begun_needs_no_end() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("nobody started it")

    await Lifespan(app).shutdown()


async def test_the_scope_is_that_of_the_specification() -> None:
    seen: dict[str, Any] = {}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.update(scope)
        await receive()
        await send({"type": "lifespan.startup.complete"})

    lifespan = Lifespan(app)
    await lifespan.startup()
    assert seen["type"] == "lifespan"
    assert seen["asgi"]["version"] == "3.0"
    assert seen["state"] is lifespan.state


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
async def test_an_app_that_exits_in_its_startup_does_not_start(kind: type[BaseException]) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise kind("enough")

    with pytest.raises(RuntimeError, match=f"startup failed: {kind.__name__}: enough"):
        await Lifespan(app).startup()
