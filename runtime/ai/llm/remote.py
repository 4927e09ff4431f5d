"""One call to an LLM server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runtime.ai.llm import client
from runtime.ai.llm.chunk import Chunk, compact, failure_in, parse
from runtime.ai.llm.ollama import Ollama
from runtime.ai.llm.openai import OpenAI
from runtime.ai.llm.server import Server, checked_mode
from runtime.ai.llm.stream import Stream
from runtime.ai.llm.wire import Wire
from runtime.ai.timeout import Timeout
from runtime.errors import InvalidInput, UpstreamError

_WIRES: dict[str, type[Wire]] = {"ollama": Ollama, "openaicompatible": OpenAI}


async def ask(
    server: Server,
    model: str,
    prompt: str | Mapping[str, Any],
    fields: Mapping[str, Any],
    *,
    stream: bool,
    timeout: Timeout,
    mode: str | None,
) -> Chunk | Stream:
    """Send a prompt; `stream` decides, whatever the prompt or `fields` say of it."""
    wire = _WIRES[checked_mode(mode) if mode is not None else server.mode]()
    path, content = wire.request(prompt)
    body = _encoded({"model": model, **content, **fields, "stream": stream})
    upstream = await client.post(server, path, body, timeout)
    if stream:
        return Stream(upstream, wire)
    try:
        return _whole(await upstream.read_all(), upstream)
    finally:
        await upstream.aclose()


def _encoded(body: Mapping[str, Any]) -> bytes:
    try:
        return compact(body)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"the prompt has something that JSON cannot say: {error}") from None


def _whole(data: bytes, upstream: client.Upstream) -> Chunk:
    try:
        chunk = parse(data)
    except ValueError:
        shown = upstream.clean(data.decode(errors="replace"))
        raise UpstreamError(upstream.status, f"it is no JSON object: {shown}") from None
    failure = failure_in(chunk)
    if failure is not None:
        raise UpstreamError(upstream.status, upstream.clean(failure.body))
    return chunk
