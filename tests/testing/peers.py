"""The real server and `FunctionClient`, to be asked the same things."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx2
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from runtime.testing import FunctionClient
from tests.running import Server, eventually

Client = Any
"""A `FunctionClient`, or a `ServerClient`, which has the same methods as far as the suite uses them."""


class ServerClient(httpx2.Client):
    """A client of one function of a real server; paths begin at the function."""

    def __init__(self, server: Server, function: str) -> None:
        self._server = server
        self.function_url = f"{server.functions}/{function}"
        headers = {"authorization": f"Bearer {server.token()}"}
        super().__init__(headers=headers, timeout=30.0, trust_env=False)

    def build_request(self, method: str, url: httpx2.URL | str, **options: Any) -> httpx2.Request:
        return super().build_request(method, self._address(str(url)), **options)

    def _address(self, path: str) -> str:
        return path if path.startswith("http") else self.function_url + ("" if path == "/" else path)

    def websocket(  # type: ignore[override]
        self, path: str = "/", *, headers: Mapping[str, str] | None = None, subprotocols: tuple[str, ...] = ()
    ) -> ClientConnection:
        url = self._address(path).replace("http", "ws", 1)
        sent = {"authorization": self.headers["authorization"]} | dict(headers or {})
        protocols = [Subprotocol(name) for name in subprotocols] or None
        return connect(url, additional_headers=sent, subprotocols=protocols, compression=None)

    @property
    def log(self) -> str:
        return self._server.log


Open = Callable[[str], AbstractContextManager[Client]]


def opener(root: Path, server: Server | None) -> Open:
    """Opens a client of a function: of the server, or without any."""

    @contextmanager
    def of_server(function: str) -> Iterator[Client]:
        assert server is not None
        with ServerClient(server, function) as client:
            yield client

    @contextmanager
    def of_kit(function: str) -> Iterator[Client]:
        with FunctionClient(function, root=root) as client:
            yield client

    return of_kit if server is None else of_server


def logged(client: Client, text: str) -> None:
    """Wait until a client's log has this."""
    eventually(lambda: text in client.log, f"{text!r} in the log:\n{client.log}", 5.0)
