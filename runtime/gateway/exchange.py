"""One request as the gateway handles it: where it came from, and what was answered."""

from __future__ import annotations

import time
from collections.abc import Iterable

from starlette.types import Message, Receive, Scope, Send

from runtime.errors import FunctionsError, rule_of
from runtime.gateway import requestid
from runtime.gateway.outgoing import response_headers
from runtime.gateway.refusal import refuse, refuse_socket


class Exchange:
    """A request (or WebSocket) and its answer.

    Attributes:
        status: what was sent; 0: nothing yet.
        code: the error's code, when the host answered for the function.
        headers: of the response, once it has begun.
        accepted: a worker has begun with it.
        quiet: it is not worth a line in the log.
    """

    __slots__ = (
        "_send", "accepted", "began", "code", "function", "headers", "quiet", "receive", "request_id",
        "scope", "status",
    )  # fmt: skip

    def __init__(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        self.scope, self.receive, self._send = scope, receive, send
        self.request_id = request_id
        self.began = time.perf_counter()
        self.function = ""
        self.status = 0
        self.code = ""
        self.accepted = self.quiet = False
        self.headers: Iterable[tuple[bytes, bytes]] = ()

    @property
    def is_socket(self) -> bool:
        return bool(self.scope["type"] == "websocket")

    @property
    def is_event_stream(self) -> bool:
        """The response is one of server-sent events."""
        return any(
            name == b"content-type" and value.lower().startswith(b"text/event-stream")
            for name, value in self.headers
        )

    @property
    def ms(self) -> float:
        """Milliseconds since it began."""
        return (time.perf_counter() - self.began) * 1000

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Send status and headers, and the request id with them.

        Raises:
            InvalidResponse: they cannot be sent.
        """
        kept = response_headers(status, headers)
        self.status, self.headers = status, kept
        kept.append((requestid.HEADER, self.request_id.encode()))
        await self._send({"type": "http.response.start", "status": status, "headers": kept})

    async def body(self, data: bytes, more: bool) -> None:
        """Send a piece of the body."""
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def send(self, message: Message) -> None:
        """Send an event as it is."""
        await self._send(message)

    async def refuse(self, error: FunctionsError) -> None:
        """Answer with an error, if nothing was answered yet."""
        rule = rule_of(error)
        self.code = rule.code
        if self.status:
            return
        self.status = rule.status
        not_run = not self.accepted
        if self.is_socket:
            await refuse_socket(self.scope, self._send, error, self.request_id, not_run=not_run)
        else:
            await refuse(self._send, error, self.request_id, not_run=not_run)
