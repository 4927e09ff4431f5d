"""Startup before ready, shutdown after drain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

from runtime.worker.lifespan import Lifespan

pytestmark = pytest.mark.anyio


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


async def test_a_shutdown_that_fails_ends_all_the_same() -> None:
    told: list[str] = []
    lifespan = Lifespan(application(told, fails="shutdown"))
    await lifespan.startup()
    async with asyncio.timeout(5):
        await lifespan.shutdown()
    assert told == ["startup", "shutdown"]


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
