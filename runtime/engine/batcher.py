"""Which texts run together: a queue without I/O, threads or clocks.

A batch holds texts of one model and one length in tokens, so nothing is ever padded. Its
head is chosen by turns among the calls that wait, so a call of one text is never behind
more than one text of each call that came before it. The others are the oldest of the
head's length, whoever sent them, as many as the budget takes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from typing import NamedTuple

BUDGET = 256
"""Tokens per batch: more is slower per text on a CPU core, measured from 256 upwards."""


class Item(NamedTuple):
    """One text in the queue.

    Attributes:
        call: who waits for it; every call has its turn.
        place: which of the call's texts it is.
        length: in tokens; at least 1.
        model: only texts of the same model run together; compared by equality.
    """

    call: int
    place: int
    length: int
    model: Hashable = None


_Key = tuple[Hashable, int]
_Place = tuple[int, int]


class Batcher:
    """A queue of texts that gives them out in batches."""

    def __init__(self) -> None:
        self._calls: OrderedDict[int, OrderedDict[int, Item]] = OrderedDict()
        self._alike: dict[_Key, OrderedDict[_Place, Item]] = {}
        self._size = 0
        self.tokens = 0
        """Tokens of all the texts in the queue."""

    def __len__(self) -> int:
        return self._size

    def add(self, items: Iterable[Item]) -> None:
        """Queue texts; `(call, place)` names each of them once."""
        for item in items:
            self._calls.setdefault(item.call, OrderedDict())[item.place] = item
            self._alike.setdefault((item.model, item.length), OrderedDict())[item.call, item.place] = item
            self._size += 1
            self.tokens += item.length

    def take(self, budget: int = BUDGET) -> list[Item]:
        """The next batch: at most `budget` tokens, but at least one text; empty if none waits."""
        if not self._calls:
            return []
        call, waiting = next(iter(self._calls.items()))
        head = next(iter(waiting.values()))
        batch = [head]
        self._remove(head)
        alike = self._alike.get((head.model, head.length), OrderedDict())
        while alike and (len(batch) + 1) * head.length <= budget:
            item = next(iter(alike.values()))
            self._remove(item)
            batch.append(item)
        if call in self._calls:
            self._calls.move_to_end(call)
        return batch

    def cancel(self, call: int) -> int:
        """Forget what a call still has in the queue; how many texts that were."""
        items = list(self._calls.get(call, {}).values())
        for item in items:
            self._remove(item)
        return len(items)

    def _remove(self, item: Item) -> None:
        waiting = self._calls[item.call]
        del waiting[item.place]
        if not waiting:
            del self._calls[item.call]
        key = (item.model, item.length)
        alike = self._alike[key]
        del alike[item.call, item.place]
        if not alike:
            del self._alike[key]
        self._size -= 1
        self.tokens -= item.length
