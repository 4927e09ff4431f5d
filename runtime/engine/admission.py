"""How much may wait in the engine at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

from runtime.errors import EngineUnavailable

TOKENS = 144 << 10
"""Tokens that may wait for each inference thread: about half a minute of its work at fp32. What
one call of a client has in flight fits, whatever its texts: these are at most 256."""

CHARACTERS = 64 << 20
"""Characters of the texts of all calls in flight."""

RESULTS = 256 << 20
"""Bytes of results that are being made, or wait for their readers; an eighth is everybody's own."""

_BESIDE = 16  # what a text takes beside its tokens
_PER_TOKEN = 4  # characters, of English
_READ = 512  # tokens that most models read of a text


class Room:
    """What one call takes of the queue; a guess until its tokens are known."""

    def __init__(self, admission: Admission, tokens: int, owner: Hashable) -> None:
        self._admission, self._tokens, self._owner = admission, tokens, owner
        self._size = 0  # of its results
        admission.waiting += tokens

    def known(self, lengths: Sequence[int]) -> None:
        """The call's next texts have so many tokens; it is never too late for them to wait."""
        self._become(sum(lengths) + _BESIDE * len(lengths))

    async def results(self, size: int) -> None:
        """So many bytes of results will be made; the reader has all that were made before.

        Beyond `RESULTS` they wait until their owner's reader has taken others of its own, and
        never for the reader of somebody else.
        """
        self._give_back()
        admission = self._admission
        while self._must_wait(size):
            self.known(())
            admission.taken.clear()
            await admission.taken.wait()
        self._size = size
        admission.results[self._owner] += size

    def _must_wait(self, size: int) -> bool:
        results = self._admission.results
        own = results[self._owner]
        return own > 0 and own + size > RESULTS // 8 and results.total() + size > RESULTS

    def leave(self) -> None:
        """Nothing of the call waits any more."""
        self._become(0)
        self._give_back()

    def _give_back(self) -> None:
        results = self._admission.results
        results[self._owner] -= self._size
        if not results[self._owner]:
            del results[self._owner]
        self._size = 0
        self._admission.taken.set()

    def _become(self, tokens: int) -> None:
        self._admission.waiting += tokens - self._tokens
        self._tokens = tokens


class Admission:
    """Refuses early what would wait too long, and bounds what waiting texts take in memory.

    Attributes:
        waiting: tokens of the texts that wait.
        results: bytes of results that are being made or wait for their reader, by owner.
        taken: set when some of these have been taken.
    """

    def __init__(self, tokens: int = TOKENS, characters: int = CHARACTERS) -> None:
        self.waiting = 0
        self.results: Counter[Hashable] = Counter()
        self.taken = asyncio.Event()
        self._tokens, self._characters = tokens, characters
        self._open = True

    @contextmanager
    def hold(self, characters: Sequence[int], at_once: int, owner: Hashable = None) -> Iterator[Room]:
        """Room for a call whose texts have so many characters, and which queues `at_once` of them.

        Args:
            owner: whose reader takes the results.

        Raises:
            EngineUnavailable: there is no room, or the engine is leaving.
        """
        if not self._open:
            raise EngineUnavailable("The inference engine is shutting down; try again shortly")
        tokens, size = sum(map(_guess, islice(characters, at_once))), sum(characters)
        if self.waiting + tokens > self._tokens or size > self._characters:
            raise EngineUnavailable(
                "The inference engine is overloaded: too many texts are waiting already; try again shortly"
            )
        room = Room(self, tokens, owner)
        self._characters -= size
        try:
            yield room
        finally:
            self._characters += size
            room.leave()

    def close(self) -> None:
        """Refuse everybody from now on."""
        self._open = False


def _guess(characters: int) -> int:
    return _BESIDE + min(characters // _PER_TOKEN, _READ)
