"""Scopes and a recorder: talking to an ASGI application without a server."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from starlette.types import ASGIApp, Message, Scope

Headers = list[tuple[bytes, bytes]]


def http(
    headers: Iterable[tuple[str, str]] = (),
    method: str = "GET",
    path: str = "/functions/v1/hello",
    query: str = "",
) -> Scope:
    return {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": encode(headers),
    }


def websocket(
    headers: Iterable[tuple[str, str]] = (), query: str = "", subprotocols: Iterable[str] = ()
) -> Scope:
    """A WebSocket's scope, its subprotocols in the header too, as a server makes it."""
    offered = list(subprotocols)
    named = [("sec-websocket-protocol", ", ".join(offered))] if offered else []
    return {
        "type": "websocket",
        "path": "/functions/v1/chat",
        "query_string": query.encode(),
        "headers": encode([*headers, *named]),
        "subprotocols": offered,
    }


def encode(headers: Iterable[tuple[str, str]]) -> Headers:
    return [(name.encode(), value.encode("latin-1")) for name, value in headers]


class Answer:
    """What an application sent."""

    def __init__(self, messages: list[Message]) -> None:
        self.messages = messages
        self.status: int = messages[0]["status"]
        self.headers: Headers = list(messages[0]["headers"])
        self.body = b"".join(message.get("body", b"") for message in messages[1:])

    def all(self, name: str) -> list[str]:
        return [value.decode() for key, value in self.headers if key == name.encode()]

    def __getitem__(self, name: str) -> str:
        (value,) = self.all(name)
        return value

    def tokens(self, name: str) -> set[str]:
        """The elements of a list header over all its lines."""
        return {token.strip().lower() for line in self.all(name) for token in line.split(",")}


async def ask(app: ASGIApp, scope: Scope, events: Iterable[Message] = ()) -> Answer:
    """Send one request, whose events are these, then the client's leaving."""
    pending = list(events)
    sent: list[Message] = []

    async def receive() -> Message:
        return pending.pop(0) if pending else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return Answer(sent)
