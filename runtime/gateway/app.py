"""The gateway's application: from the request line to a function or a refusal."""

from __future__ import annotations

import asyncio
import re
import traceback

from starlette.types import Receive, Scope, Send

from runtime import frames
from runtime.errors import FunctionsError, NotFound, ShuttingDown
from runtime.gateway import requestid, testlimits
from runtime.gateway.auth import Authenticator, Identity
from runtime.gateway.cors import PERMISSION, PREFLIGHT
from runtime.gateway.deployment import Deployment
from runtime.gateway.dispatch import Broken, dispatch
from runtime.gateway.exchange import CLIENT_CLOSED, Exchange
from runtime.gateway.feed import ClientGone
from runtime.gateway.hosts import HostCheck
from runtime.gateway.internal import Internal
from runtime.gateway.logbook import Logbook
from runtime.gateway.metrics import Series
from runtime.gateway.registry import Registry
from runtime.gateway.sockets import carry
from runtime.project.settings import Function, Settings

_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_INTERNAL = "/_internal/"
# A browser forgets what its page has not read yet when the connection breaks: the last events,
# which may say why. It gets this time to pass them on.
_LAST_EVENTS_S = 0.05


class Gateway:
    """Plain ASGI. CORS lies around it, the guard before it.

    Attributes:
        draining: no new request is begun.
        unrouted: the numbers of what reaches no function.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        authenticator: Authenticator,
        internal: Internal,
        logbook: Logbook,
    ) -> None:
        self.draining = False
        self.received = self.handled = 0
        self.unrouted = Series()
        self._registry, self._authenticator = registry, authenticator
        self._internal, self._logbook = internal, logbook
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Use other settings from now on."""
        self._settings = settings
        self._hosts = HostCheck(settings)
        self._prefix = settings.prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send, requestid.request_id(scope["headers"]), self.unrouted)
        self.received += 1
        try:
            await self._answer(exchange)
        except FunctionsError as error:
            await exchange.refuse(error)
        except ClientGone:
            exchange.code = "CLIENT_CLOSED"
        except asyncio.CancelledError:  # the server stops and its time for what is in flight is over
            if not self.draining:
                raise
            await exchange.refuse(ShuttingDown())
        except Broken as broken:
            exchange.code = exchange.code or "WORKER_ERROR"
            self._tell_broken(exchange, str(broken))
            if exchange.is_event_stream:
                await asyncio.sleep(_LAST_EVENTS_S)
            # Returning without the last piece makes the server close the connection.
        except Exception:
            self._logbook.tell(traceback.format_exc(), level="error", request_id=exchange.request_id)
            await exchange.refuse(FunctionsError())
        finally:
            self.handled += 1
            self._log(exchange, exchange.finish())

    async def _answer(self, exchange: Exchange) -> None:
        scope = exchange.scope
        self._hosts.check(scope["headers"])
        if PERMISSION in scope:
            await exchange.start(204, scope[PERMISSION])
            await exchange.body(b"", False)
            return
        inner = self._inner_path(scope)
        if inner is None:
            raise NotFound
        if inner.startswith(_INTERNAL) and not exchange.is_socket:
            await self._internal.answer(exchange, inner, self)
            return
        function, deployment, rest = self._find(inner)
        if self.draining:
            raise ShuttingDown
        exchange.function, exchange.series = function.name, deployment.series
        identity = await self._identify(function, scope)
        head = self._head(exchange, identity, function, rest)
        clocks = testlimits.take(head, function.limits) if self._settings.test_limits else None
        if exchange.is_socket:
            await carry(exchange, deployment, head, identity.subprotocol, clocks)
        else:
            await dispatch(exchange, function, deployment, head, clocks)

    def _inner_path(self, scope: Scope) -> str | None:
        """The raw path below the prefix, which functions and internal pages share; None: outside."""
        raw: bytes = scope.get("raw_path") or b""
        path = raw.decode("latin-1")
        if path.startswith(_INTERNAL) and not path.startswith(self._prefix + _INTERNAL):
            return path
        if self._prefix and not path.startswith(self._prefix + "/"):
            return None
        return path[len(self._prefix) :]

    def _find(self, inner: str) -> tuple[Function, Deployment, str]:
        """The function and the raw path behind its name. The name is compared undecoded."""
        name, slash, rest = inner[1:].partition("/")
        found = self._registry.get(name)
        if found is None:
            raise NotFound
        return (*found, slash + rest)

    async def _identify(self, function: Function, scope: Scope) -> Identity:
        if not self._settings.needs_key(function) or PREFLIGHT in scope:
            return Identity({}, scope)
        return await self._authenticator.identify(scope)

    def _head(self, exchange: Exchange, identity: Identity, function: Function, rest: str) -> frames.Head:
        scope = identity.scope
        return frames.Head(
            kind=scope["type"],
            request_id=exchange.request_id,
            method=scope.get("method", "GET"),
            path=scope["path"][len(self._prefix) :],
            raw_path=f"/{function.name}{rest}".encode("latin-1"),
            query=scope["query_string"],
            headers=scope["headers"],
            root_path=self._prefix,
            scheme=scope["scheme"],
            http_version=scope["http_version"],
            client=scope.get("client"),
            server=scope.get("server"),
            traceparent=_traceparent(scope),
            claims=identity.claims,
            subprotocols=scope.get("subprotocols", []),
        )

    def _tell_broken(self, exchange: Exchange, reason: str) -> None:
        if reason:
            name, request_id = exchange.function, exchange.request_id
            self._logbook.tell(reason, level="error", function=name, request_id=request_id)

    def _log(self, exchange: Exchange, seconds: float) -> None:
        scope = exchange.scope
        if exchange.quiet:
            return
        self._logbook.request(
            "WS" if exchange.is_socket else scope["method"],
            scope["path"],
            exchange.function,
            exchange.status or CLIENT_CLOSED,
            exchange.code,
            seconds * 1000,
            exchange.request_id,
            exchange.worker,
            exchange.limit,
        )

    def forwards_preflight(self, path: str) -> bool:
        """Whether the function behind a path answers CORS itself."""
        name = path.removeprefix(self._prefix)[1:].split("/", 1)[0]
        found = self._registry.get(name)
        return found is not None and found[0].cors == "function"


def _traceparent(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"traceparent":
            return value.decode() if _TRACEPARENT.fullmatch(value) else ""
    return ""
