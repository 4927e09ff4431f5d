"""Attention between the tokens of each text."""

from __future__ import annotations

from runtime.engine.models.graphs.builder import Builder
from runtime.engine.models.graphs.config import Encoder
from runtime.engine.models.graphs.shapes import Seats, Tokens


class Attention:
    """What all layers of an encoder share: where tokens are, and what is added to scores.

    Query, key and value of a token are one row. One look-up takes each head's part of it to
    where the products want it, [text, head, place, width], and one takes the result back: no
    value is split, transposed and gathered in turn. At 512 tokens that is what makes texts of
    any lengths cost no more than a rectangle.
    """

    def __init__(self, encoder: Encoder, build: Builder, tokens: Tokens) -> None:
        self._encoder, self._build = encoder, build
        first, *others = tokens.seats()
        self._first = _Rectangle(encoder, build, first)
        self._others = [_Rectangle(encoder, build, seats) for seats in others]
        self._split = tokens.split()
        self._back = self._backward(tokens)

    def mixed(self, joined: str) -> str:
        """Rows of what each token takes from the others, of rows of query, key and value."""
        build = self._build
        pieces = build.op("Reshape", joined, build.ints(-1, self._encoder.width))
        mixed = self._first.mixed(pieces)
        if not self._split:
            return self._rows(mixed)

        def all_of_them() -> str:
            others = [rectangle.mixed(pieces, general=True) for rectangle in self._others]
            return self._rows(build.op("Concat", mixed, *others, axis=0))

        return build.choice(self._split, all_of_them, lambda: self._rows(mixed))

    def _rows(self, mixed: str) -> str:
        build = self._build
        return build.op(
            "Reshape", build.op("Gather", mixed, self._back), build.ints(-1, self._encoder.hidden)
        )

    def _backward(self, tokens: Tokens) -> str:
        """[row, head]: where in a list of [text, head, place] it is."""
        build, heads = self._build, self._encoder.heads
        before, place, width = tokens.cells()
        start = build.op("Add", build.op("Mul", before, build.number(heads)), place)
        steps = build.op("Mul", build.range("steps", 0, heads, column=False), self._column(width))
        return build.op("Add", self._column(start), steps)

    def _column(self, values: str) -> str:
        return self._build.op("Unsqueeze", values, self._build.ints(1))


class _Rectangle:
    """Attention within texts that lie in a rectangle, as long as the longest of them."""

    def __init__(self, encoder: Encoder, build: Builder, seats: Seats) -> None:
        self._encoder, self._build = encoder, build
        self._places, self._ragged = seats.places, seats.ragged
        self._length = build.op("Shape", self._places, start=1, end=2)
        self._parts = self._forward()
        self._bias = self._relative(seats.bias)
        if encoder.family.places == "rotary":
            self._angles = [self._up_to_length(name) for name in ("cosines", "sines")]

    def mixed(self, pieces: str, *, general: bool = False) -> str:
        """[text, head, place] in one list: what each place takes, of the rows' pieces, one per head.

        Args:
            general: whether places have a token is not asked.
        """
        query, key, value = (self._build.op("Gather", pieces, part) for part in self._parts)
        if self._encoder.family.places == "rotary":
            query, key = self._turned(query), self._turned(key)
        mixed = self._product(query, key, value, general)
        return self._build.op("Reshape", mixed, self._build.ints(-1, self._encoder.width))

    def _product(self, query: str, key: str, value: str, general: bool) -> str:
        def plain(bias: str = "") -> str:
            build = self._build
            scores = build.op("MatMul", query, build.op("Transpose", key, perm=[0, 1, 3, 2]))
            if bias:
                scores = build.op("Add", scores, bias)
            return build.op("MatMul", build.op("Softmax", scores, axis=-1), value)

        if general or self._encoder.family.places == "relative":
            return plain(self._bias)
        # The whole of it is in the branches, so that scores are made, changed and used in one place.
        return self._build.choice(self._ragged, lambda: plain(self._bias), plain)

    def _forward(self) -> list[str]:
        """[text, head, place]: where in a list of all rows' pieces, one per head, a token's
        query is, where its key, where its value."""
        build, heads = self._build, self._encoder.heads
        start = build.op("Mul", build.op("Unsqueeze", self._places, build.ints(1)), build.number(3 * heads))
        return [build.op("Add", start, build.range(f"part_{part}", part * heads, heads)) for part in range(3)]

    def _relative(self, bias: str) -> str:
        """The bias, and what mpnet adds for how far apart two tokens are."""
        build = self._build
        if self._encoder.family.places != "relative":
            return bias
        length = build.op("Squeeze", self._length)
        places = build.op("Range", build.number(0), length, build.number(1))
        apart = build.op("Sub", places, build.op("Unsqueeze", places, build.ints(1)))
        table = build.weight("distances")
        middle = build.op("Div", build.op("Shape", table, start=1), build.ints(2))
        return build.op("Add", build.op("Gather", table, build.op("Add", apart, middle), axis=1), bias)

    def _up_to_length(self, name: str) -> str:
        zero = self._build.ints(0)
        return self._build.op("Slice", self._build.weight(name), zero, self._length, zero)

    def _turned(self, value: str) -> str:
        """Each half turned against the other by an angle that grows with the position."""
        build = self._build
        first, second = build.ops(2, "Split", value, axis=3, num_outputs=2)
        across = build.op("Concat", build.op("Neg", second), first, axis=3)
        cosines, sines = self._angles
        return build.op("Add", build.op("Mul", value, cosines), build.op("Mul", across, sines))
