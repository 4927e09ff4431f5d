"""Ollama's own API: https://docs.ollama.com/api."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from runtime.ai.llm.chunk import Chunk, is_object
from runtime.ai.llm.ndjson import Lines
from runtime.ai.llm.wire import Wire, incomplete, read


class Ollama(Wire):
    """`/api/generate` for a text, `/api/chat` for a body with `messages`; streams NDJSON."""

    def __init__(self) -> None:
        super().__init__()
        self._lines = Lines()

    def request(self, prompt: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        if isinstance(prompt, str):
            return "/api/generate", {"prompt": prompt}
        return ("/api/chat" if "messages" in prompt else "/api/generate"), dict(prompt)

    def feed(self, data: bytes) -> Iterator[Chunk]:
        for line in self._lines.feed(data):
            if not self.finished:
                yield self._read(line)

    def end(self) -> Iterator[Chunk]:
        rest = self._lines.end()
        if not self.finished and is_object(rest):
            yield self._read(rest)
        if not self.finished:
            raise incomplete('`"done": true`')

    def _read(self, line: bytes) -> Chunk:
        chunk = read(line)
        self.finished = chunk.get("done") is True
        return chunk

    def text(self, chunk: Chunk) -> str:
        message = chunk.get("message")
        text = message.get("content") if isinstance(message, dict) else chunk.get("response")
        return text if isinstance(text, str) else ""
