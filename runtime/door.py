"""The door between two processes: a control connection that carries descriptors.

There are no named sockets: a connection begins as a `socketpair` of which one end is
handed over through a door. This module loads no event loop, as process 0 has none.
"""

from __future__ import annotations

import os
import select
import socket
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from runtime.errors import ChannelClosed, FrameError
from runtime.framing import UNREADABLE, Unpacker, pack

if TYPE_CHECKING:
    import asyncio

_MAX_FDS = 64
_RECEIVE = 256 * 1024

T = TypeVar("T")


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets; neither survives an exec."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)


class Door(Generic[T]):
    """A control connection that carries descriptors beside its frames.

    It never blocks: `send` keeps what the kernel does not take and `flush` sends it once
    the socket is writable. Descriptors given to `send` belong to the door from then on.

    Args:
        takes_fds: false where the other side has no business to send any, so that it cannot
            fill our table of descriptors: the kernel drops them.
    """

    def __init__(
        self, sock: socket.socket, decoder: msgspec.msgpack.Decoder[T], *, takes_fds: bool = True
    ) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._decoder = decoder
        self._takes_fds = takes_fds
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
        """Send a frame with descriptors, now or as soon as the other side takes it.

        Raises:
            FrameError: it is longer than `MAX_FRAME`.
        """
        if self.closed:
            close_all(fds)
            return
        try:
            data = pack(frame, len(fds))
        except FrameError:
            close_all(fds)
            raise
        self._outgoing.append((data, tuple(fds)))
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
            close_all(fds)
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
            data = self._read()
        except (BlockingIOError, InterruptedError):
            return []
        except OSError as error:
            raise ChannelClosed from error
        if not data:
            raise ChannelClosed
        try:
            frames = [(self._decoder.decode(payload), count) for payload, count in self._unpacker.feed(data)]
        except UNREADABLE as error:
            raise FrameError(str(error)) from error
        if sum(count for _, count in frames) > len(self._fds):
            raise FrameError("a frame came without its descriptors")
        taken = [(frame, [self._fds.popleft() for _ in range(count)]) for frame, count in frames]
        # The kernel hands a frame's descriptors over with its first byte.
        if len(self._fds) > (_MAX_FDS if self._unpacker.pending else 0):
            for _, fds in taken:
                close_all(fds)
            raise FrameError("descriptors came without a frame")
        return taken

    def _read(self) -> bytes:
        if not self._takes_fds:
            return self.sock.recv(_RECEIVE)
        data, fds, _, _ = socket.recv_fds(self.sock, _RECEIVE, _MAX_FDS)
        for fd in fds:
            os.set_inheritable(fd, False)
        self._fds.extend(fds)
        return data

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
        self._on_pending = None  # it holds the door, and whoever listens to it
        if loop is not None:
            loop.remove_reader(self.sock)
            loop.remove_writer(self.sock)
        self._forget_outgoing()
        close_all(self._fds)
        self._fds.clear()
        self.sock.close()

    def _forget_outgoing(self) -> None:
        for _, fds in self._outgoing:
            close_all(fds)
        self._outgoing.clear()


def close_all(fds: Iterable[int]) -> None:
    """Close descriptors, such as those of a frame that has no use for them."""
    for fd in fds:
        os.close(fd)
