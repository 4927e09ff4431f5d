"""How much may wait in the engine at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from runtime.errors import EngineUnavailable

SLOTS = 16_384
"""Texts, or pieces of 4 Ki characters where texts are long, that may wait at once."""

_CHARACTERS = 4096


class Admission:
    """Refuses early what would wait too long, and bounds what waiting texts take in memory."""

    def __init__(self, slots: int = SLOTS) -> None:
        self._free = slots
        self._open = True

    @contextmanager
    def hold(self, texts: Sequence[str], at_once: int) -> Iterator[None]:
        """Room for a call that queues at most `at_once` of its texts at a time.

        Raises:
            EngineUnavailable: there is no room, or the engine is leaving.
        """
        slots = max(min(len(texts), at_once), sum(map(len, texts)) // _CHARACTERS)
        if not self._open:
            raise EngineUnavailable("The inference engine is shutting down; try again shortly")
        if slots > self._free:
            raise EngineUnavailable(
                "The inference engine is overloaded: too many texts are waiting already; try again shortly"
            )
        self._free -= slots
        try:
            yield
        finally:
            self._free += slots

    def close(self) -> None:
        """Refuse everybody from now on."""
        self._open = False
