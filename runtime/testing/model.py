"""A model that is not there: what it was asked, and what it answers."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from runtime.errors import InvalidInput

Piece = str | Mapping[str, Any] | BaseException
"""A part of an answer: text, the provider's own object, or an error that is raised at this place."""

Answer = Iterable[Piece] | AsyncIterable[Piece]

Replies = str | BaseException | Sequence[Piece | Sequence[Piece]] | Callable[["Call"], Answer]
"""What a language model answers; see `FakeSession`."""


class Call(msgspec.Struct, frozen=True):
    """One question that a fake model was asked.

    Attributes:
        model: the name that the session was made with.
        texts: what was to be embedded, ranked or counted; empty when an answer was asked for.
        mean_pool: one vector per text.
        normalize: vectors of length 1.
        body: what was sent to the LLM server's API; empty for a local model.
        path: where it was sent, like `/api/generate`; empty for a local model.
        query: what the texts were to be ranked by; empty for all else.
        dimensions: what the vectors were to be cut to.
        questions: the texts were said to be such.
    """

    model: str
    texts: list[str] = []
    mean_pool: bool = True
    normalize: bool = True
    body: dict[str, Any] = {}
    path: str = ""
    query: str = ""
    dimensions: int | None = None
    questions: bool = False

    @property
    def prompt(self) -> str:
        """What a language model was asked: the prompt, or the last message; empty for embeddings."""
        messages = self.body.get("messages")
        said = messages[-1].get("content") if messages else self.body.get("prompt")
        return said if isinstance(said, str) else ""


class FakeModel:
    """Remembers its calls and has its answers ready.

    Args:
        replies: None: it embeds texts.
        kind: "embedding", "ranking", or empty for both.
        lengths: that its vectors may be cut to; None: to any.

    Attributes:
        calls: what it was asked so far.
    """

    def __init__(
        self,
        dimensions: int,
        max_tokens: int,
        replies: Replies | None,
        mode: str | None,
        kind: str = "",
        lengths: tuple[int, ...] | None = None,
    ) -> None:
        self.dimensions, self.max_tokens, self.mode = dimensions, max_tokens, mode
        self.kind, self._lengths = kind, lengths
        self.calls: list[Call] = []
        self.embeds = replies is None
        self._script, self._several = _script(replies)
        self._asked = 0

    def check(self, model: str, dimensions: int | None) -> None:
        """Whether its vectors may be cut to so many numbers.

        Raises:
            InvalidInput: they may not.
        """
        allowed = range(1, self.dimensions + 1) if self._lengths is None else self._lengths
        if dimensions not in (None, self.dimensions, *allowed):
            said = f"at most {self.dimensions}" if self._lengths is None else ""
            said = said or ", ".join(map(str, sorted({*allowed, self.dimensions})))
            raise InvalidInput(
                f"Model {model!r} has no vectors of {dimensions} numbers: its vectors may have {said}"
            )

    def answer(self, call: Call) -> Answer:
        """What it says to this call.

        Raises:
            InvalidInput: the script is over, or there is none.
        """
        self.calls.append(call)
        if callable(self._script):
            return self._script(call)
        if not self._several:
            return self._script[0]
        self._asked += 1
        if self._asked > len(self._script):
            raise InvalidInput(
                f"{call.model!r} was asked {self._asked} times, and its script has {len(self._script)} "
                f"answers: give FakeSession(replies=…) one more list"
            )
        return self._script[self._asked - 1]


def _script(replies: Replies | None) -> tuple[list[Sequence[Piece]] | Callable[[Call], Answer], bool]:
    """The answers, and whether there is one for each call instead of one for all."""
    if replies is None:
        return _unscripted, False
    if callable(replies):
        return replies, False
    if isinstance(replies, str | BaseException):
        return [[replies]], False
    if replies and all(isinstance(reply, list | tuple) for reply in replies):
        return [list(reply) for reply in replies if isinstance(reply, list | tuple)], True
    return [[_piece(reply) for reply in replies]], False


def _piece(value: object) -> Piece:
    if isinstance(value, str | Mapping | BaseException):
        return value
    raise TypeError(
        f"a reply is {type(value).__name__}: give the pieces of one answer (strings, mappings, exceptions), "
        "or a list of such lists, one for each call"
    )


def _unscripted(call: Call) -> Answer:
    raise InvalidInput(
        f"no answer is scripted for {call.model!r}, which is asked as a language model: give the test "
        f'sessions={{"{call.model}": FakeSession(replies=["…"])}}'
    )
