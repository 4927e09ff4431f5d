"""The corridor: framed messages over a socket, used by every pair of processes.

`Stream` is the hot path: an asyncio protocol with backpressure both ways. Closing a
connection is how its work is cancelled. `runtime.door` carries descriptors and hands
connections over; `runtime.framing` is what the bytes mean.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

import msgspec

from runtime.errors import ChannelClosed, FrameError
from runtime.framing import UNREADABLE, Unpacker, pack

CHUNK = 256 * 1024
"""Bodies are cut into pieces of at most this many bytes."""

_HIGH_WATER = 256 * 1024
_LOW_WATER = 64 * 1024
_RECEIVE = 256 * 1024
_LAST_WORDS = 512 * 1024
LOOK_S = 0.2
"""How often one who reads nothing looks whether the other side has gone."""

_AT_ONCE = 512  # frames that are decoded in one turn of the event loop
_IN_A_ROW = 32  # frames that are taken before the loop's other work has its turn
_WEIGHT = 128  # what a frame takes beside its payload, as it counts for the high water

T = TypeVar("T")


def has_hung_up(fd: int, also: int = 0) -> bool:
    """Whether a socket's other side has closed, also when what it sent before was not read yet.

    Args:
        also: further events of `select.poll` that say so; of TCP, POLLRDHUP.
    """
    poll = select.poll()
    poll.register(fd, also)
    return any(events & (select.POLLHUP | also) for _, events in poll.poll(0))


class Stream(asyncio.Protocol, Generic[T]):
    """A connection whose frames are awaited one by one.

    Reading pauses while more than 256 KB wait to be taken, so a slow reader slows the
    writer through the kernel's buffers; `drain` waits while the other side does the same.

    Args:
        decoder: of the union of frames that may arrive, from `runtime.frames`.
    """

    def __init__(self, decoder: msgspec.msgpack.Decoder[T]) -> None:
        self._decoder = decoder
        self._unpacker = Unpacker()
        self._frames: deque[tuple[T, int]] = deque()
        self._waiting = 0  # bytes in `_frames`
        self._in_a_row = 0
        self._soon = b""
        self._paused = False
        self._backlog = False  # the unpacker may hold more whole frames
        self._going_on: asyncio.Handle | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writers: deque[asyncio.Future[None]] = deque()
        self._congested = False
        self._loop = asyncio.get_running_loop()
        self.closed = False
        self.on_lost: Callable[[], None] | None = None
        """Called once, when the connection is gone."""

    # what an owner calls

    @property
    def lost(self) -> bool:
        """Nothing more can be sent; true before `closed` when sending has just failed."""
        return self.closed or self._transport.is_closing()

    @property
    def congested(self) -> bool:
        """The other side is behind: `drain` would wait."""
        return self._congested

    @property
    def newest(self) -> T | None:
        """The frame that arrived last, if nobody has taken it yet."""
        return self._frames[-1][0] if self._frames else None

    def send(self, *frames: Any) -> None:
        """Queue frames for sending, as one write. A closed connection swallows them."""
        data = self._soon + (pack(frames[0]) if len(frames) == 1 else b"".join(map(pack, frames)))
        self._soon = b""
        if not self.closed:
            self._transport.write(data)

    def send_soon(self, frame: Any) -> None:
        """Queue a frame to go with the next one, or at the end of the event loop's turn."""
        if not self._soon:
            self._loop.call_soon(self._send_soon)
        self._soon += pack(frame)

    def _send_soon(self) -> None:
        if self._soon:
            self.send()

    async def drain(self) -> None:
        """Wait until the other side has taken what was sent, down to a small rest.

        Raises:
            ChannelClosed: the connection is gone.
        """
        if self._congested and not self.closed:
            waiter = self._loop.create_future()
            self._writers.append(waiter)
            await waiter
        if self.lost:
            raise ChannelClosed

    async def receive(self) -> T:
        """The next frame.

        Raises:
            ChannelClosed: the connection is gone and every frame has been taken.
        """
        if self._frames:
            self._in_a_row += 1
            if self._in_a_row == _IN_A_ROW:
                self._in_a_row = 0
                await asyncio.sleep(0)
        while not self._frames:
            if self.closed:
                raise ChannelClosed
            reader = self._reader = self._loop.create_future()
            try:
                await reader
            finally:
                if self._reader is reader:
                    self._reader = None
        frame, size = self._frames.popleft()
        self._waiting -= size
        if self._paused and self._waiting < _LOW_WATER:
            self._resume()
        return frame

    def close(self) -> None:
        """Close after sending what is queued. Idempotent."""
        if not self.closed:
            self._transport.close()

    def abort(self) -> None:
        """Close at once and forget what is queued. Idempotent."""
        if not self.closed:
            self._transport.abort()

    # what the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it
        self._fd: int = transport.get_extra_info("socket").fileno()

    def data_received(self, data: bytes) -> None:
        try:
            arrived = self._unpacker.feed(data, _AT_ONCE)
            for payload, _ in arrived:
                self.arrived(self._decoder.decode(payload), len(payload) + _WEIGHT)
        except (FrameError, *UNREADABLE) as error:
            self.unreadable(error)
        else:
            if len(arrived) == _AT_ONCE:
                self._decode_later()

    def _decode_later(self) -> None:
        """A flood of small frames: the other connections of this loop come first."""
        self._backlog = True
        self._pause()
        if self._waiting < _LOW_WATER:
            self._resume()

    def _decode_on(self) -> None:
        self._going_on = None
        self._backlog = False
        if not self.closed:
            self.data_received(b"")
            if not self._backlog and self._waiting < _LOW_WATER:
                self._resume()

    def arrived(self, frame: T, size: int) -> None:
        """A frame is here: queue it for `receive`. Subclasses may take some at once."""
        self._frames.append((frame, size))
        self._waiting += size
        if self._waiting > _HIGH_WATER:
            self._pause()
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def drop(self, is_useless: Callable[[T], bool]) -> None:
        """Drop those of the frames that nobody has taken for which this is true."""
        kept = [(frame, size) for frame, size in self._frames if not is_useless(frame)]
        if len(kept) == len(self._frames):
            return
        self._frames = deque(kept)
        self._waiting = sum(size for _, size in kept)
        if self._waiting < _LOW_WATER:
            self._resume()

    def unreadable(self, error: Exception) -> None:
        """What arrived is no frame: close. Subclasses may say why."""
        self.abort()

    def forget(self) -> None:
        """Drop the frames that nobody has taken; whoever waits for one is told that none will come."""
        self._frames.clear()
        self._waiting = 0
        if self._reader is not None and not self._reader.done():
            self._reader.set_exception(ChannelClosed())
        self._resume()

    def pause_writing(self) -> None:
        self._congested = True

    def resume_writing(self) -> None:
        self._congested = False
        self._wake_writers()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if exc is not None:
            self._read_rest()
        self._wake_writers()
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
        if self.on_lost is not None:
            self.on_lost()

    def _read_rest(self) -> None:
        """Writing failed, and what the other side said before it went still lies in the socket."""
        left = _LAST_WORDS
        try:
            while left > 0 and (data := os.read(self._fd, min(left, _RECEIVE))):
                left -= len(data)
                self.data_received(data)
        except OSError:
            pass

    def _pause(self) -> None:
        if not self._paused and not self.closed:
            self._paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if not self._paused or self.closed:
            return
        if not self._backlog and self._going_on is None:
            self._paused = False
            self._transport.resume_reading()
        elif self._going_on is None:
            self._going_on = self._loop.call_soon(self._decode_on)

    def _wake_writers(self) -> None:
        while self._writers:
            waiter = self._writers.popleft()
            if not waiter.done():
                waiter.set_result(None)


S = TypeVar("S", bound="Stream[Any]")


async def open_stream(sock: socket.socket, make: Callable[[], S]) -> S:
    """A stream, as `make` builds it, over one end of a socket pair; takes the socket over."""
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    _, stream = await loop.create_unix_connection(make, sock=sock)
    return stream
