"""One request as the gateway handles it: where it came from, and what was answered."""

from __future__ import annotations

import time
from collections.abc import Iterable

from starlette.types import Message, Receive, Scope, Send

from runtime.errors import FunctionsError, HostError, rule_of
from runtime.gateway import requestid
from runtime.gateway.metrics import Series
from runtime.gateway.outgoing import response_headers
from runtime.gateway.refusal import refuse, refuse_socket

CLIENT_CLOSED = 499
"""As access logs of HTTP servers have it: the client left before an answer."""

_SWITCHED = 101


class Exchange:
    """A request (or WebSocket) and its answer.

    Attributes:
        status: what was sent; 0: nothing yet.
        code: the error's code, when the host answered for the function.
        limit: key of the setting that ended it; empty: none.
        series: where it is counted: its function's numbers, or those of all that reach none.
        worker: pid of the worker that has, or had, it; 0: none.
        began: when it came (CLOCK_MONOTONIC).
        first_s: seconds until the answer of the function began; 0: it has not.
        headers: of the response, once it has begun.
        accepted: a worker has begun with it.
        quiet: it is not worth a line in the log.
    """

    __slots__ = (
        "_send", "accepted", "began", "code", "first_s", "function", "headers", "limit", "quiet",
        "receive", "request_id", "scope", "series", "status", "worker",
    )  # fmt: skip

    def __init__(self, scope: Scope, receive: Receive, send: Send, request_id: str, series: Series) -> None:
        self.scope, self.receive, self._send = scope, receive, send
        self.request_id, self.series = request_id, series
        self.began = time.monotonic()
        self.function = ""
        self.status = self.worker = 0
        self.first_s = 0.0
        self.code = self.limit = ""
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

    def finish(self) -> float:
        """It is over: count it, unless it was a WebSocket's life; the seconds since it began."""
        seconds = time.monotonic() - self.began
        if self.status != _SWITCHED:
            self.series.answered(self.status or CLIENT_CLOSED, seconds, self.first_s)
        if self.code:
            self.series.erred(self.code)
        if self.limit:
            self.series.exceeded(self.limit)
        return seconds

    def blame(self, error: FunctionsError) -> None:
        """This is why it ends."""
        self.code = rule_of(error).code
        self.limit = error.limit if isinstance(error, HostError) else ""

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Send status and headers, and the request id with them.

        Raises:
            InvalidResponse: they cannot be sent.
        """
        kept = response_headers(status, headers)
        self.status, self.headers = status, kept
        self.first_s = time.monotonic() - self.began
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
        self.blame(error)
        if self.status:
            return
        self.status = rule_of(error).status
        not_run = not self.accepted
        if self.is_socket:
            await refuse_socket(self.scope, self._send, error, self.request_id, not_run=not_run)
        else:
            await refuse(self._send, error, self.request_id, not_run=not_run)
