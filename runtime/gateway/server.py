"""The HTTP server: uvicorn, in our process and on our socket."""

from __future__ import annotations

import contextlib
import logging
import math
import socket
from collections.abc import Generator

import uvicorn
from starlette.types import ASGIApp

from runtime.gateway.guard import GuardedHttpProtocol
from runtime.gateway.socketprotocol import SocketProtocol
from runtime.gateway.sockets import MAX_MESSAGE
from runtime.project.settings import Settings

_BACKLOG = 2048
_OWN = 128


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
        ws=SocketProtocol,
        ws_max_size=MAX_MESSAGE,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(proxies),
        forwarded_allow_ips=proxies or None,
        timeout_graceful_shutdown=math.ceil(settings.shutdown_s),
        timeout_keep_alive=65,
        backlog=_BACKLOG,
    )
    return Server(config)


def room_for_clients(descriptors: int) -> int:
    """How many connections of clients may be open when the process may have so many descriptors.

    Each may need a second one, to a worker; the rest is for files, workers and refusals.
    """
    return max((descriptors - _OWN) // 2, _OWN // 8)


def address(listener: socket.socket) -> tuple[str, int]:
    """Host and port of a listening socket."""
    name = listener.getsockname()
    return str(name[0]), int(name[1])
