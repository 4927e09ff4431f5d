"""One call to an LLM server."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from runtime.ai.llm import client
from runtime.ai.llm.chunk import Chunk, compact, failure_in, parse
from runtime.ai.llm.ollama import Ollama
from runtime.ai.llm.openai import OpenAI
from runtime.ai.llm.server import Server, checked_mode
from runtime.ai.llm.stream import Stream
from runtime.ai.llm.wire import Wire
from runtime.ai.timeout import Clock, Timeout
from runtime.errors import InvalidInput, UpstreamError

if TYPE_CHECKING:
    from runtime.ai.llm.embeddings import Vectors

_WIRES: dict[str, type[Wire]] = {"ollama": Ollama, "openaicompatible": OpenAI}
_AT_ONCE = 4  # requests for the embeddings of one list
_OK = 200


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


async def embed(
    server: Server,
    model: str,
    texts: Sequence[str],
    fields: Mapping[str, Any],
    *,
    dimensions: int | None,
    timeout: Timeout,
    mode: str | None,
) -> Vectors:
    """The embeddings of some texts, as the server gives them.

    Many are asked for in several requests, a few of them at a time; `timeout.total` is for
    all of them, the other limits for each.
    """
    from runtime.ai.llm import embeddings  # imports numpy, which nothing else here needs

    mode = checked_mode(mode) if mode is not None else server.mode
    turns = asyncio.Semaphore(_AT_ONCE)

    async def ask_for(part: Sequence[str]) -> Vectors:
        async with turns:
            path, content = embeddings.request(mode, part)
            body = _encoded({"model": model, **content, **fields})
            upstream = await client.post(server, path, body, timeout)
            try:
                return _vectors(await upstream.read_all(), upstream, mode, len(part))
            finally:
                await upstream.aclose()

    every = _all([ask_for(part) for part in embeddings.parts(texts)])
    answers = await Clock(timeout, server.url).bounded(every)
    try:
        return embeddings.joined(answers, dimensions)
    except ValueError as error:
        raise UpstreamError(_OK, str(error)) from None


async def _all(calls: Sequence[Coroutine[None, None, Vectors]]) -> list[Vectors]:
    """What all of them give; the first that fails ends the others."""
    tasks = [asyncio.create_task(call) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)  # their connections are closed now, not some time later


def _vectors(data: bytes, upstream: client.Upstream, mode: str, texts: int) -> Vectors:
    from runtime.ai.llm import embeddings

    try:
        return embeddings.read(mode, data, texts)
    except ValueError as error:
        raise UpstreamError(upstream.status, upstream.clean(str(error))) from None


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
