"""The corridor: framed messages over a socket, used by every pair of processes.

`Stream` is the hot path: an asyncio protocol with backpressure both ways. Closing a
connection is how its work is cancelled. `runtime.door` carries descriptors and hands
connections over; `runtime.framing` is what the bytes mean.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

import msgspec

from runtime.errors import ChannelClosed, FrameError
from runtime.framing import Unpacker, pack

CHUNK = 256 * 1024
"""Bodies are cut into pieces of at most this many bytes."""

_HIGH_WATER = 256 * 1024
_LOW_WATER = 64 * 1024
_RECEIVE = 256 * 1024

T = TypeVar("T")


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
        self._soon = b""
        self._paused = False
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
            for payload, _ in self._unpacker.feed(data):
                self.arrived(self._decoder.decode(payload), len(payload))
        except (FrameError, msgspec.MsgspecError):
            self.abort()

    def arrived(self, frame: T, size: int) -> None:
        """A frame is here: queue it for `receive`. Subclasses may take some at once."""
        self._frames.append((frame, size))
        self._waiting += size
        if self._waiting > _HIGH_WATER and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

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
        if exc is not None:
            self._read_rest()
        self.closed = True
        self._wake_writers()
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
        if self.on_lost is not None:
            self.on_lost()

    def _read_rest(self) -> None:
        """Writing failed, and what the other side said before it went still lies in the socket."""
        try:
            while data := os.read(self._fd, _RECEIVE):
                self.data_received(data)
        except OSError:
            pass

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            if not self.closed:
                self._transport.resume_reading()

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
