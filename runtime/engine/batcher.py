"""Which texts run together, and on how many threads: pure, without I/O or clocks.

The head of a batch is chosen by turns among the calls that wait, so that a call of one
text is never behind more than one batch of each call that came before it, however many
texts those have. The others, as many as the budget takes: most of it goes to those whose
turns are next, the rest to texts nearest in length to the head, whoever sent them. Of a
model that cannot pack they are the oldest of the head's length. What runs is never padded.
There is no window: a free thread and a waiting text are a batch.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator
from itertools import chain, islice
from typing import NamedTuple, TypeVar

BUDGET = 256
"""Tokens per batch: more is slower per text on a CPU core, measured from 256 upwards."""

_UNEVEN = 2  # attention alone sees a rectangle; its area stays within so many budgets
_BY_TURNS = 3  # quarters of a batch that are for those whose turns are next
_TURNS = 64  # how many turns ahead are looked at
_FAR = 1 << 62
_ALONE = 64  # tokens per core that a lone text may have: about 17 ms of them

MOST_CORES = 8
"""Cores that a lone text runs on at most: a cautious choice. What two gain is measured (see
`Policy`), what eight or more do is not; each adds less, as the work per core shrinks."""


class Item(NamedTuple):
    """One text in the queue.

    Attributes:
        call: who waits for it.
        place: which of the call's texts it is.
        length: in tokens; at least 1.
        model: only texts of the same model run together; compared by equality.
        packs: the model takes texts of different lengths in one batch.
        turn: calls of the same turn have one turn together; None: the call has its own.
        wide: by itself it may run on many cores.
        heavy: it may run for minutes; texts of one turn are all so, or none of them is.
    """

    call: int
    place: int
    length: int
    model: Hashable = None
    packs: bool = False
    turn: Hashable = None
    wide: bool = True
    heavy: bool = False


_Place = tuple[int, int]
_Items = OrderedDict[_Place, Item]
_Key = TypeVar("_Key", bound=Hashable)


class _Room:
    """What a batch still takes."""

    def __init__(self, budget: int) -> None:
        self._tokens, self._area = budget, _UNEVEN * budget
        self._count = self._longest = 0

    def has(self, length: int) -> bool:
        """Whether one more text of this length fits."""
        return length <= self._tokens and (self._count + 1) * max(length, self._longest) <= self._area

    def take(self, item: Item) -> bool:
        """Put a text in if it fits; the first one always does."""
        if self._count and not self.has(item.length):
            return False
        self._tokens -= item.length
        self._count += 1
        self._longest = max(item.length, self._longest)
        return True


class Batcher:
    """A queue of texts that gives them out in batches."""

    def __init__(self) -> None:
        self._turns: OrderedDict[Hashable, _Items] = OrderedDict()
        self._calls: dict[int, _Items] = {}
        self._alike: dict[tuple[Hashable, int], _Items] = {}
        self._lengths: dict[Hashable, list[int]] = {}  # ascending, of what waits for a model
        self._size = 0
        self.tokens = 0
        """Tokens of all the texts in the queue."""

    def __len__(self) -> int:
        return self._size

    def add(self, items: Iterable[Item]) -> None:
        """Queue texts; `(call, place)` names each of them once."""
        for item in items:
            place = item.call, item.place
            self._turns.setdefault(_turn(item), OrderedDict())[place] = item
            self._calls.setdefault(item.call, OrderedDict())[place] = item
            alike = self._alike.setdefault((item.model, item.length), OrderedDict())
            if not alike:
                insort(self._lengths.setdefault(item.model, []), item.length)
            alike[place] = item
            self._size += 1
            self.tokens += item.length

    def take(self, budget: int = BUDGET, *, heavy: bool = True) -> list[Item]:
        """The next batch: at most `budget` tokens, but at least one text; empty if none waits.

        Args:
            heavy: it may be of heavy ones.
        """
        heads = ((turn, next(iter(waiting.values()))) for turn, waiting in self._turns.items())
        turn, head = next(((turn, head) for turn, head in heads if heavy or not head.heavy), (None, None))
        if head is None:
            return []
        batch = [head, *self._companions(head, budget)] if self._size > 1 else [head]
        for item in batch:
            self._remove(item)
        if turn in self._turns:
            self._turns.move_to_end(turn)
        return batch

    def cancel(self, call: int) -> int:
        """Forget what a call still has in the queue; how many texts that were."""
        items = list(self._calls.get(call, {}).values())
        for item in items:
            self._remove(item)
        return len(items)

    def _companions(self, head: Item, budget: int) -> Iterator[Item]:
        room = _Room(budget)
        room.take(head)
        taken = {head}
        for item in chain(self._next_turns(head, _BY_TURNS * budget // 4), self._nearest(head, room)):
            if item not in taken and room.take(item):
                taken.add(item)
                yield item

    def _next_turns(self, head: Item, tokens: int) -> Iterator[Item]:
        """Who would be the next heads: most of a batch is theirs, so that nobody is passed over for long."""
        tokens -= head.length
        turns = islice(self._turns.values(), _TURNS) if head.packs else ()
        for waiting in turns:
            item = next(iter(waiting.values()))
            if item is not head and item.model == head.model and item.length <= tokens:
                tokens -= item.length
                yield item

    def _nearest(self, head: Item, room: _Room) -> Iterator[Item]:
        """Texts that may run with the head, from its own length outwards, the oldest of each first."""
        for length in self._outwards(head.model, head.length) if head.packs else (head.length,):
            for item in self._alike[head.model, length].values():
                if not room.has(length):
                    break
                yield item
            if not room.has(self._lengths[head.model][0]):
                return

    def _outwards(self, model: Hashable, length: int) -> Iterator[int]:
        """The lengths that wait for a model, the nearest first."""
        lengths = self._lengths[model]
        longer = bisect_left(lengths, length)
        shorter = longer - 1
        while shorter >= 0 or longer < len(lengths):
            down = length - lengths[shorter] if shorter >= 0 else _FAR
            up = lengths[longer] - length if longer < len(lengths) else _FAR
            if down < up:
                yield lengths[shorter]
                shorter -= 1
            else:
                yield lengths[longer]
                longer += 1

    def _remove(self, item: Item) -> None:
        place = item.call, item.place
        _drop(self._turns, _turn(item), place)
        _drop(self._calls, item.call, place)
        if _drop(self._alike, (item.model, item.length), place):
            lengths = self._lengths[item.model]
            del lengths[bisect_left(lengths, item.length)]
            if not lengths:
                del self._lengths[item.model]
        self._size -= 1
        self.tokens -= item.length


def _turn(item: Item) -> Hashable:
    return item.call if item.turn is None else ("turn", item.turn)


def _drop(groups: dict[_Key, _Items], key: _Key, place: _Place) -> bool:
    """Take an item out of its group; whether that was the last one."""
    group = groups[key]
    del group[place]
    if not group:
        del groups[key]
    return not group


class Run(NamedTuple):
    """A batch and the threads it takes.

    Attributes:
        alone: a short text that found nobody; the threads it takes, if it is wide, leave it their cores.
    """

    items: list[Item]
    threads: int
    alone: bool


class Policy:
    """A queue and how many threads are free for it.

    A short text that finds the engine idle runs alone, on many cores: on two it is served 1.5
    to 1.75 times as fast. Who comes meanwhile waits, which is why only a short one may; and
    what had to wait runs on one core, so that steady company soon runs side by side.
    Heavy ones never have all threads, if there are several: what takes milliseconds finds one.
    """

    def __init__(self, threads: int, budget: int = BUDGET) -> None:
        self.queue = Batcher()
        self._threads = self._free = threads
        self._cores = min(threads, MOST_CORES)
        self._budget = budget
        self._heavy = 0  # runs of heavy ones
        self._in_company = False  # the last run that ended had kept somebody waiting

    def next(self) -> Run | None:
        """What to start now; None: there is no thread free, or nothing waits."""
        if not self._free or not self.queue:
            return None
        alone = self._may_be_alone()
        # A short queue is shared out, so that a few texts do not run one after the other
        # on one thread while another one idles.
        share = -(-self.queue.tokens // self._free)
        heavy = self._heavy < max(self._threads - 1, 1)
        items = self.queue.take(min(self._budget, share), heavy=heavy)
        if not items:
            return None
        run = Run(items, self._cores if alone and items[0].wide else 1, alone)
        self._free -= run.threads
        self._heavy += items[0].heavy
        return run

    def ended(self, run: Run) -> None:
        """Its threads are free again."""
        self._free += run.threads
        self._heavy -= run.items[0].heavy
        self._in_company = bool(self.queue)

    def _may_be_alone(self) -> bool:
        idle = self._free == self._threads > 1
        short = len(self.queue) == 1 and self.queue.tokens <= _ALONE * self._cores
        return idle and short and not self._in_company
