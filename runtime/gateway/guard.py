"""The guard at the door: heads that are too large, too slow, or not HTTP at all.

uvicorn has no such limits: an endless header fills the memory, and a client that never
finishes its head holds a connection for ever. The guard counts what came in since the
last part of a message that had an end, and looks at the clock while a head is open.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, NamedTuple
from weakref import proxy

import httptools
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from websockets.http11 import MAX_LINE_LENGTH, MAX_NUM_HEADERS

from runtime.channel import LOOK_S, has_hung_up
from runtime.errors import BadRequest, HeadersTooLarge, HeadTimeout, HostError, Overloaded, rule_of
from runtime.gateway import requestid
from runtime.gateway.client import CLIENT
from runtime.gateway.cork import Corked
from runtime.gateway.cors import grant, header
from runtime.gateway.refusal import wire
from runtime.project.settings import Cors

LINGER_S = 2.0
"""How long a refused client may take to read the answer before its connection is closed."""

FLUSH_S = 10.0
"""How long a client may take to read the rest of what has ended before its connection is reset."""

_HUNG_UP = getattr(select, "POLLRDHUP", 0)  # Linux alone tells at once; elsewhere a reset does
_REFUSED_AT_A_TIME = 32
_NO_ROOM = "Too many clients are connected; try again shortly"
_NEVER_S = 1e8
_ENDLESS = 2**62


class HeadLimits(NamedTuple):
    """What a request's head may cost.

    Attributes:
        bytes: request line and headers; also what may lie between the pieces of a body.
        seconds: from the connection, or from the first byte of a later request, to the head's end.
        on_refused: told the status of every refusal.
        cors: whose headers a refusal carries.
        connections: how many may be open at a time.
    """

    bytes: int
    seconds: float
    on_refused: Callable[[int], None]
    cors: Cors
    connections: int


class GuardedHttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol behind the guard; made by `guarded`."""

    limits: ClassVar[HeadLimits]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.loose = 0  # bytes since the last part of a message that had an end
        self.in_body = False
        self.refused = self.surplus = False
        self.head_since = 0.0  # when the open head began; 0: none is open
        self.head_timer: asyncio.TimerHandle | None = None
        self.on_leave: Callable[[], object] | None = None
        self.held: list[bytes] = []  # of answers, until the end of the event loop's turn
        self._left = False
        self._look_timer: asyncio.TimerHandle | None = None
        self._last_timer: asyncio.TimerHandle | None = None

    # --- what ASGI does not tell -----------------------------------------------------------

    def has_sent_all(self, scope: Scope) -> bool:
        """The whole of this request's body is here: `receive` will not wait for it."""
        return self.cycle is not None and self.cycle.scope is scope and not self.cycle.more_body

    def has_left(self) -> bool:
        """The connection is lost."""
        return self._left

    def give_up(self) -> None:
        """Break the connection off if it does not take what it is sent."""
        if self.flow.write_paused:
            self.transport.abort()

    # --- the clock -------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.surplus = len(self.connections) > self.limits.connections  # it is told when it has asked
        self._open_head()
        if self._is_crowded():
            self._refuse(Overloaded(_NO_ROOM))

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        for timer in (self._look_timer, self._last_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)
        self._left = True
        if self.on_leave is not None:
            self.on_leave()

    def _look_for_the_end(self) -> None:
        """While a body is held back nothing is read, and the event loop does not see the client go."""
        self._look_timer = None
        if not self.flow.read_paused or self.transport.is_closing():
            return
        if has_hung_up(self.transport.get_extra_info("socket").fileno(), _HUNG_UP):
            self.transport.abort()
        else:
            self._look_timer = self.loop.call_later(LOOK_S, self._look_for_the_end)

    def _open_head(self) -> None:
        self.head_since = self.loop.time()
        if self.head_timer is None:  # else it looks again by itself when it rings
            self.head_timer = self.loop.call_later(self.limits.seconds, self._ring)

    def _ring(self) -> None:
        self.head_timer = None
        if not self.head_since or self.transport.is_closing():
            return
        left = self.head_since + self.limits.seconds - self.loop.time()
        if left > 0:
            self.head_timer = self.loop.call_later(left, self._ring)
        else:
            late = f"The request's headers did not arrive within {self.limits.seconds:g} s"
            self._refuse(HeadTimeout(late))

    def _stop_timer(self) -> None:
        self.head_since = 0.0
        if self.head_timer is not None:
            self.head_timer.cancel()
            self.head_timer = None

    # --- what comes in ---------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self.refused:
            return
        self._unset_keepalive_if_required()
        self.loose += len(data)
        self._feed(data)
        self._look()

    def _look(self) -> None:
        """After a packet: does what is open cost too much already?"""
        if self.refused:
            return
        if self.loose > self.limits.bytes:
            self._refuse(self._too_large())
        elif self.loose and not self.in_body and not self.head_since:
            self._open_head()

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as pause:
            self._upgrade(data[pause.args[0] :])
        except httptools.HttpParserError as error:
            ours = error.__context__  # what a callback below raised
            self._refuse(ours if isinstance(ours, HostError) else BadRequest("This is not valid HTTP/1.1"))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value.rstrip(b" \t"))  # RFC 9112, 5.1; the parser strips what is before it

    def on_headers_complete(self) -> None:
        if self.surplus:
            raise Overloaded(_NO_ROOM)
        self._check_head()
        self.loose, self.head_since, self.in_body = 0, 0.0, True
        if self.parser.should_upgrade():
            return  # `_upgrade` decides
        self.scope[CLIENT] = self  # type: ignore[literal-required]
        super().on_headers_complete()
        close = partial(self._close, proxy(self.cycle))  # it calls this itself, and must not hold itself
        self.cycle.transport = Corked(self.transport, self.loop, close, self.held)  # type: ignore[assignment]
        self.headers = []  # takes the trailers: they must not become headers of a request that passed

    def on_body(self, body: bytes) -> None:
        self.loose = 0
        super().on_body(body)
        if self.flow.read_paused and self._look_timer is None:
            self._look_timer = self.loop.call_later(LOOK_S, self._look_for_the_end)

    def on_message_complete(self) -> None:
        self.loose, self.in_body = 0, False
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def _check_head(self) -> None:
        """What the parser lets through and RFC 9112 does not (sections 2.3, 3.2 and 6.1)."""
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.limits.bytes:
            raise self._too_large()
        version = self.parser.get_http_version()
        if version not in ("1.1", "1.0"):
            raise BadRequest("Only HTTP/1.1 is served")
        names = [name for name, _ in self.headers]
        if (count := names.count(b"host")) > 1 or (version == "1.1" and not count):
            raise BadRequest("A request has one Host header")
        if b"transfer-encoding" in names:
            coding = header(self.headers, b"transfer-encoding")
            if version == "1.0" or coding is None or coding.strip().lower() != b"chunked":
                raise BadRequest("The only Transfer-Encoding that is served is chunked, in HTTP/1.1")

    # --- upgrades --------------------------------------------------------------------------

    def _upgrade(self, rest: bytes) -> None:
        """The client wants to speak something else from here on."""
        if not self._is_answered() or self.parser.get_method() == b"CONNECT":
            self._refuse(BadRequest("The connection cannot be upgraded here"))
        elif not self._should_upgrade():
            self._go_on(rest)
        elif self.parser.get_method() != b"GET" or not self.url.isascii():
            self._refuse(BadRequest("A WebSocket begins with a GET request"))
        elif rest or self._has_body():  # and whoever reads the handshake does not answer one with a body
            self._refuse(BadRequest("A WebSocket's handshake has no body, and its answer comes first"))
        elif len(self.headers) > MAX_NUM_HEADERS or self._longest_line() > MAX_LINE_LENGTH:
            self._refuse(HeadersTooLarge(f"A line of the WebSocket's head is over {MAX_LINE_LENGTH} bytes"))
        else:
            self._stop_timer()
            self.scope["method"] = "GET"
            self.handle_websocket_upgrade()

    def _go_on(self, rest: bytes) -> None:
        """Ignore an upgrade to a protocol that is not spoken here, as RFC 9110 wants it.

        The parser takes a head that asks for an upgrade for the end of the request and would
        read the body as the next one, so it sees the same head again without the wish.
        """
        version = self.parser.get_http_version().encode()
        line = self.parser.get_method() + b" " + self.url + b" HTTP/" + version
        kept = [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self._feed(b"\r\n".join([line, *kept, b"", rest]))

    def _has_body(self) -> bool:
        length = header(self.headers, b"content-length") or b"0"
        return bool(length.strip(b"0")) or header(self.headers, b"transfer-encoding") is not None

    def _longest_line(self) -> int:
        line = len(self.url) + len("GET  HTTP/1.1\r\n")
        return max([line, *(len(name) + len(value) + 4 for name, value in self.headers)])

    # --- refusing --------------------------------------------------------------------------

    def _too_large(self) -> HeadersTooLarge:
        return HeadersTooLarge(f"The request's headers are over the limit of {self.limits.bytes // 1024} KB")

    def _is_crowded(self) -> bool:
        """There is not even room for those who are to be refused politely."""
        return len(self.connections) > self.limits.connections + _REFUSED_AT_A_TIME

    def _is_answered(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _refuse(self, error: HostError) -> None:
        """Answer with this error and close; requests that came in whole before are answered first."""
        self.refused = True
        self._stop_timer()
        self.limits.on_refused(rule_of(error).status)
        if self.held:
            self.transport.write(b"".join(self.held))
            self.held.clear()
        if self._is_answered():
            self._answer(error)
        elif not self.in_body:
            self.cycle.keep_alive = False
        else:
            self._break_off(error)

    def _break_off(self, error: HostError) -> None:
        """The body of a request that is being answered turned out to be broken."""
        self.cycle.disconnected = True
        self.cycle.waiting_for_100_continue = False
        self.cycle.message_event.set()
        if self.cycle.response_started or self.pipeline:
            self.transport.close()
        else:
            self._answer(error)

    def _answer(self, error: HostError) -> None:
        headers = self.scope["headers"] if self.scope else []
        headers = [(bytes(name), bytes(value)) for name, value in headers]
        origin = grant(self.limits.cors.allow_origins, header(headers, b"origin"))
        extra = [*self.server_state.default_headers, *origin]
        self.transport.write(wire(error, requestid.request_id(headers), extra))
        self._linger()

    def _close(self, cycle: RequestResponseCycle) -> None:
        """The last answer of this connection was given, or broken off: that must be seen as such."""
        if self.in_body and not self.pipeline:
            self._linger()
        else:
            self.transport.close()
        if not cycle.response_complete:  # what was said before it broke may be read, but not for ever
            self._last_timer = self.loop.call_later(FLUSH_S, self.transport.abort)

    def _linger(self) -> None:
        """Close, but let a client that is still sending read its answer before.

        Closing with bytes unread would reset the connection, and the answer might be lost.
        """
        self.refused = True  # what still comes is thrown away
        self._stop_timer()
        if self._is_crowded() or not self.transport.can_write_eof():
            self.transport.close()
            return
        self.transport.write_eof()
        self.flow.resume_reading()
        self.head_timer = self.loop.call_later(LINGER_S, self.transport.close)


def guarded(
    max_head_bytes: int,
    head_s: float,
    on_refused: Callable[[int], None],
    cors: Cors | None = None,
    connections: int = 0,
) -> type[GuardedHttpProtocol]:
    """A protocol class for `uvicorn.Config(http=…)` with these limits; 0 switches one off."""
    chosen = HeadLimits(
        max_head_bytes or _ENDLESS, head_s or _NEVER_S, on_refused, cors or Cors(), connections or _ENDLESS
    )

    class Guarded(GuardedHttpProtocol):
        limits = chosen

    return Guarded
