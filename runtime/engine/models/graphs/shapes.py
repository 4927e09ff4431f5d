"""How the tokens of a batch lie: as a rectangle, or packed one text after the other."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from runtime.engine.models.graphs.builder import Builder, Shape

IDS, MASK, TYPES = "input_ids", "attention_mask", "token_type_ids"
POSITIONS, STARTS, BEFORE, WIDTH = "position_ids", "starts", "before", "width"
PLACES, BIAS, RAGGED, SPLIT = "places", "bias", "ragged", "split"
FAR = "_far"
"""Ends the names of the second rectangle's inputs."""

_INDICES = {"words": IDS, "types": TYPES, "positions": POSITIONS}  # by the table that they are for


class Seats(NamedTuple):
    """Texts that attention sees side by side.

    Attributes:
        places: [text, place]: the row of each token of each text; any row of the same text
            where it has none.
        bias: added to scores: 0 where a text has a token, hugely negative where not.
        ragged: whether any place has no token; if not, the bias need not be added.
    """

    places: str
    bias: str
    ragged: str


class Tokens(Protocol):
    """What the encoder needs to know of how tokens lie. "Rows" have one row per token."""

    def embedded(self, table: str) -> str:
        """What a table ("words", "types", "positions") has for each token; can be added up."""
        ...

    def rows(self, embedded: str) -> str:
        """Rows, of what was embedded."""
        ...

    def seats(self) -> list[Seats]:
        """The rectangle of all texts; or two, the second of which may be idle."""
        ...

    def split(self) -> str:
        """Whether the second rectangle has texts; empty: there is none."""
        ...

    def cells(self) -> tuple[str, str, str]:
        """For each row, or for all: how many cells of all rectangles come before its text, its
        place in that text, and how wide its rectangle is."""
        ...

    def starts(self) -> str:
        """The first row of each text."""
        ...

    def result(self, rows: str, hidden: int) -> tuple[str, Shape]:
        """Rows as the graph gives them, and their shape."""
        ...


class Rectangle:
    """[batch, sequence] with a mask: what other programs expect of a `model.onnx`."""

    def __init__(self, build: Builder) -> None:
        self._build = build
        for name in (IDS, MASK, TYPES):
            build.input(name, ("batch", "sequence"))
        self._rows = build.op("Range", build.number(0), build.op("Size", IDS), build.number(1))
        self._places = build.op("Reshape", self._rows, build.op("Shape", IDS))

    def embedded(self, table: str) -> str:
        build = self._build
        weight = build.weight(table)
        if table == "positions":
            zero = build.ints(0)
            return build.op("Slice", weight, zero, build.op("Shape", IDS, start=1, end=2), zero)
        return build.op("Gather", weight, IDS if table == "words" else TYPES)

    def rows(self, embedded: str) -> str:
        # A product of two dimensions adds its bias on the way; one of three does not.
        build = self._build
        shape = build.op("Concat", build.ints(-1), build.op("Shape", embedded, start=2), axis=0)
        return build.op("Reshape", embedded, shape)

    def seats(self) -> list[Seats]:
        build = self._build
        ragged = build.op("Equal", build.op("ReduceMin", MASK, keepdims=0), build.number(0))
        return [Seats(self._places, self._bias(), ragged)]

    def split(self) -> str:
        return ""

    def cells(self) -> tuple[str, str, str]:
        build = self._build
        width = build.op("Shape", IDS, start=1, end=2)
        place = build.op("Mod", self._rows, width)
        return build.op("Sub", self._rows, place), place, width

    def starts(self) -> str:
        return self._build.op("Gather", self._places, self._build.number(0), axis=1)

    def _bias(self) -> str:
        import numpy as np

        build = self._build
        floats = build.op("Cast", MASK, to=1)
        absent = build.op("Sub", build.inline("one", np.array(1, np.float32)), floats)
        lowest = build.inline("lowest", np.array(np.finfo(np.float32).min))
        return build.op("Unsqueeze", build.op("Mul", absent, lowest), build.ints(1, 2))

    def result(self, rows: str, hidden: int) -> tuple[str, Shape]:
        build = self._build
        shape = build.op("Concat", build.op("Shape", IDS), build.ints(-1), axis=0)
        return build.op("Reshape", rows, shape), ("batch", "sequence", hidden)


class Packed:
    """One text after the other: only attention, which must not mix texts, sees rectangles.

    There are two of them, one for the longer texts, since what attention costs grows with the
    square of its rectangle's length. What says where tokens lie are inputs, `packing.packed_feeds`
    makes them.
    """

    def __init__(self, build: Builder) -> None:
        self._build = build
        for table in ("words", "types"):
            if table in build.data:
                build.input(_INDICES[table], ("tokens",))
        for name in (POSITIONS, BEFORE, WIDTH):
            build.input(name, ("tokens",))
        self._seats = [self._rectangle(""), self._rectangle(FAR)]
        build.input(SPLIT, (), bool)

    def _rectangle(self, end: str) -> Seats:
        build, texts, longest = self._build, f"texts{end}", f"longest{end}"
        return Seats(
            build.input(PLACES + end, (texts, longest)),
            build.input(BIAS + end, (texts, 1, 1, longest), float),
            RAGGED if end else build.input(RAGGED, (), bool),
        )

    def embedded(self, table: str) -> str:
        return self._build.op("Gather", self._build.weight(table), _INDICES[table])

    def rows(self, embedded: str) -> str:
        return embedded

    def seats(self) -> list[Seats]:
        return self._seats

    def split(self) -> str:
        return SPLIT

    def cells(self) -> tuple[str, str, str]:
        return BEFORE, POSITIONS, WIDTH

    def starts(self) -> str:
        return self._build.input(STARTS, ("texts",))

    def result(self, rows: str, hidden: int) -> tuple[str, Shape]:
        return rows, ("tokens", hidden)
