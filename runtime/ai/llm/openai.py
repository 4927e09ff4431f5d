"""OpenAI's chat completions, as llama.cpp, Llamafile, vLLM and many others speak them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from runtime.ai.llm.chunk import Chunk
from runtime.ai.llm.sse import Event, Events
from runtime.ai.llm.wire import Wire, incomplete, read
from runtime.errors import UpstreamError


class OpenAI(Wire):
    """`/v1/chat/completions`; streams server-sent events up to `[DONE]`.

    Some servers leave `[DONE]` out: a `finish_reason` before the end of the stream will do.
    What follows a `finish_reason` (the usage) is still delivered.
    """

    def __init__(self) -> None:
        super().__init__()
        self._events = Events()
        self._reason = False

    def request(self, prompt: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        body = (
            {"messages": [{"role": "user", "content": prompt}]} if isinstance(prompt, str) else dict(prompt)
        )
        return "/v1/chat/completions", body

    def feed(self, data: bytes) -> Iterator[Chunk]:
        for event in self._events.feed(data):
            if self.finished:
                return
            if event.data == "[DONE]":
                self.finished = True
            else:
                yield self._read(event)

    def end(self) -> Iterator[Chunk]:
        if not (self.finished or self._reason):
            raise incomplete("`[DONE]` or a finish_reason")
        self.finished = True
        return iter(())

    def _read(self, event: Event) -> Chunk:
        chunk = read(event.data)
        if event.name == "error":
            raise UpstreamError(0, event.data)
        self._reason = self._reason or any(choice.get("finish_reason") for choice in _choices(chunk))
        return chunk

    def text(self, chunk: Chunk) -> str:
        for choice in _choices(chunk):
            piece = choice.get("delta") or choice.get("message")
            text = piece.get("content") if isinstance(piece, dict) else None
            return text if isinstance(text, str) else ""
        return ""


def _choices(chunk: Chunk) -> list[Chunk]:
    choices = chunk.get("choices")
    return [choice for choice in choices if isinstance(choice, Chunk)] if isinstance(choices, list) else []
