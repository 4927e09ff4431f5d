"""The server's own pages: health, readiness, numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from runtime.errors import NotFound, Unauthorized
from runtime.gateway.auth import Authenticator
from runtime.gateway.deployment import Deployment
from runtime.gateway.exchange import Exchange
from runtime.gateway.exposition import content_type
from runtime.gateway.metrics import Series
from runtime.gateway.registry import Registry
from runtime.gateway.scrape import View, page, view

_NOT_KEPT = [(b"cache-control", b"no-store")]


class Counts(Protocol):
    """What the application counts."""

    received: int
    handled: int
    unrouted: Series


class Internal:
    """Answers `/_internal/…`.

    `health` says that the gateway runs; `ready` says that every function has booted or
    failed and the models are warm (503 until then). `metric` (the peer's JSON) and `metrics`
    (for Prometheus) need the service role.

    Args:
        not_ready: names what is still awaited; empty: nothing.
        engine_up: whether the engine has its models loaded.
    """

    def __init__(
        self,
        registry: Registry,
        authenticator: Authenticator,
        not_ready: Callable[[], list[str]],
        engine_up: Callable[[], bool],
    ) -> None:
        self._engine_up = engine_up
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
                view = await self._view(counts)
                await self._send(exchange, 200, _metric(view, counts))
            case "/_internal/metrics":
                await self._need_service(exchange)
                form = content_type(_accept(exchange))
                content = await page(await self._view(counts), form)
                await self._send_bytes(exchange, 200, content, form)
            case _:
                raise NotFound("There is no such page")

    async def _need_service(self, exchange: Exchange) -> None:
        identity = await self._authenticator.identify(exchange.scope)
        if identity.claims.get("role") != "service_role":
            raise Unauthorized("This page needs the service role key")

    async def _send(self, exchange: Exchange, status: int, value: Any) -> None:
        await self._send_bytes(exchange, status, msgspec.json.encode(value), "application/json")

    async def _send_bytes(self, exchange: Exchange, status: int, content: bytes, form: str) -> None:
        length = str(len(content)).encode()
        headers = [(b"content-type", form.encode()), (b"content-length", length), *_NOT_KEPT]
        exchange.quiet = status == 200  # health checks and collectors ask every few seconds
        await exchange.start(status, headers)
        await exchange.body(content, False)

    async def _view(self, counts: Counts) -> View:
        return await view(self._registry.deployments, counts.unrouted, engine_up=self._engine_up())


def _accept(exchange: Exchange) -> str:
    return ",".join(value.decode("latin-1") for name, value in exchange.scope["headers"] if name == b"accept")


def _metric(view: View, counts: Counts) -> dict[str, Any]:
    """The peer's keys, and per function what it lacks."""
    functions = {deployment.name: _function(deployment, view) for deployment in view.deployments}
    return {
        "activeUserWorkersCount": sum(entry["workers"] for entry in functions.values()),
        "retiredUserWorkersCount": sum(entry["retired"] for entry in functions.values()),
        "receivedRequestsCount": counts.received,
        "handledRequestsCount": counts.handled,
        "functions": functions,
    }


def _function(deployment: Deployment, view: View) -> dict[str, Any]:
    series, pool, pools = deployment.series, deployment.pool, deployment.pools
    workers = [] if pool is None else pool.workers
    return {
        "state": deployment.state,
        "last_error": deployment.trouble,
        "generation": "" if pool is None else pool.generation.name,
        "workers": len(workers),
        "pids": [worker.pid for worker in workers],
        "boot_ms": [round(worker.boot_ms, 3) for worker in workers],
        "resident_bytes": [view.resident.get(worker.pid, 0) for worker in workers],
        "memory_bytes": [worker.memory for worker in workers],
        "leaving": len(deployment.workers) - len(workers),
        "in_flight": sum(pool.in_flight for pool in pools),
        "queued": sum(pool.queued for pool in pools),
        "websockets": sum(pool.websockets for pool in pools),
        "restarts": series.restarts,
        "retired": series.retired,
        "retries": series.retries,
        "blocked": series.blocked,
        "limits": series.limits,
        "stops": series.stops,
        "requests": series.requests,
    }
