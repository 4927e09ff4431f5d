"""What a worker is doing, in memory that it shares with the gateway.

The worker writes, without a system call; the gateway reads, also while the worker spins,
and after its death. A *slot* stands for a connection that may carry a request; the last
one, `nobody`, for work that belongs to no request, or to one that is answered.

For the worker:

- *running*: the slot whose request is in a step right now (a step: from one suspension of a
  coroutine to the next), and
- *since* when: a reading of the event loop's thread clock. The difference to that clock is
  what the request has taken so far, this step included. No two steps have the same.
- *name*: the id of that request, if it is answered already.
- *beats*: the event loop adds one, ten times a second while it is
- *beating*: there is something to do. When all of these stand still, the loop is blocked,
  by whatever. An answer that the client has not read yet is nothing to do.

For each slot:

- *begun*: the handler of the request was called. Written just before, so the gateway knows
  for certain whether a request may be given to another worker.
- *withdrawn*: the gateway has taken the request back, and the worker must not begin with it.
- *thread* and *since*: the kernel's number of a thread that works for the request, and the
  reading of its clock from which on it did (less what the request had taken before).

Behind all that is room for the stacks of the worker's threads: what `faulthandler` writes.

Nothing in it is believed blindly: a function can write to its own ledger. It only harms
its own requests with that.
"""

from __future__ import annotations

import mmap
import os
from typing import NamedTuple

from runtime.sharedfile import shared_file

RUNNING, SINCE, _BEATS, _BEATING, _NAME, _HEAD = 0, 1, 2, 3, 4, 20
_BEGUN, _THREAD, _FROM, _WITHDRAWN, _PER_SLOT = 0, 1, 2, 3, 4
_WORD = 8
_LONGEST_NAME = (_HEAD - _NAME) * _WORD
_STACKS = 64 * 1024
NOBODY_RUNS = 0


class Pulse(NamedTuple):
    """The same twice: the event loop has done nothing meanwhile.

    Attributes:
        running: the slot that is in a step; -1: none is.
        since: of that step, or the last: what to subtract from the thread's clock.
    """

    running: int
    since: int
    beats: int


class Ledger:
    """A mapping of the shared file.

    Args:
        fd: as `new_file` makes it; it can be closed afterwards.

    Attributes:
        words: all of it but the stacks, for what has no time to call methods.
    """

    def __init__(self, fd: int) -> None:
        size = os.fstat(fd).st_size
        self._memory = mmap.mmap(fd, size)
        self._room = size - _STACKS
        self.words = memoryview(self._memory)[: self._room].cast("q")
        self.slots = (self._room // _WORD - _HEAD) // _PER_SLOT
        self.nobody = self.slots - 1

    # the worker's side

    def begin(self, slot: int) -> bool:
        """The request on this connection is about to be handled; False: it was taken back."""
        at = _HEAD + _PER_SLOT * slot
        self.words[at + _BEGUN] = 1
        if self.words[at + _WITHDRAWN]:
            self.words[at + _BEGUN] = 0
            return False
        return True

    def beat(self) -> None:
        """The event loop is alive, and will tell so again."""
        self.words[_BEATS] += 1
        self.words[_BEATING] = 1

    def rest(self) -> None:
        """It has nothing to do, and will tell nothing until it has."""
        self.words[_BEATING] = 0

    def enter(self, slot: int, since: int) -> None:
        """A step of its request begins."""
        words = self.words
        words[SINCE] = since
        words[RUNNING] = slot + 1  # NOBODY_RUNS: the step has ended

    def disown(self) -> None:
        """The request that is in a step was answered: what goes on belongs to nobody."""
        self.words[RUNNING] = self.nobody + 1

    def name(self, request_id: bytes) -> None:
        """Work begins that goes on after the answer to this request."""
        at = _NAME * _WORD
        self._memory[at : at + _LONGEST_NAME] = request_id[:_LONGEST_NAME].ljust(_LONGEST_NAME, b"\0")

    def employ(self, slot: int, thread: int, since: int) -> None:
        """A thread begins to work for its request; `thread` 0: it has ended."""
        at = _HEAD + _PER_SLOT * slot
        self.words[at + _THREAD] = 0  # no thread is ever seen with the reading of another
        self.words[at + _FROM] = since
        self.words[at + _THREAD] = thread

    # the gateway's side

    def clear(self, slot: int) -> None:
        """A new request is about to be sent on this connection."""
        at = _HEAD + _PER_SLOT * slot
        self.words[at + _BEGUN] = self.words[at + _THREAD] = self.words[at + _WITHDRAWN] = 0

    def withdraw(self, slot: int) -> None:
        """The last request on this connection must not be begun any more."""
        self.words[_HEAD + _PER_SLOT * slot + _WITHDRAWN] = 1

    def is_begun(self, slot: int) -> bool:
        """The last request on this connection was begun."""
        return self.words[_HEAD + _PER_SLOT * slot] == 1

    @property
    def pulse(self) -> Pulse:
        """What stands still when the event loop does."""
        words = self.words
        running = words[RUNNING] - 1
        return Pulse(running if running < self.slots else self.nobody, words[SINCE], words[_BEATS])

    @property
    def is_beating(self) -> bool:
        """The event loop has something to do."""
        return self.words[_BEATING] == 1

    @property
    def late_name(self) -> str:
        """The id of the answered request whose work began last."""
        at = _NAME * _WORD
        return self._memory[at : at + _LONGEST_NAME].rstrip(b"\0").decode("ascii", "replace")

    def thread(self, slot: int) -> tuple[int, int]:
        """The thread that works for its request (0: none), and what to subtract from its clock."""
        at = _HEAD + _PER_SLOT * slot
        return self.words[at + _THREAD], self.words[at + _FROM]

    def stacks(self) -> str:
        """What was written of its threads' stacks; empty: nothing."""
        return self._memory[self._room :].rstrip(b"\0").decode("utf-8", "replace")

    def forget_stacks(self, fd: int) -> None:
        """Make room for the next; `fd`: the file."""
        self._memory[self._room :] = bytes(_STACKS)
        os.lseek(fd, self._room, os.SEEK_SET)

    def close(self) -> None:
        """Let go of the memory."""
        self.words.release()
        self._memory.close()


def size_for(connections: int) -> int:
    """Bytes of a ledger for so many connections."""
    return (_HEAD + (connections + 1) * _PER_SLOT) * _WORD + _STACKS


def new_file(connections: int) -> int:
    """A ledger for so many connections. Its stacks are written where the descriptor stands."""
    fd = shared_file(size=size_for(connections))
    os.lseek(fd, -_STACKS, os.SEEK_END)
    return fd
