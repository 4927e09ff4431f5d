"""A connection to a worker, which carries one request after another."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from runtime import frames
from runtime.channel import Stream
from runtime.errors import FrameError, HostError
from runtime.ledger import Ledger

_responses = msgspec.msgpack.Decoder(frames.ResponseFrame)


class ResponseStream(Stream[frames.ResponseFrame]):
    """A connection to a worker, of whom nothing is believed.

    Args:
        ledger: the worker's; None: it has ended.
        slot: of the connection, in the ledger.
        on_begun: called when a request is about to be sent.

    Attributes:
        head: of the request that it carries; None: it carries none.
        sentence: what the request is answered with, since the worker was stopped while it had it.
        withdrawn: the request was taken back, unless the worker has begun with it.
        on_accepted: called at once when the worker tells that it has begun, and waits for more of the body.
        on_intrusion: called when the worker sends what no request is there for.
    """

    def __init__(self, ledger: Ledger | None, slot: int, on_begun: Callable[[], object]) -> None:
        super().__init__(_responses)
        self.slot = slot
        self.head: frames.Head | None = None
        self.sentence: HostError | None = None
        self.withdrawn = False
        self.on_accepted: Callable[[], None] | None = None
        self.on_intrusion: Callable[[], None] = lambda: None
        self._ledger = ledger
        self._was_begun = False
        self._on_begun = on_begun

    @property
    def accepted(self) -> bool:
        """The worker has begun with the request last sent; still right after its death."""
        return self._was_begun if self._ledger is None else self._ledger.is_begun(self.slot)

    def begin(self, head: frames.Head, on_accepted: Callable[[], None] = lambda: None) -> None:
        """A new request is about to be sent."""
        self.head, self.on_accepted, self.withdrawn = head, on_accepted, False
        if self._ledger is not None:
            self._ledger.clear(self.slot)
        self._on_begun()

    def end(self) -> None:
        """The request has its answer: the next one must not take anything of it for its own."""
        self.head = self.on_accepted = None
        if self._frames:
            self._intruded()

    def withdraw(self) -> None:
        """Tell the worker that it must not begin with the request; `take_back` follows.

        Both sides write before they read: the worker that it begins, we that it must not. So
        one of them notices at least, and the request is never served twice: a worker that has
        seen ours after its own closes the connection, as if it had not begun.
        """
        if self._ledger is not None:
            self.withdrawn = True
            self._ledger.withdraw(self.slot)

    def take_back(self) -> None:
        """Let another have the request, if it was withdrawn and the worker has not begun with it.

        To be called when what both have written can be seen by both: no processor takes a
        millisecond for that, and none promises to show it at once.
        """
        if self.withdrawn and self._ledger is not None and not self._ledger.is_begun(self.slot):
            self._ledger = None
            self.abort()

    def settle(self) -> None:
        """Keep what the ledger says: it goes, or its slot is given to another connection."""
        self._was_begun, self._ledger = self.accepted, None

    def arrived(self, frame: frames.ResponseFrame, size: int) -> None:
        if self.head is None:
            self._intruded()
            raise FrameError("a frame came without a request")
        if not isinstance(frame, frames.Accepted):
            super().arrived(frame, size)
        elif self.on_accepted is None:
            raise FrameError("a request was accepted twice")
        else:
            accepted, self.on_accepted = self.on_accepted, None
            accepted()

    def _intruded(self) -> None:
        if not self.lost:
            self.on_intrusion()
