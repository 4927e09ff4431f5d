"""What the workers of all functions may take together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from runtime.gateway.scaling import Holding, gives_way
from runtime.gateway.usage import MEGABYTE

_BETWEEN_RELIEFS_S = 10.0  # memory comes back only when the one that had it is gone


class Member(Protocol):
    """A pool, as it shares with the others."""

    @property
    def memory(self) -> int: ...

    @property
    def largest(self) -> int: ...

    @property
    def queued(self) -> int: ...

    def holding(self) -> Holding: ...

    def give_way(self) -> None: ...

    def relieve(self) -> None: ...

    def attend(self) -> None: ...


def _soon(call: Callable[[], None]) -> Any:
    return asyncio.get_running_loop().call_soon(call)


class Budget:
    """Says whether a worker may be added. Workers that are leaving count no more.

    At `max_workers` a worker is added only where requests wait and another function can spare
    one, which leaves for it. Over `memory_mb` it is the same; and, as long as it is so, idle
    workers that can be spared leave, and the largest of all is replaced by a fresh one.

    Who gets none stands in line, those without any worker before the others, and is called
    when a place may have come free. So it costs next to nothing to wait, however many do.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, soon: Callable[[Callable[[], None]], Any] = _soon
    ) -> None:
        self._max_workers = self._memory = 0
        self._held: dict[Member, int] = {}
        self._workers = 0  # all that is held
        self._starving: dict[Member, None] = {}
        self._wanting: dict[Member, None] = {}
        self._rested: dict[Member, None] = {}  # may have something to spare, since the line was last served
        self._called: Member | None = None
        self._clock, self._soon = clock, soon
        self._is_soon = False
        self._relieved_at = float("-inf")

    def configure(self, max_workers: int, memory_mb: int) -> None:
        """Use these limits from now on; 0: none."""
        self._max_workers, self._memory = max_workers, memory_mb * MEGABYTE

    @property
    def members(self) -> tuple[Member, ...]:
        """Who shares it."""
        return tuple(self._held)

    def join(self, member: Member) -> None:
        self._held[member] = 0

    def leave(self, member: Member) -> None:
        """What it still has is about to end."""
        self.holds(member, 0)
        self._held.pop(member, None)
        self._rested.pop(member, None)
        self._step_out(member)

    def holds(self, member: Member, workers: int) -> None:
        """It has so many workers now, those on their way included."""
        before = self._held.get(member)
        if before is not None:
            self._held[member] = workers
            self._workers += workers - before
            if workers < before:
                self._serve_soon()

    def rested(self, member: Member) -> None:
        """One of its workers has nothing to do any more."""
        if self._starving or self._wanting:
            self._rested[member] = None
            self._serve_soon()

    def room(self) -> int | None:
        """How many workers may be added without another's leaving; None: any number."""
        if self._memory and self._used() >= self._memory:
            return 0
        return max(0, self._max_workers - self._workers) if self._max_workers else None

    def grant(self, member: Member, count: int) -> int:
        """How many of the workers that a pool wants it may boot; for the rest it stands in line."""
        granted = self._granted(member, count)
        if granted < count and member.queued:
            self._stand_in_line(member)
        else:
            self._step_out(member)
        return granted

    def _granted(self, member: Member, count: int) -> int:
        room = self.room()
        if member is self._called:
            return count if room is None else min(count, max(room, 1))  # a place was found for it
        if room is None:
            return count
        if self._is_behind(member):
            return 0
        granted = min(room, count)
        while granted < count and member.queued and self._make_room(self._held, member, granted):
            granted += 1
        return granted

    def _make_room(self, members: Iterable[Member], asker: Member | None, granted: int = 0) -> bool:
        """Have one of these leave for somebody; None: for no other function."""
        starving = asker is not None and self._is_starving(asker, granted)
        others = [other for other in members if other is not asker]
        index = gives_way([other.holding() for other in others], starving=starving)
        if index is not None:
            others[index].give_way()
        return index is not None

    # the line

    def is_in_line(self, member: Member) -> bool:
        """It will be called when there is a place for it."""
        return member in self._starving or member in self._wanting

    def _is_starving(self, member: Member, granted: int = 0) -> bool:
        return self._held.get(member, 0) + granted == 0

    def _stand_in_line(self, member: Member) -> None:
        if member not in self._held:
            return
        line, other = self._starving, self._wanting
        if not self._is_starving(member):
            line, other = other, line
        other.pop(member, None)
        line.setdefault(member)

    def _step_out(self, member: Member) -> None:
        self._starving.pop(member, None)
        self._wanting.pop(member, None)

    def _next(self) -> Member | None:
        return next(iter(self._starving or self._wanting), None)

    def _is_behind(self, member: Member) -> bool:
        """Somebody has to be served before it."""
        line = self._starving if self._is_starving(member) else self._starving or self._wanting
        return bool(line) and next(iter(line)) is not member

    def _serve_soon(self) -> None:
        if not self._is_soon and self._next() is not None:
            self._is_soon = True
            self._soon(self._serve)

    def _serve(self) -> None:
        """Call those in line, as long as there are places."""
        self._is_soon = False
        while (member := self._next()) is not None:
            if member.queued and self.room() == 0 and not self._make_room(self._rested, member):
                break
            self._step_out(member)
            if member.queued:
                self._call(member)
        self._rested.clear()

    def _call(self, member: Member) -> None:
        self._called = member
        try:
            member.attend()
        finally:
            self._called = None

    def _used(self) -> int:
        return sum(member.memory for member in self._held)

    def look(self) -> None:
        """Called every second: do something about memory that is over the limit."""
        self._rested.update(dict.fromkeys(self._held))
        self._serve()
        if not self._memory or self._used() < self._memory:
            return
        if self._clock() - self._relieved_at < _BETWEEN_RELIEFS_S:
            return
        self._relieved_at = self._clock()
        if not self._make_room(self._held, None) and self._held:
            max(self._held, key=lambda member: member.largest).relieve()
