"""OpenAI's chat completions, as llama.cpp, Llamafile, vLLM and many others speak them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from runtime.ai.llm.chunk import Chunk, failure_in, parse
from runtime.ai.llm.sse import Events
from runtime.ai.llm.wire import Wire, incomplete, read
from runtime.errors import UpstreamError


class OpenAI(Wire):
    """`/v1/chat/completions`; streams server-sent events up to `[DONE]`.

    Some servers leave `[DONE]` out: a `finish_reason` of each choice before the end of the stream will do.
    What follows a `finish_reason` (the usage) is still delivered.
    """

    def __init__(self) -> None:
        super().__init__()
        self._events = Events()
        self._reasons: dict[str, bool] = {}  # whether each choice has told why it ended

    def request(self, prompt: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        body = (
            {"messages": [{"role": "user", "content": prompt}]} if isinstance(prompt, str) else dict(prompt)
        )
        return "/v1/chat/completions", body

    def feed(self, data: bytes) -> Iterator[Chunk]:
        for event in self._events.feed(data):
            if self.finished:
                return
            if event.name == "error":
                raise _failure(event.data)
            if event.data == "[DONE]":
                self.finished = True
            elif event.data:  # an empty one keeps the connection open, and says nothing
                yield self._read(event.data)

    def end(self) -> Iterator[Chunk]:
        if not (self.finished or (self._reasons and all(self._reasons.values()))):
            raise incomplete("`[DONE]` or a finish_reason")
        self.finished = True
        return iter(())

    def _read(self, data: str) -> Chunk:
        chunk = read(data)
        for choice in _choices(chunk):
            index = str(choice.get("index", 0))
            self._reasons[index] = bool(choice.get("finish_reason")) or self._reasons.get(index, False)
        return chunk

    def text(self, chunk: Chunk) -> str:
        for choice in _choices(chunk):
            piece = choice.get("delta") or choice.get("message")
            text = piece.get("content") if isinstance(piece, dict) else None
            return text if isinstance(text, str) else ""
        return ""


def _failure(data: str) -> UpstreamError:
    """What an `event: error` says, in the API's form or in another."""
    try:
        failure = failure_in(parse(data))
    except ValueError:
        failure = None
    return failure or UpstreamError(0, data or "(no text)")


def _choices(chunk: Chunk) -> list[Chunk]:
    choices = chunk.get("choices")
    return [choice for choice in choices if isinstance(choice, Chunk)] if isinstance(choices, list) else []
