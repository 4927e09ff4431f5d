"""The corridor: framed messages over a socket, used by every pair of processes.

A frame is four bytes and a msgpack payload of at most `MAX_FRAME` bytes. Of the four
(little-endian), the low 24 bits are the payload's length and the high 8 the number of
descriptors that travel with it.

- `Unpacker` cuts a byte stream into frames; it does no I/O.
- `Stream` carries the hot path: an asyncio protocol with backpressure both ways.
- `Door` carries descriptors; it serves a `selectors` loop and an asyncio loop alike.

There are no named sockets: a connection begins as a `socketpair` of which one end is
handed over through a door. Closing a connection is how its work is cancelled.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar, cast

import msgspec

from runtime.errors import ChannelClosed, FrameError

MAX_FRAME = 1 << 20
CHUNK = 256 * 1024
"""Bodies are cut into pieces of at most this many bytes."""

_HEADER = 4
_LENGTH_MASK = 0xFFFFFF
_HIGH_WATER = 256 * 1024
_LOW_WATER = 64 * 1024
_MAX_FDS = 64
_RECEIVE = 256 * 1024

_encoder = msgspec.msgpack.Encoder()

T = TypeVar("T")


def pack(frame: Any, fds: int = 0) -> bytes:
    """One frame as bytes.

    Raises:
        FrameError: the payload is longer than `MAX_FRAME`.
    """
    payload = _encoder.encode(frame)
    if len(payload) > MAX_FRAME:
        raise FrameError(f"a {type(frame).__name__} frame of {len(payload)} bytes is over {MAX_FRAME}")
    return (len(payload) | fds << 24).to_bytes(_HEADER, "little") + payload


class Unpacker:
    """Cuts a byte stream, however it is split, into `(payload, descriptors)` pairs."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[bytes, int]]:
        """The frames that `data` completes.

        Raises:
            FrameError: a header announces more than `MAX_FRAME` bytes.
        """
        whole = self._one(data) if not self._buffer else None
        if whole is not None:
            return [whole]
        buffer = self._buffer
        buffer += data
        frames, start, end = [], 0, len(buffer)
        while end - start >= _HEADER:
            header = int.from_bytes(buffer[start : start + _HEADER], "little")
            length = header & _LENGTH_MASK
            if length > MAX_FRAME:
                raise FrameError(f"a frame of {length} bytes is over {MAX_FRAME}")
            stop = start + _HEADER + length
            if stop > end:
                break
            frames.append((bytes(buffer[start + _HEADER : stop]), header >> 24))
            start = stop
        if start:
            del buffer[:start]
        return frames

    @staticmethod
    def _one(data: bytes) -> tuple[bytes, int] | None:
        """The frame that `data` is, if it is exactly one: the usual case, without copies."""
        header = int.from_bytes(data[:_HEADER], "little")
        length = header & _LENGTH_MASK
        if len(data) != length + _HEADER or length > MAX_FRAME:
            return None
        return data[_HEADER:], header >> 24


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
        if self.closed:
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
        """Drop the frames that nobody has taken."""
        self._frames.clear()
        self._waiting = 0
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


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets; neither survives an exec."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)


class Door(Generic[T]):
    """A control connection that carries descriptors beside its frames.

    It never blocks: `send` keeps what the kernel does not take and `flush` sends it once
    the socket is writable. Descriptors given to `send` belong to the door from then on.
    """

    def __init__(self, sock: socket.socket, decoder: msgspec.msgpack.Decoder[T]) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._decoder = decoder
        self._unpacker = Unpacker()
        self._fds: deque[int] = deque()
        self._outgoing: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self.closed = False
        self._on_pending: Callable[[], None] | None = None

    def fileno(self) -> int:
        return self.sock.fileno()

    @property
    def pending(self) -> bool:
        """Something waits for the socket to be writable."""
        return bool(self._outgoing)

    def send(self, frame: Any, fds: Sequence[int] = ()) -> None:
        """Send a frame with descriptors, now or as soon as the other side takes it."""
        if self.closed:
            _close_all(fds)
            return
        self._outgoing.append((pack(frame, len(fds)), tuple(fds)))
        self.flush()
        if self._outgoing and self._on_pending is not None:
            self._on_pending()

    def flush(self) -> None:
        """Send what waits, as far as the socket takes it."""
        while self._outgoing:
            data, fds = self._outgoing[0]
            try:
                sent = socket.send_fds(self.sock, [data], fds) if fds else self.sock.send(data)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self._forget_outgoing()
                return
            _close_all(fds)
            if sent < len(data):
                self._outgoing[0] = (data[sent:], ())
            else:
                self._outgoing.popleft()

    def receive(self) -> list[tuple[T, list[int]]]:
        """The frames that have arrived, each with its descriptors; empty when there are none.

        Raises:
            ChannelClosed: the other side is gone, and nothing is left to read.
            FrameError: what arrived is no frame of this vocabulary.
        """
        try:
            data, fds, _, _ = socket.recv_fds(self.sock, _RECEIVE, _MAX_FDS)
        except (BlockingIOError, InterruptedError):
            return []
        except OSError as error:
            raise ChannelClosed from error
        if not data:
            raise ChannelClosed
        for fd in fds:
            os.set_inheritable(fd, False)
        self._fds.extend(fds)
        try:
            return [
                (self._decoder.decode(payload), [self._fds.popleft() for _ in range(count)])
                for payload, count in self._unpacker.feed(data)
            ]
        except (msgspec.MsgspecError, IndexError) as error:
            raise FrameError(str(error)) from error

    def wait(self) -> list[tuple[T, list[int]]]:
        """Block until at least one frame is there. For processes without an event loop."""
        frames: list[tuple[T, list[int]]] = []
        while not frames:
            select.select([self.sock], [self.sock] if self._outgoing else [], [])
            self.flush()
            frames = self.receive()
        return frames

    def listen(
        self,
        loop: asyncio.AbstractEventLoop,
        on_frame: Callable[[T, list[int]], None],
        on_lost: Callable[[], None],
    ) -> None:
        """Let an asyncio loop read this door (and write what waits) until it closes."""

        def readable() -> None:
            try:
                frames = self.receive()
            except (ChannelClosed, FrameError):
                self.close(loop)
                on_lost()
                return
            for frame, fds in frames:
                on_frame(frame, fds)

        def writable() -> None:
            self.flush()
            if not self._outgoing:
                loop.remove_writer(self.sock)

        self._on_pending = lambda: loop.add_writer(self.sock, writable)
        loop.add_reader(self.sock, readable)
        if self._outgoing:
            self._on_pending()

    def close(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Close the connection and every descriptor that waited in it. Idempotent."""
        if self.closed:
            return
        self.closed = True
        if loop is not None:
            loop.remove_reader(self.sock)
            loop.remove_writer(self.sock)
        self._forget_outgoing()
        _close_all(self._fds)
        self._fds.clear()
        self.sock.close()

    def _forget_outgoing(self) -> None:
        for _, fds in self._outgoing:
            _close_all(fds)
        self._outgoing.clear()


def _close_all(fds: Sequence[int] | deque[int]) -> None:
    for fd in fds:
        os.close(fd)
