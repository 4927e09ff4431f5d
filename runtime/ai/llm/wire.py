"""What a mode must know about its API."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

from runtime.ai.llm.chunk import Chunk, failure_in, parse
from runtime.errors import IncompleteStream, UpstreamError


class Wire(ABC):
    """One call in one API's format.

    Attributes:
        finished: the closing event of the stream has been read.
    """

    def __init__(self) -> None:
        self.finished = False

    @abstractmethod
    def request(self, prompt: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Path and body that say this prompt."""

    @abstractmethod
    def feed(self, data: bytes) -> Iterator[Chunk]:
        """The objects that a piece of the stream completes, up to the closing one.

        Raises:
            UpstreamError: the stream reports an error, or holds no JSON.
        """

    @abstractmethod
    def end(self) -> Iterator[Chunk]:
        """The objects that the stream's end completes.

        Raises:
            IncompleteStream: the closing event is missing.
        """

    @abstractmethod
    def text(self, chunk: Chunk) -> str:
        """What a chunk adds to the answer's text."""


def read(data: bytes | str) -> Chunk:
    """An object of a stream.

    Raises:
        UpstreamError: it reports an error, or is no JSON object.
    """
    try:
        chunk = parse(data)
    except ValueError:
        shown = data if isinstance(data, str) else data.decode(errors="replace")
        raise UpstreamError(0, f"it sent something that is no JSON object: {shown}") from None
    failure = failure_in(chunk)
    if failure is not None:
        raise failure
    return chunk


def incomplete(missing: str) -> IncompleteStream:
    """The error for a stream that ended early."""
    return IncompleteStream(
        f"The LLM server ended its stream without {missing}: what came so far is not the whole answer"
    )
