"""Talking to a worker's application without a connection."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from starlette.types import ASGIApp, Message, Scope


def scope(path: str = "/tasks", **changes: Any) -> Scope:
    """The scope of a request as a worker makes it."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "/functions/v1",
        "headers": [],
        "client": ("127.0.0.1", 5),
        "server": ("127.0.0.1", 54321),
        "auth": {},
        "state": {},
        **changes,
    }


class Answer:
    """What an application sent."""

    def __init__(self, messages: list[Message]) -> None:
        self.messages = messages
        self.status: int = messages[0]["status"]
        self.headers = {name.decode(): value.decode() for name, value in messages[0]["headers"]}
        self.pieces = [message["body"] for message in messages[1:] if message.get("body")]
        self.body = b"".join(self.pieces)


async def ask(
    app: ASGIApp, body: bytes = b"", request: Scope | None = None, after: Iterable[Message] = ()
) -> Answer:
    """Send one request and collect the answer."""
    events: list[Message] = [{"type": "http.request", "body": body, "more_body": False}, *after]
    sent: list[Message] = []

    async def receive() -> Message:
        return events.pop(0) if events else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(request or scope(), receive, send)
    return Answer(sent)
