"""The HTTP server: uvicorn, in our process and on our socket."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Generator

import uvicorn
from starlette.types import ASGIApp

from runtime.gateway.guard import GuardedHttpProtocol
from runtime.gateway.sockets import MAX_MESSAGE
from runtime.project.settings import Settings

_BACKLOG = 2048


class Server(uvicorn.Server):
    """Uvicorn without its signal handlers: the supervisor says when to stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def make(app: ASGIApp, settings: Settings, protocol: type[GuardedHttpProtocol]) -> Server:
    """A server for `app`, not started yet."""
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    proxies = list(settings.trusted_proxies)
    config = uvicorn.Config(
        app,
        http=protocol,
        ws="websockets-sansio",
        ws_max_size=MAX_MESSAGE,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(proxies),
        forwarded_allow_ips=proxies or None,
        timeout_graceful_shutdown=int(settings.shutdown_s) or None,
        timeout_keep_alive=65,
        backlog=_BACKLOG,
    )
    return Server(config)


def address(listener: socket.socket) -> tuple[str, int]:
    """Host and port of a listening socket."""
    name = listener.getsockname()
    return str(name[0]), int(name[1])
