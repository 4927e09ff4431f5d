"""The server's own pages: health, readiness, numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from runtime.errors import FunctionsError, MalformedToken, NotFound
from runtime.gateway.auth import Authenticator
from runtime.gateway.exchange import Exchange
from runtime.gateway.registry import Registry

_JSON = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]


class Counts(Protocol):
    """What the application counts."""

    received: int
    handled: int


class NeedsServiceKey(MalformedToken):
    """This page needs the service role's key."""


class Internal:
    """Answers `/_internal/…`.

    `health` says that the gateway runs; `ready` says that every function has booted or
    failed and the models are warm (503 until then). `metric` needs the service role.

    Args:
        not_ready: names what is still awaited; empty: nothing.
    """

    def __init__(
        self, registry: Registry, authenticator: Authenticator, not_ready: Callable[[], list[str]]
    ) -> None:
        self._registry, self._authenticator, self._not_ready = registry, authenticator, not_ready

    async def answer(self, exchange: Exchange, path: str, counts: Counts) -> None:
        """Send the page.

        Raises:
            NotFound: there is no such page.
            Unauthorized: the caller is not the service role.
        """
        match path:
            case "/_internal/health":
                await self._send(exchange, 200, {"message": "ok"})
            case "/_internal/ready":
                awaited = self._not_ready()
                message = f"waiting for {', '.join(awaited)}" if awaited else "ok"
                await self._send(exchange, 503 if awaited else 200, {"message": message})
            case "/_internal/metric":
                await self._need_service(exchange)
                await self._send(exchange, 200, self._metric(counts))
            case _:
                raise NotFound("There is no such page")

    async def _need_service(self, exchange: Exchange) -> None:
        identity = await self._authenticator.identify(exchange.scope)
        if identity.claims.get("role") != "service_role":
            error: FunctionsError = NeedsServiceKey()
            raise error

    async def _send(self, exchange: Exchange, status: int, value: Any) -> None:
        content = msgspec.json.encode(value)
        headers = [*_JSON, (b"content-length", str(len(content)).encode())]
        exchange.quiet = status == 200  # health checks and collectors ask every few seconds
        await exchange.start(status, headers)
        await exchange.body(content, False)

    def _metric(self, counts: Counts) -> dict[str, Any]:
        """The peer's keys, and per function what it lacks."""
        functions: dict[str, dict[str, Any]] = {}
        for deployment in self._registry.deployments:
            functions[deployment.name] = {"state": deployment.state, "last_error": deployment.failure}
            if (pool := deployment.pool) is None:
                continue
            functions[deployment.name] |= {
                "generation": pool.generation.name,
                "workers": len(pool.workers),
                "pids": [worker.pid for worker in pool.workers],
                "boot_ms": [round(worker.boot_ms, 3) for worker in pool.workers],
                "in_flight": pool.in_flight,
                "queued": pool.queued,
                "restarts": pool.restarts,
            }
        return {
            "activeUserWorkersCount": sum(entry.get("workers", 0) for entry in functions.values()),
            "retiredUserWorkersCount": 0,
            "receivedRequestsCount": counts.received,
            "handledRequestsCount": counts.handled,
            "functions": functions,
        }
